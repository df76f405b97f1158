"""The keys of a running service: new data keys, new master keys, and what was sealed under former ones.

Nothing is locked for it. New values are sealed under the newest key at once; older ones are gone through page by page,
and each page is stored together with how far that has got, so that any process goes on where another one stopped.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import structlog

from reward_server.clock import Clock
from reward_server.errors import ClientNotFound, KeyNotOpened
from reward_server.metrics import Sealed
from reward_server.sealing import ClientSealer, Counted, MasterKeys, SealError, Vault, key_of, uncounted
from reward_server.store import (
    AuditEntry,
    Resealed,
    Rotation,
    SealedRow,
    Store,
    StoreError,
    WrappedKey,
)
from reward_server.store.rotating import encode_place
from reward_server.store.tables import SEALED_OF_CLIENTS, SEALED_OF_SERVICE

PAGE = 100
"""Rows that are sealed again in one write: about two milliseconds."""
REST_SECONDS = 0.05
"""Between two such writes: orders come first. Some 2,000 values a second."""
LEARN_SECONDS = 10.0
"""How often a process that isn't alone looks for keys that others have made."""
SETTLE_SECONDS = 3 * LEARN_SECONDS
"""How long it takes until no other process seals under the former key any more."""

SERVICE = ""
"""Whose keys seal what belongs to no client."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The data keys of one client."""

    client_id: str
    key_id: bytes
    """The one that seals."""
    count: int
    master_key_ids: tuple[str, ...]
    """Those that wrap them."""
    rotation: Rotation | None


class Keyring:
    """Rotates keys."""

    def __init__(self, store: Store, vault: Vault, *, clock: Clock, counted: Counted = uncounted) -> None:
        self._store = store
        self._counted = counted
        self._vault = vault
        self._clock = clock
        self._shared = store.lease_seconds is not None
        self._wake = asyncio.Event()
        self._seen: dict[tuple[str, bytes], float] = {}
        """Since when this process has known of each rotation that goes on, monotonic, by client and key."""
        self._told: set[tuple[str, bytes]] = set()
        """Rotations of which was said that they are left to others."""
        self._rotating: set[asyncio.Task[list[KeyRing]]] = set()
        self._offered: MasterKeys | None = None
        """Changed master keys that wait for the store to tell whether they open everything."""
        self._refused: MasterKeys | None = None
        """Those of them of which was said why they can't be used yet."""
        self._taking = asyncio.Lock()
        self._looked_at = clock.monotonic()
        """When other processes' keys were looked for, monotonic."""

    @property
    def master_key_id(self) -> str:
        """The master key that wraps new data keys."""
        return self._vault.master_keys.current

    async def check(self) -> None:
        """Looks whether everybody's newest key opens. Raises SealError if one doesn't: what is bought for that client
        could never be sealed. Former ones that don't open are logged.
        """
        keys = await self._store.all_data_keys()
        newest = {key.client_id: key for key in keys}
        for key in keys:
            try:
                self._vault.master_keys.unwrap(key)
            except SealError as error:
                if newest[key.client_id] is key:
                    raise
                log.error("what a former key sealed doesn't open", why=str(error))

    async def rings(self, client_id: str = SERVICE) -> list[KeyRing]:
        """The keys of everybody, or of one client."""
        rotations = {rotation.client_id: rotation for rotation in await self._store.rotations()}
        rings: dict[str, list[WrappedKey]] = {}
        for key in await self._store.all_data_keys():
            rings.setdefault(key.client_id, []).append(key)
        return [
            KeyRing(
                client_id=name,
                key_id=keys[-1].key_id,
                count=len(keys),
                master_key_ids=tuple(dict.fromkeys(key.master_key_id for key in keys)),
                rotation=rotations.get(name),
            )
            for name, keys in sorted(rings.items())
            if client_id in (SERVICE, name)
        ]

    async def rotate(self, client_id: str, *, only_wrap: bool, by: str, reason: str) -> list[KeyRing]:
        """Makes new data keys, and wraps all by the current master key; for one client, or for "" everybody.

        Raises ClientNotFound, or KeyNotOpened before anything was changed. Cancelling the caller cancels nothing that
        was begun: with many clients it may take longer than a caller waits.
        """
        work = asyncio.create_task(self._rotate(client_id, only_wrap=only_wrap, by=by, reason=reason))
        self._rotating.add(work)
        work.add_done_callback(self._rotating.discard)
        return await asyncio.shield(work)

    async def _rotate(self, client_id: str, *, only_wrap: bool, by: str, reason: str) -> list[KeyRing]:
        keys = [key for key in await self._store.all_data_keys() if client_id in (SERVICE, key.client_id)]
        if not keys:
            raise ClientNotFound(client_id)
        master = self._vault.master_keys
        newest = {key.client_id: key for key in keys}
        opened: list[tuple[WrappedKey, bytes]] = []
        for key in keys:
            try:
                opened.append((key, master.unwrap(key)))
            except SealError as error:
                if newest[key.client_id] is key:
                    raise KeyNotOpened(str(error)) from None
                # As at a start: what it sealed is out of reach whatever is done, and nobody else may suffer for it.
                log.error("what a former key sealed doesn't open", why=str(error))
        for name in dict.fromkeys(key.client_id for key in keys):
            at = self._clock.now_ms()
            what = "wrapped by the current master key" if only_wrap else "a new data key"
            entry = AuditEntry(at=at, by=by, what="rotate_keys", reason=f"{what}: {reason}", client_id=name)
            if only_wrap:
                await self._store.record([entry])
                continue
            key = master.new_key(name)
            first = (SEALED_OF_CLIENTS if name else SEALED_OF_SERVICE)[0].name
            rotation = Rotation(
                client_id=name, key_id=key.key_id, table=first, after=b"", resealed=0, unopened=0, began_at=at
            )
            await self._store.rotate(key, rotation, entry)
            await self._vault.learn(name)
            log.info("a client has a new data key", client=name or "the service", key=key.key_id.hex())
        # After the records: nothing is done that couldn't be written down.
        for key, data_key in opened:
            if key.master_key_id != master.current:
                # False: another process did the same.
                await self._store.rewrap(key, master.wrap(key.key_id, key.client_id, data_key))
        self._wake.set()
        return await self.rings(client_id)

    async def take(self, master_keys: MasterKeys) -> None:
        """Takes over changed master keys, unless a key that was opened by the former ones couldn't be any more.

        While the store can't tell, they wait; `run` tries again.
        """
        self._offered = master_keys
        await self.take_offered()

    async def take_offered(self) -> None:
        """Takes over the master keys that wait, if nothing stands against them any more."""
        async with self._taking:
            master_keys = self._offered
            if master_keys is None:
                return
            try:
                stored = await self._store.all_data_keys()
            except StoreError as error:
                log.warning("the changed master keys wait for the store", why=str(error))
                return
            # Those that are refused stay offered: they are fine once nothing needs the missing key any more.
            if self._offered is master_keys and self._use(master_keys, stored):
                self._offered = None
                # What couldn't be opened may be now.
                with contextlib.suppress(StoreError):
                    await self._vault.learn_all()

    def _use(self, master_keys: MasterKeys, stored: Iterable[WrappedKey]) -> bool:
        former = self._vault.master_keys
        for key in stored:
            try:
                master_keys.unwrap(key)
            except SealError as error:
                with contextlib.suppress(SealError):
                    former.unwrap(key)
                    mend = "put it back, and take it out after `rewardctl keys rotate`"
                    if self._refused is not master_keys:
                        self._refused = master_keys
                        log.error("the changed master keys aren't used", why=str(error), mend=mend)
                    return False
        self._vault.use(master_keys)
        if master_keys.current != former.current:
            log.info("another master key wraps from now on", named=master_keys.current)
        return True

    async def run(self) -> None:
        """Learns of other processes' keys and seals older values again, until cancelled."""
        while True:
            try:
                await self._look()
                await self.reseal()
            except StoreError as error:
                log.warning("sealing again waits for the store", why=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEARN_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        await self.take_offered()
        if self._shared:
            await self._vault.learn_all()

    async def reseal(self) -> None:
        """Goes through everything that waits to be sealed under a newer key."""
        left: set[tuple[str, bytes]] = set()
        while due := [one for one in await self._due() if _named(one) not in left]:
            for rotation in due:
                sealer = await self._sealer(rotation)
                if sealer is None:
                    left.add(_named(rotation))
                    continue
                await self._one_page(sealer, rotation)
                await asyncio.sleep(REST_SECONDS)
                if self._clock.monotonic() >= self._looked_at + LEARN_SECONDS:
                    # However much there is to do: nobody seals under a former key for longer than that.
                    await self._look()

    async def _due(self) -> list[Rotation]:
        """The rotations that go on, and whose key all processes seal under by now.

        How long it is known here counts, not when it began by the clock of the machine that began it.
        """
        going = [rotation for rotation in await self._store.rotations() if not rotation.ended_at]
        now = self._clock.monotonic()
        self._seen = {_named(rotation): self._seen.get(_named(rotation), now) for rotation in going}
        settles = SETTLE_SECONDS if self._shared else 0.0
        return [rotation for rotation in going if now >= self._seen[_named(rotation)] + settles]

    async def _one_page(self, sealer: ClientSealer, rotation: Rotation) -> None:
        if not rotation.after:
            # What was sealed here under the former key was handed to the store before: this write comes after it.
            await self._store.reseal(rotation, rotation, [])
        rows = await self._store.sealed_rows(rotation, PAGE)
        resealed, unopened = self._sealed_again(sealer, rotation, rows)
        now = replace(
            rotation,
            after=encode_place(rows[-1].place) if rows else rotation.after,
            resealed=rotation.resealed + len(resealed),
            unopened=rotation.unopened + unopened,
        )
        if len(rows) < PAGE:
            now = self._next_table(now)
        # False: another process did this page, or the key changed again; the next round sees how it stands.
        if not await self._store.reseal(rotation, now, resealed):
            return
        self._counted(Sealed.RESEALED, rotation.table.removesuffix("s"), times=len(resealed))
        if now.ended_at:
            log.info(
                "everything is sealed under the newest key",
                client=now.client_id or "the service",
                key=now.key_id.hex(),
                resealed=now.resealed,
                unopened=now.unopened,
            )

    async def _sealer(self, rotation: Rotation) -> ClientSealer | None:
        """Who seals under the rotation's key. None: not here; it doesn't open, or a newer one came."""
        try:
            sealer = await self._vault.client(rotation.client_id) if rotation.client_id else self._vault.system
            if sealer.key_id != rotation.key_id:
                await self._vault.learn(rotation.client_id)
            if sealer.key_id == rotation.key_id:
                return sealer
            why = "its key isn't in use here"
        except SealError as error:
            why = str(error)
        if _named(rotation) not in self._told:
            self._told.add(_named(rotation))
            log.warning("sealing again is left to others", client=rotation.client_id or "the service", why=why)
        return None

    def _sealed_again(
        self, sealer: ClientSealer, rotation: Rotation, rows: Iterable[SealedRow]
    ) -> tuple[list[Resealed], int]:
        resealed, unopened = [], 0
        for row in rows:
            if key_of(row.sealed) == sealer.key_id:
                continue
            bound_to = _bound_to(rotation.table, row)
            try:
                value = sealer.open(row.sealed, *bound_to)
            except SealError as error:
                unopened += 1
                log.error("a sealed value doesn't open", table=rotation.table, place=str(row.place), why=str(error))
                continue
            resealed.append(Resealed(row, sealer.seal(value, *bound_to)))
        return resealed, unopened

    def _next_table(self, rotation: Rotation) -> Rotation:
        names = [table.name for table in (SEALED_OF_CLIENTS if rotation.client_id else SEALED_OF_SERVICE)]
        following = names[names.index(rotation.table) + 1 :]
        if following:
            return replace(rotation, table=following[0], after=b"")
        return replace(rotation, ended_at=max(1, self._clock.now_ms()))


def _named(rotation: Rotation) -> tuple[str, bytes]:
    return rotation.client_id, rotation.key_id


def _bound_to(table: str, row: SealedRow) -> tuple[str, ...]:
    """What a value was bound to when it was sealed: see whoever seals it."""
    match table, row.place, row.about:
        case "cards", (order_id, card_no), _:
            return ("card", str(order_id), str(card_no))
        case "answers", (order_id, _), (number,):
            return ("answer", str(order_id), number)
        case "callbacks", (account, bytes(digest)), _:
            return ("callback", str(account), digest.hex())
        case "tokens", (account,), _:
            return ("token", str(account))
        case "secrets", (name,), _:
            return ("secret", str(name))
    raise ValueError(f"nobody says what the values in {table} are bound to")

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
from reward_server.sealing import ClientSealer, MasterKeys, SealError, Vault, key_of
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

    def __init__(self, store: Store, vault: Vault, *, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._shared = store.lease_seconds is not None
        self._wake = asyncio.Event()

    @property
    def master_key_id(self) -> str:
        """The master key that wraps new data keys."""
        return self._vault.master_keys.current

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

        Raises ClientNotFound, or KeyNotOpened before anything was changed.
        """
        keys = [key for key in await self._store.all_data_keys() if client_id in (SERVICE, key.client_id)]
        if not keys:
            raise ClientNotFound(client_id)
        master = self._vault.master_keys
        try:
            opened = [(key, master.unwrap(key)) for key in keys]
        except SealError as error:
            raise KeyNotOpened(str(error)) from None
        for key, data_key in opened:
            if key.master_key_id != master.current:
                # False: another process did the same.
                await self._store.rewrap(key, master.wrap(key.key_id, key.client_id, data_key))
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
        self._wake.set()
        return await self.rings(client_id)

    async def take(self, master_keys: MasterKeys) -> None:
        """Takes over changed master keys, unless a key that was opened by the former ones couldn't be any more."""
        former = self._vault.master_keys
        try:
            stored = await self._store.all_data_keys()
        except StoreError as error:
            log.error("the changed master keys aren't used", why=str(error))
            return
        for key in stored:
            try:
                master_keys.unwrap(key)
            except SealError as error:
                with contextlib.suppress(SealError):
                    former.unwrap(key)
                    mend = "put it back, and take it out after `rewardctl keys rotate`"
                    log.error("the changed master keys aren't used", why=str(error), mend=mend)
                    return
        self._vault.use(master_keys)
        if master_keys.current != former.current:
            log.info("another master key wraps from now on", master_key=master_keys.current)

    async def run(self) -> None:
        """Learns of other processes' keys and seals older values again, until cancelled."""
        while True:
            try:
                if self._shared:
                    await self._vault.learn_all()
                await self.reseal()
            except StoreError as error:
                log.warning("sealing again waits for the store", why=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEARN_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def reseal(self) -> None:
        """Goes through everything that waits to be sealed under a newer key."""
        while due := [rotation for rotation in await self._store.rotations() if self._is_due(rotation)]:
            for rotation in due:
                await self._one_page(rotation)
                await asyncio.sleep(REST_SECONDS)

    def _is_due(self, rotation: Rotation) -> bool:
        settles = SETTLE_SECONDS * 1000 if self._shared else 0
        return not rotation.ended_at and self._clock.now_ms() >= rotation.began_at + settles

    async def _one_page(self, rotation: Rotation) -> None:
        sealer = await self._sealer(rotation)
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
        if await self._store.reseal(rotation, now, resealed) and now.ended_at:
            log.info(
                "everything is sealed under the newest key",
                client=now.client_id or "the service",
                key=now.key_id.hex(),
                resealed=now.resealed,
                unopened=now.unopened,
            )

    async def _sealer(self, rotation: Rotation) -> ClientSealer:
        sealer = await self._vault.client(rotation.client_id) if rotation.client_id else self._vault.system
        if sealer.key_id != rotation.key_id:
            await self._vault.learn(rotation.client_id)
        return sealer

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

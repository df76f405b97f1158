"""Keys of several processes on one store, which know different master keys and hear of one another late."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from reward_server import keyring
from reward_server.clock import Clock
from reward_server.errors import KeyNotOpened
from reward_server.keyring import SETTLE_SECONDS, Keyring
from reward_server.sealing import MasterKeys, SealError, Vault, key_of
from reward_server.store import CallbackQuery, CallbackRecord, SealedToken, Store, StoreUnavailable
from reward_server.store.open import open_store
from reward_server.store.sqlite import open_sqlite

OLD, NEW = bytes(32), b"n" * 32
ONLY_OLD = MasterKeys({"old": OLD})
BOTH = MasterKeys({"new": NEW, "old": OLD})


class HandClock(Clock):
    """Two clocks that are set by hand."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_800_000_000_000, 100.0

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.passed


class SharedStore:
    """A store as others use it, too; it may be out of reach."""

    lease_seconds = 5.0

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StoreUnavailable("the database doesn't answer")
        return getattr(self._store, name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Any]:
    """One that several processes share."""
    real = await open_store(f"sqlite:///{tmp_path}/reward.db")
    yield SharedStore(real)
    await real.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "REST_SECONDS", 0.0)


async def process(store: Any, master_keys: MasterKeys, clock: Clock) -> tuple[Vault, Keyring]:
    """What a process on the store has."""
    vault = await Vault.unlock(store, master_keys)
    return vault, Keyring(store, vault, clock=clock)


async def keep_token(store: Any, vault: Vault, account: str) -> None:
    """Something that the service seals for itself."""
    sealed = vault.system.seal(b"token", "token", account)
    await store.save_token(SealedToken(account, sealed, 1, 1))


async def keys_of_tokens(store: Any, *accounts: str) -> set[bytes]:
    """Under which keys they are sealed."""
    return {key_of((await store.token(account)).sealed) for account in accounts}


async def test_what_is_still_being_written_under_the_former_key_is_not_passed_over(tmp_path: Path) -> None:
    """In one process alone nothing settles: the first page is read once that is on disk."""
    permits, committing = asyncio.Semaphore(99), asyncio.Event()

    async def commit(now: Callable[[], None]) -> None:
        committing.set()
        await permits.acquire()
        now()

    store = open_sqlite(tmp_path / "reward.db", commit=commit)
    vault, ring = await process(store, BOTH, HandClock())
    former = vault.system.key_id
    while not permits.locked():
        await permits.acquire()
    committing.clear()
    rotating = asyncio.create_task(ring.rotate("", only_wrap=False, by="operator", reason="why"))
    await committing.wait()
    digest = bytes(32)
    sealed = vault.system.seal(b"a callback", "callback", "kss_a", digest.hex())
    late = asyncio.create_task(store.keep_callback(CallbackRecord("kss_a", "N-1", "", digest, 1, sealed)))
    await asyncio.sleep(0)
    permits.release()
    await rotating
    assert vault.system.key_id != former
    resealing = asyncio.create_task(ring.reseal())
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(99):
        permits.release()
    await asyncio.gather(late, resealing)
    [kept] = await store.callbacks(CallbackQuery(account="kss_a"))
    assert key_of(kept.sealed) == vault.system.key_id
    await store.close()


async def test_who_lacks_the_new_master_key_leaves_the_work_to_others(store: Any) -> None:
    """It neither seals anything back under the former data key nor calls what it can't open lost; it goes on sealing as
    before, and others seal that again.
    """
    clock = HandClock()
    behind, its_ring = await process(store, ONLY_OLD, clock)
    vault, ring = await process(store, BOTH, clock)
    await keep_token(store, behind, "a")
    former = behind.system.key_id
    await ring.rotate("", only_wrap=False, by="operator", reason="why")
    await keep_token(store, vault, "b")
    with capture_logs() as logged:
        for _ in range(2):
            await its_ring.reseal()
            await ring.reseal()
            clock.passed += SETTLE_SECONDS
            await its_ring.reseal()
            assert await keys_of_tokens(store, "a") == {former}
            [rotation] = await store.rotations()
            assert (rotation.table, rotation.after, rotation.unopened, rotation.ended_at) == ("callbacks", b"", 0, 0)
            clock.passed -= SETTLE_SECONDS
    assert [entry["event"] for entry in logged].count("sealing again is left to others") == 1
    clock.passed += SETTLE_SECONDS
    await ring.reseal()
    assert await keys_of_tokens(store, "a", "b") == {vault.system.key_id}
    [rotation] = await store.rotations()
    assert (rotation.unopened, bool(rotation.ended_at)) == (0, True)


async def test_one_client_whose_key_does_not_open_keeps_nobody_else_waiting(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values stay as they are; everybody else's are sealed again, and the work goes on for those who come later."""
    monkeypatch.setattr(keyring, "SETTLE_SECONDS", 0.0)
    vault, ring = await process(store, BOTH, HandClock())
    await keep_token(store, vault, "a")
    await vault.client("shop")
    await ring.rotate("", only_wrap=False, by="operator", reason="why")
    newest = (await store.data_keys("shop"))[-1]
    assert await store.rewrap(newest, replace(newest, wrapped=b"damaged"))
    restarted, its_ring = await process(store, BOTH, HandClock())
    with pytest.raises(SealError, match="of client 'shop'"):
        await its_ring.check()
    await its_ring.reseal()
    ended = {rotation.client_id: bool(rotation.ended_at) for rotation in await store.rotations()}
    assert ended == {"": True, "shop": False}
    assert await keys_of_tokens(store, "a") == {restarted.system.key_id}


async def test_a_former_key_that_does_not_open_keeps_nothing_from_starting(store: Any) -> None:
    """Only what it sealed is out of reach."""
    vault, ring = await process(store, BOTH, HandClock())
    await vault.client("shop")
    former = (await store.data_keys("shop"))[-1]
    await ring.rotate("shop", only_wrap=False, by="operator", reason="why")
    assert await store.rewrap(former, replace(former, wrapped=b"damaged"))
    _, its_ring = await process(store, BOTH, HandClock())
    await its_ring.check()


async def test_nothing_is_rotated_for_whom_a_key_does_not_open(store: Any) -> None:
    """Nor for the others who were to be rotated with it."""
    vault, ring = await process(store, BOTH, HandClock())
    await vault.client("shop")
    key = (await store.data_keys("shop"))[-1]
    assert await store.rewrap(key, replace(key, wrapped=b"damaged"))
    before = await store.all_data_keys()
    for client_id in ("shop", ""):
        for only_wrap in (True, False):
            with pytest.raises(KeyNotOpened, match="shop"):
                await ring.rotate(client_id, only_wrap=only_wrap, by="operator", reason="why")
    assert await store.all_data_keys() == before
    assert await store.audit(0, 9) == []


async def test_what_a_missing_master_key_kept_shut_opens_once_it_is_put_back(store: Any) -> None:
    """Without a restart, and whether or not anything else is read in between."""
    behind, _ = await process(store, ONLY_OLD, HandClock())
    shop = await behind.client("shop")
    sealed = shop.seal(b"paid", "secret", "of a card")
    vault, ring = await process(store, BOTH, HandClock())
    await ring.rotate("", only_wrap=False, by="operator", reason="why")
    for key in await store.data_keys("shop"):
        if key.key_id == shop.key_id:
            assert await store.rewrap(key, ONLY_OLD.wrap(key.key_id, "shop", BOTH.unwrap(key)))
    vault, ring = await process(store, MasterKeys({"new": NEW}), HandClock())
    restarted = await vault.client("shop")
    with pytest.raises(SealError, match="needs master key 'old'"):
        restarted.open(sealed, "secret", "of a card")
    await ring.take(BOTH)
    assert restarted.open(sealed, "secret", "of a card") == b"paid"


async def test_a_caller_that_gives_up_leaves_no_half_of_a_rotation(store: Any) -> None:
    """Everybody has a new key a moment later."""
    vault, ring = await process(store, BOTH, HandClock())
    clients = [f"shop-{n}" for n in range(20)]
    for client_id in clients:
        await vault.client(client_id)
    calling = asyncio.create_task(ring.rotate("", only_wrap=False, by="operator", reason="why"))
    while len(await store.rotations()) < 3:  # noqa: ASYNC110 - nor is anybody in between
        await asyncio.sleep(0.001)
    calling.cancel()
    while len(await store.rotations()) < len(clients) + 1:  # noqa: ASYNC110 - the caller isn't told any more
        await asyncio.sleep(0.001)
    assert {ring_.count for ring_ in await ring.rings()} == {2}


async def test_changed_master_keys_wait_until_the_store_answers(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to touch the file again."""
    monkeypatch.setattr(keyring, "LEARN_SECONDS", 0.01)
    vault, ring = await process(store, ONLY_OLD, HandClock())
    working = asyncio.create_task(ring.run())
    store.away = True
    await ring.take(BOTH)
    assert vault.master_keys is ONLY_OLD
    store.away = False
    while vault.master_keys is ONLY_OLD:  # noqa: ASYNC110 - taking them over has no event of its own
        await asyncio.sleep(0.01)
    assert ring.master_key_id == "new"
    working.cancel()


async def test_a_rotation_waits_until_everybody_knows_its_key(store: Any) -> None:
    """By how long it is known here, whatever the wall clocks say: one that runs ahead or back hurries and delays
    nothing.
    """
    clock = HandClock()
    vault, ring = await process(store, BOTH, clock)
    await keep_token(store, vault, "a")
    former = vault.system.key_id
    await ring.rotate("", only_wrap=False, by="operator", reason="why")
    await ring.reseal()
    clock.wall += 10**12
    await ring.reseal()
    assert await keys_of_tokens(store, "a") == {former}
    clock.wall -= 2 * 10**12
    clock.passed += SETTLE_SECONDS
    await ring.reseal()
    assert await keys_of_tokens(store, "a") == {vault.system.key_id} != {former}
    [rotation] = await store.rotations()
    assert rotation.ended_at


async def test_a_lost_former_key_keeps_nobody_from_rotating(store: Any) -> None:
    """What it sealed is out of reach whatever is done; the service's own key and the others go on."""
    vault, ring = await process(store, BOTH, HandClock())
    for client_id in ("shop", "other"):
        await vault.client(client_id)
    [former] = await store.data_keys("shop")
    await ring.rotate("shop", only_wrap=False, by="operator", reason="yearly")
    assert await store.rewrap(former, replace(former, wrapped=b"damaged"))
    _, ring = await process(store, BOTH, HandClock())
    await ring.check()
    with capture_logs() as logs:
        await ring.rotate("", only_wrap=False, by="operator", reason="yearly")
    assert [one.count for one in await ring.rings()] == [2, 2, 3]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "what a former key sealed doesn't open",
        "a sealed value doesn't open",
    ][:1]


async def test_master_keys_that_were_refused_are_taken_once_nothing_needs_the_missing_one(store: Any) -> None:
    """The operator did what was said, by way of another process; else a new client's key would be lost."""
    first_vault, first = await process(store, ONLY_OLD, HandClock())
    await first_vault.client("shop")
    _, second = await process(store, BOTH, HandClock())
    with capture_logs() as logs:
        await first.take(MasterKeys({"new": NEW}))
        await first.take_offered()
    assert [entry["event"] for entry in logs] == ["the changed master keys aren't used"], "once is enough"
    await second.rotate("", only_wrap=True, by="operator", reason="a new master key")
    await first.take_offered()
    assert first.master_key_id == "new"


async def test_others_keys_are_learned_also_while_there_is_much_to_seal_again(store: Any) -> None:
    """A process that is busy with it seals under a key of another process as soon as one that isn't."""
    clock = HandClock()
    vault, ring = await process(store, BOTH, clock)
    for n in range(3):
        await keep_token(store, vault, f"kss_{n}")
    await ring.rotate("", only_wrap=False, by="operator", reason="yearly")
    sealer = await vault.client("shop")
    other_vault, other = await process(store, BOTH, clock)
    await other_vault.client("shop")
    await ring.reseal()
    await other.rotate("shop", only_wrap=False, by="operator", reason="leaked")
    clock.passed += SETTLE_SECONDS
    learned = sealer.key_id
    await ring.reseal()
    assert sealer.key_id != learned

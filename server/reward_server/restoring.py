"""Makes a store that was restored from a backup safe to start.

What happened after the backup is unknown to it: purchases were made that it doesn't know of, some of what it takes for
unsent was sent, and clients hold resume tokens that point into a log that never was. So nothing is bought until
operators say so, account by account; what may have been sent after all is asked about before anything else; and the log
begins another epoch.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reward_server.domain.ids import IdSource
from reward_server.domain.moves import intend
from reward_server.domain.order import Order, PurchaseState
from reward_server.store import AuditEntry, Change, Hold, OpenPurchase, Store, StoreRefused

BY = "reward-server restored"
REASON = "restored from a backup: compare with the supplier what was bought since, then resume"

PAGE = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done."""

    paused: tuple[str, ...]
    """Accounts."""
    doubted: int
    """Purchases that will be asked about."""


async def restore(store: Store, accounts: Iterable[str]) -> Restored:
    """Pauses the accounts, puts in doubt what may have been sent since the backup, and begins a new epoch.

    Raises StoreRefused when others work on the store. One that was interrupted is simply run again.
    """
    await store.join(IdSource(_now_ms)())
    await _refuse_company(store)
    paused = await _pause(store, accounts)
    doubted, after = 0, ""
    while page := await store.adopt(after, PAGE, thorough=True):
        for found in page:
            doubted += await _doubt(store, found)
        after = page[-1].number
        await _refuse_company(store)
    await store.new_epoch()
    return Restored(paused, doubted)


async def _refuse_company(store: Store) -> None:
    lease = await store.renew()
    if lease.replicas > 1 or not lease.held:
        raise StoreRefused(
            "a server works on this store, or did when the backup was made: stop it; after at most"
            f" {store.lease_seconds or 0:.0f} s without one, try again"
        )


async def _pause(store: Store, accounts: Iterable[str]) -> tuple[str, ...]:
    paused_before = {hold.account: hold for hold in await store.holds()}
    paused = []
    for account in accounts:
        former = paused_before.get(account)
        if former is None or former.by != BY:
            reason = REASON if former is None else f"{REASON} ({former.by} had paused it before: {former.reason})"
            at = _now_ms()
            entry = AuditEntry(at=at, by=BY, what="pause", reason=reason, account=account)
            await store.hold(Hold(account, at, BY, reason), entry)
        paused.append(account)
    return tuple(paused)


async def _doubt(store: Store, found: OpenPurchase) -> bool:
    """Whether the purchase counts as one that may have been sent until this moment. It is looked for at the start."""
    while True:
        order = await store.order(found.client_id, found.order_id)
        doubted = None if order is None else _in_doubt(order, found.number)
        if doubted is None:
            return False
        if await store.save(Change(order=doubted, visible=False)):
            return True


def _in_doubt(order: Order, number: str) -> Order | None:
    purchase = order.purchase(number)
    if purchase.state is PurchaseState.WAITING:
        # As if it were on its way when a process dies: the start finds its sender lost.
        since = purchase.updated_at or order.created_at
        return intend(order, number, owner="", at=_now_ms(), waited_since=since, waited_for="a restore from a backup")
    if purchase.state is PurchaseState.UNKNOWN and purchase.written_until:
        # It may have been sent once more since.
        return replace(order.with_purchase(replace(purchase, written_until=0)), revision=order.revision + 1)
    return None


def _now_ms() -> int:
    return int(time.time() * 1000)

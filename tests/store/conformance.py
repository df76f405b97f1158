"""What every store must do. An engine's tests subclass these and say how to open a fresh store."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reward_adapters.money import Money
from reward_server.domain.order import (
    CardPrint,
    Order,
    OrderState,
    PurchaseRecord,
    PurchaseState,
    ReviewItem,
    ReviewReason,
    Source,
)
from reward_server.errors import SpendLimitReached, TooManyOrders
from reward_server.store import (
    AuditEntry,
    CallbackPlace,
    CallbackQuery,
    CallbackRecord,
    Change,
    Erased,
    Hold,
    KeptAnswer,
    Oldest,
    OpenPurchase,
    OrderQuery,
    PurchaseKey,
    Resealed,
    ReviewPlace,
    Rotation,
    SealedCard,
    SealedRow,
    SealedToken,
    SnapshotQuery,
    Store,
    Update,
    WrappedKey,
)
from reward_server.store.chain import BEFORE_FIRST, chained, content
from reward_server.store.quotas import DAY_MS, Quota, reserved
from reward_server.store.rotating import encode_place
from reward_server.store.tables import SEALED_OF_CLIENTS, SEALED_OF_SERVICE, sealed_table

from .history import FOLDER, History, ask_again
from .samples import START, an_order, delivered, moved, new_id, touched


async def all_updates(store: Store, client_id: str = "shop") -> list[Update]:
    """A client's whole log, read in pages of two."""
    log: list[Update] = []
    while page := await store.updates(client_id, log[-1].position if log else 0, limit=2):
        assert len(page) <= 2
        log += page
    return log


async def all_orders(store: Store, query: OrderQuery) -> list[str]:
    """The ids that a query finds, read in pages of two."""
    found: list[str] = []
    while page := await store.orders(replace(query, before_order_id=found[-1] if found else "", limit=2)):
        assert len(page) <= 2
        found += [order.order_id for order in page]
    return found


async def whole_snapshot(store: Store, query: SnapshotQuery) -> list[str]:
    """The ids of a snapshot, read in pages of two."""
    found: list[str] = []
    while page := await store.snapshot(replace(query, after_order_id=found[-1] if found else "", limit=2)):
        assert len(page) <= 2
        found += [order.order_id for order in page]
    return found


def ids(orders: Iterable[Order]) -> list[str]:
    """Their ids."""
    return [order.order_id for order in orders]


class OrdersConformance:
    """Creating, changing and finding orders."""

    async def test_a_created_order_is_read_back_whole(self, store: Store) -> None:
        """What was created is what either id finds."""
        order = an_order(max_unit_price=Money(990_000), supplier_parameters={"area": "上海"})
        created = await store.create(order)
        assert (created.order, created.existed, created.head.position) == (order, False, 1)
        assert await store.order("shop", order.order_id) == order
        assert await store.order_by_client_order_id("shop", order.client_order_id) == (order, created.head)

    async def test_unknown_orders_are_none(self, store: Store) -> None:
        """An id that was never used finds nothing, and the head of an unused log is 0."""
        assert await store.order("shop", new_id()) is None
        order, head = await store.order_by_client_order_id("shop", "never")
        assert (order, head.position, head.pruned_through) == (None, 0, 0)
        assert head.epoch > 0

    @pytest.mark.rule("O12")
    async def test_the_second_create_gets_the_first_order(self, store: Store) -> None:
        """A client_order_id that exists gives back the order as it is now and writes nothing."""
        first = an_order(client_order_id="co-1")
        await store.create(first)
        change = delivered(first)
        await store.save(change)
        second = an_order(client_order_id="co-1")
        created = await store.create(second)
        assert (created.order, created.existed, created.head.position) == (change.order, True, 2)
        assert await store.order("shop", second.order_id) is None
        assert await store.purchase("kss_a", second.purchases[0].number) is None
        assert [update.position for update in await all_updates(store)] == [1, 2]

    @pytest.mark.rule("D3", "D10", "O12")
    async def test_of_concurrent_creates_one_wins(self, store: Store) -> None:
        """Fifty callers with one client_order_id get one and the same order."""
        candidates = [an_order(client_order_id="co-1") for _ in range(50)]
        created = await asyncio.gather(*(store.create(order) for order in candidates))
        assert sum(not one.existed for one in created) == 1
        assert len({one.order.order_id for one in created}) == 1
        assert await all_orders(store, OrderQuery(client_id="shop")) == [created[0].order.order_id]
        assert len(await all_updates(store)) == 1

    async def test_orders_in_flight_are_limited(self, store: Store) -> None:
        """So many orders may be under way, of each client; one that ends makes room. A retry is never refused."""
        quota = Quota(orders_in_flight=3)
        orders = [an_order() for _ in range(10)]
        made = await asyncio.gather(*(store.create(order, quota) for order in orders), return_exceptions=True)
        stored = [order for order, one in zip(orders, made, strict=True) if not isinstance(one, BaseException)]
        assert len(stored) == 3
        assert {type(one) for one in made if isinstance(one, BaseException)} == {TooManyOrders}
        assert len(await all_updates(store)) == 3
        again = await asyncio.gather(*(store.create(order, quota) for order in stored))
        assert all(one.existed for one in again)
        assert not (await store.create(an_order("other"), quota)).existed
        await store.save(delivered(stored[0]))
        assert not (await store.create(an_order(), quota)).existed
        with pytest.raises(TooManyOrders):
            await store.create(an_order(), quota)
        assert not (await store.create(an_order())).existed, "without a limit there is none"

    async def test_what_a_day_may_cost_is_limited(self, store: Store) -> None:
        """Units times limit of the day's orders, whatever becomes of them; the next day begins anew."""
        quota = Quota(spend_per_day=Money(2_500_000))
        orders = [an_order() for _ in range(10)]
        assert reserved(orders[0]) == 990_000
        made = await asyncio.gather(*(store.create(order, quota) for order in orders), return_exceptions=True)
        stored = [order for order, one in zip(orders, made, strict=True) if not isinstance(one, BaseException)]
        assert len(stored) == 2
        refused = next(one for one in made if isinstance(one, SpendLimitReached))
        assert (refused.limit, refused.left) == (2_500_000, 520_000)
        until_midnight = (DAY_MS - orders[0].created_at % DAY_MS) / 1000
        assert refused.retry_after == until_midnight
        assert (await store.create(stored[0], quota)).existed, "a retry costs nothing"
        await store.save(moved(stored[0], PurchaseState.DEAD, OrderState.FAILED))
        with pytest.raises(SpendLimitReached):
            await store.create(an_order(), quota)
        assert not (await store.create(an_order("other"), quota)).existed
        tomorrow = START + DAY_MS
        assert not (await store.create(an_order(created_at=tomorrow, updated_at=tomorrow), quota)).existed
        with pytest.raises(SpendLimitReached):
            await store.create(an_order(quantity=3, created_at=tomorrow), quota)

    async def test_what_was_spent_counts_for_a_limit_that_is_set_later(self, store: Store) -> None:
        """Orders without a limit count as well."""
        await store.create(an_order())
        with pytest.raises(SpendLimitReached):
            await store.create(an_order(), Quota(spend_per_day=Money(1_900_000)))

    @pytest.mark.rule("D10")
    async def test_a_save_needs_the_revision_before(self, store: Store) -> None:
        """The loser of a race for a revision is told so, and nothing of its change exists."""
        order = an_order()
        await store.create(order)
        winner, loser = delivered(order), moved(order, PurchaseState.DEAD, OrderState.FAILED)
        number = order.purchases[0].number
        loser = replace(
            loser,
            cards=(SealedCard(1, 2, number, b"a card of the loser"),),
            answers=(KeptAnswer(number, START, Source.QUERY, b"an answer of the loser"),),
        )
        assert [*await asyncio.gather(store.save(winner), store.save(loser))] == [True, False]
        assert await store.order("shop", order.order_id) == winner.order
        assert await store.cards("shop", [order.order_id]) == {}
        assert [update.order.version for update in await all_updates(store)] == [1, 2]
        assert not await store.save(winner), "the same change can't be saved twice"

    async def test_an_unknown_order_cannot_be_saved(self, store: Store) -> None:
        """A save creates nothing."""
        change = delivered(an_order())
        assert not await store.save(change)
        assert await store.order("shop", change.order.order_id) is None
        assert (await store.head("shop")).position == 0

    async def test_an_invisible_save_logs_nothing(self, store: Store) -> None:
        """A change that the client doesn't see moves the revision and no position."""
        order = an_order()
        await store.create(order)
        change = touched(order)
        assert await store.save(change)
        assert await store.order("shop", order.order_id) == change.order
        assert (await store.head("shop")).position == 1

    async def test_lists_come_newest_first_and_page(self, store: Store) -> None:
        """Every order comes once, from the newest to the oldest."""
        orders = [an_order() for _ in range(5)]
        for order in orders:
            await store.create(order)
        assert await all_orders(store, OrderQuery(client_id="shop")) == ids(reversed(orders))

    async def test_lists_are_filtered(self, store: Store) -> None:
        """State, product, account and time narrow a list, alone and together."""
        kept = an_order(product_id="qq-10", created_at=START + 100)
        early = an_order(product_id="qq-10", created_at=START)
        settled = an_order(created_at=START + 200)
        for order in (kept, early, settled):
            await store.create(order)
        await store.save(delivered(settled))
        other = replace(kept.purchases[0], number=new_id(), offer=1)
        failed_over = replace(kept, purchases=(*kept.purchases, other), revision=2)
        await store.save(Change(order=failed_over, visible=False))

        async def found(**filters: object) -> list[str]:
            return await all_orders(store, replace(OrderQuery(client_id="shop"), **filters))  # type: ignore[arg-type]

        assert await found(states=frozenset({OrderState.FULFILLED, OrderState.FAILED})) == ids([settled])
        assert await found(product_id="qq-10") == ids([early, kept])
        assert await found(account="kdb_b") == ids([kept])
        assert await found(account="kdb") == []
        assert await found(created_from=START + 100) == ids([settled, kept])
        assert await found(created_before=START + 200, created_from=START + 100) == ids([kept])
        assert await found(product_id="qq-10", account="kss_a", created_before=START + 1) == ids([early])

    async def test_open_orders_are_counted_by_state(self, store: Store) -> None:
        """Terminal orders don't count."""
        orders = [an_order() for _ in range(3)]
        for order in orders:
            await store.create(order)
        await store.save(delivered(orders[0]))
        await store.save(moved(orders[1], PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN))
        assert await store.open_order_counts() == {OrderState.PROCESSING: 1, OrderState.OUTCOME_UNKNOWN: 1}

    async def test_the_oldest_are_found_by_state(self, store: Store) -> None:
        """Of every client, terminal orders left out; and since when what waits for a person waits."""
        assert await store.oldest() == Oldest({}, 0, 0)
        orders = [an_order(client, created_at=START + n) for n, client in enumerate(("shop", "other", "shop", "shop"))]
        for order in reversed(orders):
            await store.create(order)
        await store.save(delivered(orders[0]))
        await store.save(moved(orders[2], PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN))
        await store.save(in_review(orders[3], START + 9))
        found = {
            OrderState.PROCESSING: START + 1,
            OrderState.OUTCOME_UNKNOWN: START + 2,
            OrderState.NEEDS_REVIEW: START + 3,
        }
        assert await store.oldest() == Oldest(found, 1, START + 9)

    async def test_known_ids_are_told_from_unknown(self, store: Store) -> None:
        """Only ids of this client's orders come back."""
        order, foreign = an_order(), an_order("other")
        await store.create(order)
        await store.create(foreign)
        asked = [order.order_id, foreign.order_id, new_id()]
        assert await store.known_order_ids("shop", asked) == {order.order_id}
        assert await store.known_order_ids("shop", []) == frozenset()

    async def test_a_write_is_read_at_once(self, store: Store) -> None:
        """Whoever was told of a write reads it, however many write at the same time."""

        async def one() -> None:
            order = an_order()
            await store.create(order)
            assert await store.order("shop", order.order_id) == order
            change = delivered(order)
            assert await store.save(change)
            assert await store.order("shop", order.order_id) == change.order

        await asyncio.gather(*(one() for _ in range(30)))

    @pytest.mark.rule("D2")
    async def test_a_caller_that_gives_up_does_not_undo_its_write(self, store: Store) -> None:
        """Cancelling the wait for a write leaves the write as it is."""
        order = an_order()
        caller = asyncio.create_task(store.create(order))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert (await store.create(an_order(client_order_id=order.client_order_id))).order == order

    @pytest.mark.rule("D3")
    async def test_a_failing_writer_fails_alone(self, store: Store) -> None:
        """A write that can't be done at all doesn't touch those that share its commit."""
        order = an_order()
        await store.create(order)
        same_id = replace(an_order(), order_id=order.order_id)
        others = [an_order() for _ in range(5)]
        results = await asyncio.gather(
            *(store.create(one) for one in (*others[:3], same_id, *others[3:])), return_exceptions=True
        )
        assert [isinstance(result, BaseException) for result in results] == [False] * 3 + [True] + [False] * 2
        assert ids(update.order for update in await all_updates(store)) == ids([order, *others])

    @pytest.mark.rule("D4")
    async def test_one_client_sees_nothing_of_another(self, store: Store) -> None:
        """Ids, lists, cards and logs are looked up inside one client; equal client_order_ids don't meet."""
        order = an_order(client_order_id="co-1")
        await store.create(order)
        number = order.purchases[0].number
        await store.save(delivered(order, cards=(SealedCard(1, 2, number, b"sealed"),)))
        assert await store.order("other", order.order_id) is None
        assert (await store.order_by_client_order_id("other", "co-1"))[0] is None
        assert await store.orders(OrderQuery(client_id="other")) == []
        assert await store.cards("other", [order.order_id]) == {}
        assert await store.updates("other", 0, 10) == []
        everything = SnapshotQuery(client_id="other", up_to=100)
        assert await store.snapshot(everything) == []
        assert await store.snapshot(replace(everything, order_ids=frozenset({order.order_id}))) == []
        foreign = replace(delivered(order).order, client_id="other", revision=3)
        assert not await store.save(Change(order=foreign, visible=True))
        assert not (await store.create(an_order("other", client_order_id="co-1"))).existed


class LogConformance:
    """The clients' logs, snapshots and listeners."""

    @pytest.mark.rule("D4")
    async def test_positions_have_no_gap_and_follow_the_commits(self, store: Store) -> None:
        """However writers race, each client's log counts 1, 2, 3… and listeners hear exactly that."""
        heard: list[Update] = []
        store.listen(heard.extend)

        async def one(client_id: str, client_order_id: str) -> None:
            created = await store.create(an_order(client_id, client_order_id=client_order_id))
            await asyncio.gather(*(store.save(delivered(created.order)) for _ in range(2)))

        writers = [(client, f"co-{n % 15}") for n in range(20) for client in ("shop", "other")]
        await asyncio.gather(*(one(*writer) for writer in writers))
        for client in ("shop", "other"):
            log = await all_updates(store, client)
            assert [update.position for update in log] == list(range(1, 31))
            assert [update for update in heard if update.client_id == client] == log
            assert (await store.head(client)).position == 30

    @pytest.mark.rule("D4")
    async def test_a_head_covers_its_own_order(self, store: Store) -> None:
        """The head that comes with a creation is the position of its update or later, never earlier."""
        created = await asyncio.gather(*(store.create(an_order()) for _ in range(20)))
        position = {update.order.order_id: update.position for update in await all_updates(store)}
        assert all(one.head.position == position[one.order.order_id] for one in created)

    async def test_listeners_hear_before_the_writer(self, store: Store) -> None:
        """When a write returns, its update was heard and can be read."""
        heard: list[Update] = []
        store.listen(heard.extend)
        order = an_order()
        await store.create(order)
        assert heard == [Update("shop", 1, order)] == await all_updates(store)

    @pytest.mark.rule("D4")
    async def test_an_update_carries_the_order_of_its_version(self, store: Store) -> None:
        """Later changes leave earlier updates as they were."""
        order = an_order()
        await store.create(order)
        change = delivered(touched(order).order)
        await store.save(touched(order))
        await store.save(change)
        assert [update.order for update in await all_updates(store)] == [order, change.order]

    async def test_a_snapshot_with_the_log_after_it_is_everything(self, store: Store) -> None:
        """An order that changes while a snapshot is paged through leaves it and comes by the log."""
        orders = [an_order() for _ in range(5)]
        for order in orders:
            await store.create(order)
        up_to = (await store.head("shop")).position
        query = SnapshotQuery(client_id="shop", up_to=up_to, limit=2)
        first = await store.snapshot(query)
        assert ids(first) == ids(orders[:2])
        await store.save(delivered(orders[2]))
        await store.create(an_order())
        rest = await store.snapshot(replace(query, after_order_id=first[-1].order_id, limit=10))
        assert ids(rest) == ids(orders[3:])
        later = await store.updates("shop", up_to, 10)
        assert {one.order_id for one in (*first, *rest)} | {u.order.order_id for u in later} >= set(ids(orders))

    async def test_a_snapshot_shows_settled_orders_of_the_log(self, store: Store) -> None:
        """A settled order stays in the snapshot while its last update is in the log."""
        orders = [an_order() for _ in range(3)]
        for order in orders:
            await store.create(order)
        await store.save(delivered(orders[0]))
        assert await whole_snapshot(store, SnapshotQuery(client_id="shop", up_to=4)) == ids(orders)

    async def test_a_snapshot_of_chosen_orders(self, store: Store) -> None:
        """Either kind of id chooses, together they add up, and what doesn't exist is left out."""
        orders = [an_order() for _ in range(5)]
        for order in orders:
            await store.create(order)
        query = SnapshotQuery(
            client_id="shop",
            up_to=5,
            order_ids=frozenset({orders[0].order_id, orders[1].order_id, new_id()}),
            client_order_ids=frozenset({orders[1].client_order_id, orders[3].client_order_id, "never"}),
        )
        assert await whole_snapshot(store, query) == ids([orders[0], orders[1], orders[3]])
        assert await whole_snapshot(store, replace(query, order_ids=None)) == ids([orders[1], orders[3]])
        assert await whole_snapshot(store, replace(query, client_order_ids=None)) == ids(orders[:2])
        assert await whole_snapshot(store, replace(query, order_ids=frozenset(), client_order_ids=None)) == []


class PurchasesConformance:
    """Purchases, cards, answers and callbacks."""

    async def test_a_number_leads_to_its_order(self, store: Store) -> None:
        """A supplier's number is found under its account only, those of later purchases included."""
        order = an_order()
        await store.create(order)
        number = order.purchases[0].number
        other = PurchaseRecord(number=new_id(), offer=1, first_unit=0, quantity=1)
        await store.save(Change(order=replace(order, purchases=(*order.purchases, other), revision=2), visible=False))
        assert await store.purchase("kss_a", number) == PurchaseKey("shop", order.order_id, number)
        assert await store.purchase("kdb_b", other.number) == PurchaseKey("shop", order.order_id, other.number)
        assert await store.purchase("kdb_b", number) is None
        assert await store.purchase("kss_a", new_id()) is None

    async def test_a_dead_process_leaves_its_open_purchases_to_the_next_page_by_number(
        self, store: Store, successor: Callable[[], Awaitable[Store]]
    ) -> None:
        """Every unsettled purchase of every client comes once with its state; settled ones don't."""
        orders = [an_order("shop" if n % 2 else "other") for n in range(6)]
        for order in orders:
            await store.create(order)
        await store.save(delivered(orders[0]))
        await store.save(moved(orders[1], PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN))
        heir = await successor()
        found: list[OpenPurchase] = []
        while page := await heir.adopt(found[-1].number if found else "", limit=2):
            assert len(page) <= 2
            found += page
        assert [one.order_id for one in found] == ids(orders[1:])
        number = orders[1].purchases[0].number
        first = replace(found[0], abandoned_for=None)
        assert first == OpenPurchase("shop", orders[1].order_id, number, "kss_a", PurchaseState.UNKNOWN)

    async def test_delivered_purchases_are_open_while_they_are_watched(
        self, store: Store, successor: Callable[[], Awaitable[Store]]
    ) -> None:
        """What was delivered and may still be taken back is found at start, with the end of its watch; then no more."""

        async def found() -> list[OpenPurchase]:
            heir = await successor()
            return [replace(one, abandoned_for=None) for one in await heir.adopt("", 10)]

        order = an_order()
        await store.create(order)
        change = delivered(order)
        watched = replace(change.order.purchases[0], settled_at=0, watch_until=START + 1_000)
        change = replace(change, order=change.order.with_purchase(watched))
        await store.save(change)
        key = ("shop", order.order_id, watched.number, "kss_a")
        assert await found() == [OpenPurchase(*key, PurchaseState.DELIVERED, START + 1_000)]
        longer = change.order.with_purchase(replace(watched, watch_until=START + 2_000))
        await store.save(touched(longer))
        assert await found() == [OpenPurchase(*key, PurchaseState.DELIVERED, START + 2_000)]
        settled = touched(longer).order.with_purchase(replace(watched, settled_at=START + 2_000))
        await store.save(touched(settled))
        assert await found() == []
        assert await store.purchase("kss_a", watched.number) is not None

    @pytest.mark.rule("D5")
    async def test_cards_come_by_order_and_place(self, store: Store) -> None:
        """The cards of several orders come grouped and in their places; hidden ones stay behind."""
        orders = [an_order(), an_order(), an_order()]
        for order in orders:
            await store.create(order)
        one, two = (order.purchases[0].number for order in orders[:2])
        cards = SealedCard(2, 2, one, b"second"), SealedCard(1, 2, one, b"first")
        await store.save(delivered(orders[0], cards=cards))
        hidden = SealedCard(1, 2, two, b"late", hidden=True)
        await store.save(delivered(orders[1], cards=(hidden, SealedCard(2, 2, two, b"shown"))))
        assert await store.cards("shop", [*ids(orders), new_id()]) == {
            orders[0].order_id: [cards[1], cards[0]],
            orders[1].order_id: [SealedCard(2, 2, two, b"shown")],
        }

    @pytest.mark.rule("D5")
    async def test_a_card_is_never_written_over(self, store: Store) -> None:
        """A second card for a place fails, and the change that brought it isn't stored."""
        order = an_order()
        await store.create(order)
        number = order.purchases[0].number
        change = delivered(order, cards=(SealedCard(1, 2, number, b"the card"),))
        await store.save(change)
        again = delivered(change.order, cards=(SealedCard(1, 3, number, b"another"),))
        results = await asyncio.gather(store.save(again), return_exceptions=True)
        assert isinstance(results[0], Exception)
        assert await store.cards("shop", [order.order_id]) == {order.order_id: list(change.cards)}
        assert await store.order("shop", order.order_id) == change.order

    async def test_prints_of_cards_are_part_of_the_order(self, store: Store) -> None:
        """How cards are recognised is read back with the order."""
        order = an_order()
        await store.create(order)
        purchase = replace(order.purchases[0], cards=(CardPrint("aa", "bb", 1),))
        change = Change(order=replace(order.with_purchase(purchase), revision=2), visible=False)
        await store.save(change)
        assert await store.order("shop", order.order_id) == change.order

    async def test_a_callback_is_kept_once(self, store: Store) -> None:
        """The same body at the same account is one callback, also when two arrive together."""
        record = CallbackRecord("kss_a", new_id(), "", b"\x01" * 32, START, b"sealed")
        kept = await asyncio.gather(*(store.keep_callback(record) for _ in range(3)))
        assert kept == [True, False, False]
        assert await store.keep_callback(replace(record, account="kdb_b"))
        assert await store.keep_callback(replace(record, digest=b"\x02" * 32))

    async def test_callbacks_are_read_newest_first(self, store: Store) -> None:
        """Of one account, page after page, also inside a millisecond; those of unknown numbers alone if asked."""
        kept = [
            CallbackRecord("kss_a", f"N{n}", "order" if n % 2 else "", bytes([9 - n]) * 32, START + n // 3, b"sealed")
            for n in range(7)
        ]
        for record in (*kept, CallbackRecord("dushu", "N", "", b"\x01" * 32, START, b"sealed")):
            assert await store.keep_callback(record)
        newest_first = sorted(kept, key=lambda record: (record.at, record.digest), reverse=True)
        assert await store.callbacks(CallbackQuery(account="kss_a")) == newest_first
        unknown = await store.callbacks(CallbackQuery(account="kss_a", only_unknown=True))
        assert unknown == [record for record in newest_first if not record.order_id]
        found: list[CallbackRecord] = []
        while True:
            before = CallbackPlace(found[-1].at, found[-1].digest) if found else None
            page = await store.callbacks(CallbackQuery(account="kss_a", before=before, limit=2))
            found += page
            if len(page) < 2:
                break
        assert found == newest_first


class SecretsConformance:
    """Keys, secrets and tokens."""

    async def test_the_first_data_key_wins(self, store: Store) -> None:
        """Whoever adds a client's first key, all get the same one, and other clients have their own."""
        offered = [WrappedKey(bytes([n]) * 8, "shop", "k-1", b"wrapped %d" % n) for n in range(5)]
        got = await asyncio.gather(*(store.add_data_key(key) for key in offered))
        assert set(got) == {offered[0]}
        other = WrappedKey(b"another!", "other", "k-1", b"wrapped")
        assert await store.add_data_key(other) == other
        assert await store.data_keys("shop") == [offered[0]]
        assert await store.data_keys("nobody") == []

    async def test_the_first_secret_of_a_name_wins(self, store: Store) -> None:
        """A named secret is set once; all get the stored one."""
        got = await asyncio.gather(*(store.named_secret("tokens", b"secret %d" % n) for n in range(5)))
        assert set(got) == {b"secret 0"}
        assert await store.named_secret("cards", b"another") == b"another"

    async def test_a_token_is_replaced(self, store: Store) -> None:
        """An account's newest token is the one that is read."""
        assert await store.token("dushu") is None
        first = SealedToken("dushu", b"one", START, START + 1)
        second = SealedToken("dushu", b"two", START + 1, START + 2)
        await store.save_token(first)
        await store.save_token(second)
        assert await store.token("dushu") == second
        assert await store.token("kss_a") is None


class LifeConformance:
    """Closing and opening again."""

    @pytest.mark.rule("D1")
    async def test_everything_is_there_after_a_restart(self, open_store: Callable[[], Awaitable[Store]]) -> None:
        """A second opening finds the orders, the log and its epoch, and counts on."""
        store = await open_store()
        order = an_order()
        created = await store.create(order)
        await store.close()
        store = await open_store()
        assert await store.order_by_client_order_id("shop", order.client_order_id) == (order, created.head)
        assert (await store.create(an_order())).head == replace(created.head, position=2)

    async def test_closing_finishes_what_was_handed_over(self, open_store: Callable[[], Awaitable[Store]]) -> None:
        """A write under way when the store is closed is done."""
        store = await open_store()
        order = an_order()
        writing = asyncio.create_task(store.create(order))
        await asyncio.sleep(0)
        await store.close()
        assert (await writing).order == order
        store = await open_store()
        assert await store.order("shop", order.order_id) == order


def in_review(order: Order, since: int) -> Change:
    """The change that brings an order to a person."""
    purchase = replace(order.purchases[0], review=ReviewReason.DEADLINE, review_at=since)
    changed = replace(touched(order).order, state=OrderState.NEEDS_REVIEW, reviews=(ReviewReason.DEADLINE,))
    return Change(order=changed.with_purchase(purchase), visible=False)


def an_entry(what: str = "pause", **fields: Any) -> AuditEntry:
    """One decision."""
    values = {"at": START, "by": "operator (Li)", "reason": "they told us", "account": "kss_a", **fields}
    return AuditEntry(what=what, **values)


class OperatorsConformance:
    """What waits for people, and what they decide."""

    async def test_what_waits_longest_comes_first(self, store: Store) -> None:
        """Orders of all clients, by the time since when they wait, page by page; others are left out."""
        waiting = []
        for client_id, since in (("shop", START + 9), ("other", START + 5), ("shop", START + 5)):
            order = an_order(client_id)
            await store.create(order)
            await store.save(in_review(order, since))
            waiting.append((since, order.order_id))
        settled = an_order()
        await store.create(settled)
        await store.save(delivered(settled))
        found: list[Order] = []
        place = ReviewPlace()
        while page := await store.reviews(place, 2):
            found += page
            place = ReviewPlace(page[-1].review_since, page[-1].order_id)
        assert [(order.review_since, order.order_id) for order in found] == sorted(waiting)

    async def test_items_beside_a_final_state_wait_too(self, store: Store) -> None:
        """Until the last of them is closed."""
        order = an_order()
        await store.create(order)
        item = ReviewItem(ReviewReason.OVERCHARGED, START + 1)
        change = delivered(order)
        change = replace(change, order=change.order.with_purchase(replace(change.order.purchases[0], items=(item,))))
        await store.save(change)
        assert await store.reviews(ReviewPlace(), 9) == [change.order]
        closed = replace(touched(change.order).order, purchases=order.purchases)
        await store.save(Change(order=closed, visible=False))
        assert await store.reviews(ReviewPlace(), 9) == []

    async def test_a_hidden_card_is_shown_from_the_version_that_releases_it(self, store: Store) -> None:
        """What an operator hands over is no card of an earlier version."""
        order = an_order()
        number = order.purchases[0].number
        await store.create(order)
        kept = Change(order=touched(order).order, visible=False, cards=(SealedCard(1, 1, number, b"kept", True),))
        await store.save(kept)
        assert await store.cards("shop", [order.order_id]) == {}
        released = delivered(kept.order, released=(1,), audit=an_entry("delivered", order_id=order.order_id))
        await store.save(released)
        assert await store.cards("shop", [order.order_id]) == {order.order_id: [SealedCard(1, 2, number, b"kept")]}

    @pytest.mark.rule("O3", "O13")
    async def test_a_decision_is_recorded_with_its_effect_or_not_at_all(self, store: Store) -> None:
        """The loser of a race for a revision leaves no record."""
        order = an_order()
        await store.create(order)
        entry = an_entry("delivered", order_id=order.order_id, number=order.purchases[0].number)
        assert await store.save(delivered(order, audit=entry))
        assert not await store.save(delivered(order, audit=entry))
        assert await store.audit(0, 9) == [replace(chained(entry, store.chain, None), entry_id=1)]

    @pytest.mark.rule("O13")
    async def test_records_come_newest_first_and_page(self, store: Store) -> None:
        """Each once."""
        for n in range(5):
            await store.end_hold(an_entry("resume", at=START + n))
        found: list[AuditEntry] = []
        while page := await store.audit(found[-1].entry_id if found else 0, 2):
            found += page
        assert [entry.at - START for entry in found] == [4, 3, 2, 1, 0]

    @pytest.mark.rule("D15")
    async def test_a_pause_lasts_until_it_is_ended(self, open_store: Callable[[], Awaitable[Store]]) -> None:
        """Over a restart; a second one takes the place of the first, and ending what isn't there is no error."""
        store = await open_store()
        for reason in ("first", "second"):
            await store.hold(Hold("kss_a", START, "operator", reason), an_entry())
        await store.hold(Hold("kdb_b", START, "operator", "too"), an_entry(account="kdb_b"))
        await store.close()
        store = await open_store()
        assert [(hold.account, hold.reason) for hold in await store.holds()] == [("kdb_b", "too"), ("kss_a", "second")]
        await store.end_hold(an_entry("resume"))
        await store.end_hold(an_entry("resume"))
        assert [hold.account for hold in await store.holds()] == ["kdb_b"]
        assert [entry.what for entry in await store.audit(0, 9)] == ["resume", "resume", "pause", "pause", "pause"]


def assert_chained(entries: Iterable[AuditEntry]) -> None:
    """Each hash is over its entry and the hash before it."""
    ends: dict[str, bytes] = {}
    for entry in sorted(entries, key=lambda entry: (entry.chain, entry.place)):
        before = ends.get(entry.chain, BEFORE_FIRST)
        assert entry.hash == hashlib.sha256(before + content(entry)).digest(), entry
        ends[entry.chain] = entry.hash


class AuditConformance:
    """Chains of entries."""

    async def test_the_entries_of_a_process_are_chained_in_the_order_in_which_they_were_written(
        self, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        """Whatever brought them; another start is another chain. Each hash is over the entry and the hash before it."""
        chains: list[str] = []
        for _ in range(2):
            store = await open_store()
            chains.append(store.chain)
            order = an_order()
            await store.create(order)
            await store.record([an_entry("read", client_id="shop", order_id=order.order_id, cards=2, account="")])
            await store.hold(Hold("kss_a", START, "operator", "too"), an_entry())
            await store.save(delivered(order, audit=an_entry("delivered", order_id=order.order_id, number="N 上海")))
            stream = an_entry("stream", client_id="shop", first_position=3, last_position=2**40, reason="", account="")
            await store.record([stream, replace(stream, at=START + 1)])
            await store.end_hold(an_entry("resume"))
            await store.close()
        store = await open_store()
        entries = (await store.audit(0, 99))[::-1]
        assert len(set(chains)) == 2
        assert [(entry.chain, entry.place) for entry in entries] == [(name, n) for name in chains for n in range(1, 7)]
        assert [entry.what for entry in entries[:6]] == ["read", "pause", "delivered", "stream", "stream", "resume"]
        assert_chained(entries)

    async def test_decisions_are_told_from_readings_and_orders_from_others(self, store: Store) -> None:
        """Each filter alone and both, page by page."""
        whats = ["start", "read", "pause", "read", "stream", "fail", "erase", "read"]
        orders = ["", "a", "", "b", "", "a", "", "a"]
        for what, order_id in zip(whats, orders, strict=True):
            await store.record([an_entry(what, order_id=order_id)])

        async def found(**filters: Any) -> list[str]:
            entries: list[AuditEntry] = []
            while page := await store.audit(entries[-1].entry_id if entries else 0, 2, **filters):
                entries += page
            return [entry.what for entry in entries]

        assert await found() == whats[::-1]
        assert await found(only_decisions=True) == ["fail", "pause"]
        assert await found(order_id="a") == ["read", "fail", "read"]
        assert await found(order_id="a", only_decisions=True) == ["fail"]

    async def test_entries_that_are_written_at_once_are_chained_all_the_same(self, store: Store) -> None:
        """Each has a place of its own, without a gap."""
        await asyncio.gather(
            *(store.record([an_entry("read", at=START + n)]) for n in range(10)),
            *(store.end_hold(an_entry("resume", account=f"kss_{n}")) for n in range(10)),
        )
        entries = await store.audit(0, 99)
        assert sorted(entry.place for entry in entries) == list(range(1, 21))
        assert_chained(entries)


def a_key(key_id: bytes, client_id: str = "shop", wrapped: bytes = b"wrapped") -> WrappedKey:
    """A data key, as far as a store looks at it."""
    return WrappedKey(key_id * 8, client_id, "m-1", wrapped)


def a_rotation(key: WrappedKey, table: str = "cards", **fields: Any) -> Rotation:
    """A rotation at its beginning."""
    values = {"after": b"", "resealed": 0, "unopened": 0, "began_at": START, **fields}
    return Rotation(client_id=key.client_id, key_id=key.key_id, table=table, **values)


async def all_sealed(store: Store, rotation: Rotation) -> list[SealedRow]:
    """Everything that a rotation has before it in its table, read in pages of two."""
    found: list[SealedRow] = []
    while page := await store.sealed_rows(rotation, 2):
        assert len(page) <= 2
        found += page
        rotation = replace(rotation, after=encode_place(page[-1].place))
    return found


class KeysConformance:
    """Keys that follow one another, and what was sealed under former ones."""

    async def test_the_newest_key_of_a_client_comes_last(self, store: Store) -> None:
        """Every client's are listed together, the service's own among them."""
        for key in (a_key(b"1"), a_key(b"s", ""), a_key(b"o", "other")):
            assert await store.add_data_key(key) == key
        second, third = a_key(b"2"), a_key(b"3")
        for key in (second, third):
            await store.rotate(key, a_rotation(key), an_entry("rotate_keys", client_id="shop"))
        assert [key.key_id[:1] for key in await store.data_keys("shop")] == [b"1", b"2", b"3"]
        assert [key.key_id[:1] for key in await store.all_data_keys()] == [b"s", b"o", b"1", b"2", b"3"]
        assert await store.rotations() == [a_rotation(third)]
        assert [entry.what for entry in await store.audit(0, 9)] == ["rotate_keys", "rotate_keys"]

    async def test_keys_that_are_made_at_once_are_all_kept(self, store: Store) -> None:
        """Nothing that one of them sealed is lost."""
        keys = [a_key(bytes([n])) for n in range(1, 9)]
        await asyncio.gather(*(store.rotate(key, a_rotation(key), an_entry("rotate_keys")) for key in keys))
        stored = await store.data_keys("shop")
        assert sorted(key.key_id for key in stored) == sorted(key.key_id for key in keys)
        [rotation] = await store.rotations()
        assert rotation.key_id == stored[-1].key_id

    async def test_a_key_is_wrapped_anew_unless_somebody_was_faster(self, store: Store) -> None:
        """The loser changes nothing."""
        key = await store.add_data_key(a_key(b"1"))
        again = replace(key, master_key_id="m-2", wrapped=b"anew")
        assert await store.rewrap(key, again)
        assert not await store.rewrap(key, replace(again, wrapped=b"too late"))
        assert await store.data_keys("shop") == [again]

    async def test_everything_sealed_is_found_in_pages(self, store: Store) -> None:
        """A client's cards and answers, hidden and not, and what the service sealed; nobody else's."""
        for client_id in ("shop", "other"):
            await with_sealed(store, client_id)
        await store.save_token(SealedToken("kss_a", b"token", START, START))
        await store.named_secret("resume_token", b"secret")
        found: dict[str, list[bytes]] = {}
        for table in (*SEALED_OF_CLIENTS, *SEALED_OF_SERVICE):
            key = a_key(b"2", "shop" if table.of_clients else "")
            rows = await all_sealed(store, a_rotation(key, table.name))
            found[table.name] = [row.sealed for row in rows]
            assert len({row.place for row in rows}) == len(rows)
        assert found == {
            "cards": [b"card 1 of shop", b"card 2 of shop", b"card 3 of shop"],
            "answers": [b"answer 1 of shop", b"answer 2 of shop", b"answer 3 of shop"],
            "callbacks": [b"callback of other", b"callback of shop"],
            "tokens": [b"token"],
            "secrets": [b"secret"],
        }

    async def test_rows_are_stored_under_another_key_together_with_how_far_it_got(self, store: Store) -> None:
        """Of two that do the same work one is too late; a row that was changed meanwhile stays as it is."""
        order = await with_sealed(store, "shop")
        key = a_key(b"2")
        begun = a_rotation(key)
        await store.rotate(key, begun, an_entry("rotate_keys"))
        rows = await store.sealed_rows(begun, 2)
        changed = [Resealed(rows[0], b"card 1 anew"), Resealed(replace(rows[1], sealed=b"as it was"), b"never")]
        now = replace(begun, after=encode_place(rows[1].place), resealed=2)
        assert await store.reseal(begun, now, changed)
        assert not await store.reseal(begun, now, [Resealed(rows[0], b"by the late one")])
        assert await store.rotations() == [now]
        shown = {card.card_no: card.sealed for card in (await store.cards("shop", [order.order_id]))[order.order_id]}
        assert shown == {1: b"card 1 anew", 2: b"card 2 of shop"}
        for table in ("answers", "callbacks", "tokens", "secrets"):
            now, then = replace(now, table=table, after=b""), now
            assert await store.reseal(then, now, [])
            rows = await store.sealed_rows(replace(now, client_id="shop"), 9)
            then, now = now, replace(now, after=encode_place(rows[-1].place) if rows else b"done")
            assert await store.reseal(then, now, [Resealed(row, b"anew") for row in rows])
            if sealed_table(table).of_clients:
                assert {row.sealed for row in await all_sealed(store, replace(now, after=b""))} == {b"anew"}


async def with_sealed(store: Store, client_id: str, at: int = START) -> Order:
    """An order with two cards and a hidden one, three answers and a callback."""
    order = replace(an_order(client_id), updated_at=at)
    await store.create(order)
    number = order.purchases[0].number
    cards = [SealedCard(n, 2, number, f"card {n} of {client_id}".encode(), hidden=n == 3) for n in (1, 2, 3)]
    answers = [KeptAnswer(number, at + n, Source.QUERY, f"answer {n} of {client_id}".encode()) for n in (1, 2, 3)]
    change = delivered(order, cards=tuple(cards), answers=tuple(answers))
    await store.save(replace(change, order=replace(change.order, updated_at=at)))
    digest = client_id[0].encode() * 32
    sealed = f"callback of {client_id}".encode()
    await store.keep_callback(CallbackRecord("kss_a", number, order.order_id, digest, at, sealed))
    return order


class ErasingConformance:
    """What is emptied after its time."""

    async def test_what_is_old_is_emptied_and_what_is_younger_stays(self, store: Store) -> None:
        """Cards, answers and callbacks, up to a limit at a time; the rows stay, and each is emptied once."""
        old, young = await with_sealed(store, "shop"), await with_sealed(store, "other", START + 1_000)
        rounds = [await store.erase(START + 500, START + 9_999, 2) for _ in range(3)]
        assert rounds == [Erased(2, 2, 1), Erased(1, 1, 0), Erased()]
        emptied, there = (
            (await store.cards("shop", [old.order_id]))[old.order_id],
            await store.cards("other", [young.order_id]),
        )
        assert [(card.sealed, card.erased_at) for card in emptied] == [(b"", START + 9_999)] * 2
        assert [card.erased_at for card in there[young.order_id]] == [0, 0]
        answers = await store.answers("shop", old.order_id)
        assert [(answer.sealed, answer.erased_at) for answer in answers] == [(b"", START + 9_999)] * 3
        callbacks = await store.callbacks(CallbackQuery(account="kss_a"))
        assert [(record.sealed, record.erased_at) for record in callbacks] == [
            (b"callback of other", 0),
            (b"", START + 9_999),
        ]
        assert not await store.keep_callback(replace(callbacks[1], sealed=b"again")), "the same one is kept once"
        assert await all_sealed(store, a_rotation(a_key(b"2"))) == []

    async def test_what_a_person_has_to_decide_about_is_kept_until_then(self, store: Store) -> None:
        """Hidden cards, answers and callbacks; the client has the other cards already."""
        order = await with_sealed(store, "shop")
        stored = await store.order("shop", order.order_id)
        assert stored is not None
        waiting = in_review(stored, START)
        await store.save(waiting)
        assert await store.erase(START + 500, START + 9_999, 9) == Erased(2, 0, 0)
        await store.save(Change(order=replace(touched(waiting.order).order, purchases=stored.purchases), visible=False))
        assert await store.erase(START + 500, START + 9_999, 9) == Erased(1, 3, 1)

    async def test_a_released_card_is_as_old_as_its_release(self, store: Store) -> None:
        """Its client has the whole time to fetch it."""
        order = await with_sealed(store, "shop")
        stored = await store.order("shop", order.order_id)
        assert stored is not None
        released = replace(touched(stored).order, version=stored.version + 1, updated_at=START + 1_000)
        assert await store.save(Change(order=released, visible=True, released=(3,)))
        assert await store.erase(START + 500, START + 9_999, 9) == Erased(2, 3, 1)
        cards = (await store.cards("shop", [order.order_id]))[order.order_id]
        assert [card.erased_at > 0 for card in cards] == [True, True, False]


class HistoriesConformance:
    """Being asked what another store was asked in a simulation, with races lost and answers lost in crashes."""

    @pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
    async def test_a_history_has_the_same_answers_again(self, store: Store, path: Path) -> None:
        """Every answer, every order and every log is as it was."""
        history = History.read(path)
        assert len(history.asked) > 20
        assert await ask_again(store, history) == []


class StoreConformance(
    OrdersConformance,
    LogConformance,
    PurchasesConformance,
    OperatorsConformance,
    AuditConformance,
    KeysConformance,
    ErasingConformance,
    SecretsConformance,
    LifeConformance,
    HistoriesConformance,
):
    """All of it. Needs the fixtures `store` (fresh) and `open_store` (opens one and the same database each time)."""

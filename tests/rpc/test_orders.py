"""The unary calls: ordering, reading, listing, the catalogue."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from reward_server.domain.order import Failure, FailureReason, OrderState
from rewardservice.v1 import catalog_service_pb2 as catalog_pb
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .world import Api, Refused, World, refused, world


async def failure(call: object) -> Refused:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return refused(raised.value)


def wait(seconds: float) -> duration_pb2.Duration:
    """A duration."""
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(int(seconds * 1000))
    return duration


# --- Ordering ---------------------------------------------------------------------------------------------------------


async def test_an_order_is_answered_with_a_token_to_follow_it(served: World) -> None:
    """A stream AFTER the answer's token begins with the order's next update."""
    api = served.api()
    created = await api.create("a-1", metadata={"k": "v"})
    assert (created.order.version, created.replayed) == (1, False)
    await served.change(created.order.order_id)
    page = await api.updates(after=created.resume_token)
    assert [update.order.version for update in page.updates] == [2]


@pytest.mark.rule("O12")
async def test_a_replay_returns_the_order_as_it_is(served: World) -> None:
    """The same id with the same content is the same order; view and wait don't count as content."""
    api = served.api()
    first = await api.create("a-1")
    await served.change(first.order.order_id, OrderState.FULFILLED, cards=1)
    again = await api.create("a-1", view=order_pb2.ORDER_VIEW_FULL, wait=wait(5))
    assert again.replayed
    assert again.order.order_id == first.order.order_id
    assert again.order.cards[0].secret == "secret-1"


@pytest.mark.rule("O12")
async def test_other_content_under_a_used_id_is_refused(served: World) -> None:
    """The error names the order and the fields that differ."""
    api = served.api()
    first = await api.create("a-1")
    error = await failure(api.create("a-1", quantity=2, metadata={"k": "v"}))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_ORDER_ID_REUSED")
    assert error.metadata["fields"] == "quantity,metadata"
    assert error.metadata["order_id"] == first.order.order_id
    assert "google.rpc.ResourceInfo" in error.details


async def test_every_violation_arrives(served: World) -> None:
    """BadRequest has all violations of a request."""
    error = await failure(served.api().create("a b", quantity=0, product_id=""))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(error.violations) == {"client_order_id", "quantity", "product_id"}


async def test_products_decide_last(served: World) -> None:
    """An unknown product, a paused one and a wrong recipient each have their own error."""
    api = served.api()
    unknown = await failure(api.create(product_id="nope"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")
    paused = await failure(api.create(product_id="paused"))
    assert (paused.code, paused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PRODUCT_NOT_ORDERABLE")
    assert (await failure(api.create(product_id="topup"))).violations.keys() == {"recipient.phone"}


async def test_waiting_ends_with_the_order(served: World) -> None:
    """`wait` returns with the terminal state the moment it is on disk, and the token stands behind it."""
    api = served.api()
    follower = await api.awaiting("a-1")
    waiting = asyncio.ensure_future(api.create("a-1", wait=wait(30), view=order_pb2.ORDER_VIEW_FULL))
    order = (await follower.skip_to("update")).order
    await served.change(order.order_id)
    await served.change(order.order_id, OrderState.FULFILLED, cards=1)
    answer = await waiting
    assert answer.order.state == order_pb2.ORDER_STATE_FULFILLED
    assert answer.order.cards[0].secret == "secret-1"
    assert not (await api.updates(after=answer.resume_token)).updates
    follower.cancel()


async def test_waiting_ends_when_a_person_has_to_look(served: World) -> None:
    """NEEDS_REVIEW may take days: it ends the waiting."""
    api = served.api()
    created = await api.create("a-1")
    await served.change(created.order.order_id, OrderState.NEEDS_REVIEW)
    assert (await api.create("a-1", wait=wait(30))).order.state == order_pb2.ORDER_STATE_NEEDS_REVIEW


async def test_waiting_ends_before_the_callers_deadline(tmp_path: Path) -> None:
    """The order as it is comes back while the caller still listens."""
    # A margin that is more than the answer needs on a machine that is busy with other things.
    async with world(tmp_path, deadline_margin=19.7) as served:
        api = served.api()
        request = pb.CreateOrderRequest(client_order_id="a-1", product_id="card", quantity=1, wait=wait(30))
        answer = await api.rewards.CreateOrder(request, metadata=api.metadata, timeout=20)
        assert answer.order.state == order_pb2.ORDER_STATE_ACCEPTED


async def test_an_answer_after_waiting_shows_what_came_meanwhile(served: World) -> None:
    """When time is up, the latest version is answered."""
    api = served.api()
    follower = await api.awaiting("a-1")
    waiting = asyncio.ensure_future(api.create("a-1", wait=wait(3)))
    await served.change((await follower.skip_to("update")).order.order_id, OrderState.OUTCOME_UNKNOWN)
    assert (await waiting).order.state == order_pb2.ORDER_STATE_OUTCOME_UNKNOWN
    follower.cancel()


async def test_an_orderer_sees_no_cards(served: World) -> None:
    """Ordering alone doesn't show cards: view FULL is refused, BASIC masks."""
    api = served.api("orderer-key")
    error = await failure(api.create("a-1", view=order_pb2.ORDER_VIEW_FULL))
    assert (error.reason, error.metadata["permission"]) == ("CARDS_NOT_PERMITTED", "read_cards")
    created = await api.create("a-1")
    await served.change(created.order.order_id, OrderState.FULFILLED, cards=1, client_id="orderer")
    assert (await api.create("a-1")).order.cards[0].number == "****0001"


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_read_by_either_id(served: World) -> None:
    """Both ids find the same order."""
    api = served.api()
    order = (await api.create("a-1")).order
    request = pb.GetOrderRequest(client_order_id="a-1")
    assert (await api.rewards.GetOrder(request, metadata=api.metadata)).order == order
    assert await api.get(order.order_id) == order


async def test_views(served: World) -> None:
    """BASIC masks, FULL shows cards, EXPLAINED shows purchases and no secret."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    basic, full, explained = [await api.get(order_id, view) for view in ("BASIC", "FULL", "EXPLAINED")]
    assert basic.cards[0].masked
    assert full.cards[0].secret == "secret-1"
    assert [purchase.supplier for purchase in explained.purchases] == ["kss_a"]
    assert "secret" not in str(basic)
    assert "secret-" not in str(explained)


async def test_a_failure_is_shown(served: World) -> None:
    """A failed order is an OK answer that says why."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    await served.fail(order_id, Failure(FailureReason.OUT_OF_STOCK, "none left"))
    assert (await api.get(order_id)).failure.message == "none left"


async def test_the_cards_of_other_clients_orders_are_out_of_reach(served: World) -> None:
    """To one client, another's order doesn't exist: by either id, in lists, in updates, in streams."""
    order_id = (await served.api().create("a-1")).order.order_id
    other = served.api("other-key")
    errors = [
        await failure(other.get(order_id)),
        await failure(other.get(order_id, "FULL")),
        await failure(other.rewards.GetOrder(pb.GetOrderRequest(client_order_id="a-1"), metadata=other.metadata)),
        await failure(other.updates(order_ids=[order_id])),
        await failure(other.stream(order_ids=[order_id]).next()),
    ]
    assert {(error.code, error.reason) for error in errors} == {(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")}
    assert all("google.rpc.ResourceInfo" in error.details for error in errors)
    assert not (await other.rewards.ListOrders(pb.ListOrdersRequest(), metadata=other.metadata)).orders
    assert not (await other.updates()).updates
    assert (await failure(other.get("nonsense"))).reason == "ORDER_NOT_FOUND"


# --- Lists ------------------------------------------------------------------------------------------------------------


async def test_orders_are_listed_newest_first_in_pages(served: World) -> None:
    """Pages join without gap or overlap, cards masked, whatever the page size."""
    api = served.api()
    ids = [(await api.create()).order.order_id for _ in range(7)]
    await served.change(ids[0], OrderState.FULFILLED, cards=1)
    found: list[order_pb2.Order] = []
    token, size = "", 3
    while True:
        request = pb.ListOrdersRequest(page_size=size, page_token=token)
        page = await api.rewards.ListOrders(request, metadata=api.metadata)
        found.extend(page.orders)
        token, size = page.next_page_token, 2
        if not token:
            break
    assert [order.order_id for order in found] == ids[::-1]
    assert found[-1].cards[0].masked


async def test_large_orders_make_short_pages(served: World) -> None:
    """A page stays below what clients accept by default, and its token continues behind it."""
    api = served.api()
    heavy = {str(n): "值" * 512 for n in range(20)}
    for _ in range(100):
        await api.create(metadata=heavy)
    request = pb.ListOrdersRequest(page_size=200)
    page = await api.rewards.ListOrders(request, metadata=api.metadata)
    assert 0 < len(page.orders) < 100
    request.page_token = page.next_page_token
    rest = await api.rewards.ListOrders(request, metadata=api.metadata)
    assert len(page.orders) + len(rest.orders) == 100
    updates = await api.updates(limit=1_000)
    assert updates.more
    more = await api.updates(limit=1_000, after=updates.resume_token)
    assert len(updates.updates) + len(more.updates) == 100


async def test_filters(served: World) -> None:
    """State, product, supplier and time each narrow the list."""
    api = served.api()
    first = (await api.create()).order
    second = (await api.create(product_id="coupon")).order
    await served.change(second.order_id, OrderState.FAILED)

    async def ids(**filters: object) -> list[str]:
        request = pb.ListOrdersRequest(**filters)  # type: ignore[arg-type]
        return [order.order_id for order in (await api.rewards.ListOrders(request, metadata=api.metadata)).orders]

    both = [second.order_id, first.order_id]
    assert await ids(states=[order_pb2.ORDER_STATE_FAILED]) == [second.order_id]
    assert await ids(product_id="card") == [first.order_id]
    assert await ids(supplier="kss_a") == both
    assert await ids(supplier="nobody") == []
    assert await ids(created_after=first.create_time) == both
    assert await ids(created_before=first.create_time) == []
    later = timestamp_pb2.Timestamp(seconds=second.create_time.seconds + 1)
    assert await ids(created_after=later) == []
    assert await ids(created_before=later) == both


async def test_a_page_token_belongs_to_its_query(served: World) -> None:
    """Other filters, another client or another method refuse the token, as a violation of page_token."""
    api, other = served.api(), served.api("other-key")
    for _ in range(2):
        await api.create()
    token = (await api.rewards.ListOrders(pb.ListOrdersRequest(page_size=1), metadata=api.metadata)).next_page_token
    assert token
    for caller, request in (
        (api, pb.ListOrdersRequest(page_token=token, product_id="card")),
        (api, pb.ListOrdersRequest(page_token=token[:-1] + ("A" if token[-1] != "A" else "B"))),
        (other, pb.ListOrdersRequest(page_token=token)),
    ):
        error = await failure(caller.rewards.ListOrders(request, metadata=caller.metadata))
        assert set(error.violations) == {"page_token"}
    products = catalog_pb.ListProductsRequest(page_token=token)
    assert set((await failure(api.catalog.ListProducts(products, metadata=api.metadata))).violations) == {"page_token"}


# --- The catalogue ----------------------------------------------------------------------------------------------------


async def test_products_are_listed_by_id(served: World) -> None:
    """Pages of products join; a kind narrows them."""
    api = served.api("orderer-key")
    found, token = [], ""
    while True:
        request = catalog_pb.ListProductsRequest(page_size=2, page_token=token)
        page = await api.catalog.ListProducts(request, metadata=api.metadata)
        found += [product.product_id for product in page.products]
        token = page.next_page_token
        if not token:
            break
    assert found == ["card", "coupon", "paused", "topup", "zz-form"]
    request = catalog_pb.ListProductsRequest(kind=order_pb2.PRODUCT_KIND_TOPUP)
    page = await api.catalog.ListProducts(request, metadata=api.metadata)
    assert [product.product_id for product in page.products] == ["topup"]


async def test_a_product_says_what_it_needs(served: World) -> None:
    """Recipient, form, price and whether it can be ordered."""
    api = served.api()

    async def product(product_id: str) -> catalog_pb.Product:
        request = catalog_pb.GetProductRequest(product_id=product_id)
        return (await api.catalog.GetProduct(request, metadata=api.metadata)).product

    card = await product("card")
    assert card.orderable
    assert (card.price.units, card.price.nanos, card.face_value.units) == (98, 500_000_000, 100)
    assert card.recipient_kind == catalog_pb.RECIPIENT_KIND_NONE
    paused = await product("paused")
    assert not paused.orderable
    assert paused.not_orderable_reason == catalog_pb.NOT_ORDERABLE_REASON_SUPPLIER_PAUSED
    [zone] = (await product("zz-form")).form
    assert (zone.key, zone.label, zone.required, list(zone.options)) == ("zone", "Zone", True, ["a", "b"])
    error = await failure(product("nope"))
    assert (error.code, error.reason, error.metadata["product_id"]) == (
        grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", "nope",
    )  # fmt: skip


# --- Cancelling -------------------------------------------------------------------------------------------------------


async def cancel(api: Api, **fields: object) -> order_pb2.Order:
    """Cancels an order."""
    request = pb.CancelOrderRequest(**fields)  # type: ignore[arg-type]
    return (await api.rewards.CancelOrder(request, metadata=api.metadata)).order


@pytest.mark.rule("O15")
async def test_an_order_that_was_not_sent_is_cancelled_by_either_id(served: World) -> None:
    """The answer is the cancelled order; asked again it is the same, and the client's log has one update of it."""
    api = served.api()
    for number, name in enumerate(("order_id", "client_order_id")):
        created = await api.create(f"c-{number}")
        order = await cancel(api, **{name: getattr(created.order, name)})
        assert order.state == order_pb2.ORDER_STATE_CANCELLED
        assert order.cancel_requested_time == order.settled_time == order.update_time
        assert await cancel(api, **{name: getattr(created.order, name)}) == order
        page = await api.updates(after=created.resume_token)
        assert [update.order.version for update in page.updates] == [2]


@pytest.mark.rule("O15")
async def test_an_order_that_ended_otherwise_cannot_be_cancelled(served: World) -> None:
    """The error says how it ended."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    error = await failure(cancel(api, order_id=order_id))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ORDER_NOT_CANCELLABLE")
    assert (error.metadata["order_id"], error.metadata["state"]) == (order_id, "fulfilled")
    assert "google.rpc.ResourceInfo" in error.details


async def test_nobody_cancels_an_order_of_somebody_else(served: World) -> None:
    """It doesn't exist for others; an id is needed, and view FULL the permission to read cards."""
    order_id = (await served.api().create("c-1")).order.order_id
    other = served.api("other-key")
    assert (await failure(cancel(other, order_id=order_id))).reason == "ORDER_NOT_FOUND"
    assert (await failure(cancel(other, client_order_id="c-1"))).reason == "ORDER_NOT_FOUND"
    assert (await failure(cancel(served.api()))).violations.keys() == {"id"}
    assert (await served.api().get(order_id)).version == 1

"""91 Kaquan, cards: what the declared outcome of a scenario can't say, judged by the supplier's own books."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.type.money_pb2 import Money
from grpc import StatusCode
from grpc.aio import AioRpcError

from reward_sandbox import shops
from reward_sandbox.scenario import Scenario
from reward_server.config import ConfigError, load_settings
from rewardservice.v1 import operator_service_pb2, operator_service_pb2_grpc, order_pb2

from .harness import OPERATOR, Place, caller, service
from .stage import Played, play

KIND = "kaquan91_card"

WORDS = {"list-page-51": "分页", "list-signed-paging": "签名"}

KINDS = {
    "0": order_pb2.CARD_KIND_CODE,
    "1": order_pb2.CARD_KIND_NUMBER_AND_SECRET,
    "2": order_pb2.CARD_KIND_QR,
    "3": order_pb2.CARD_KIND_LINK_AND_SECRET,
    "4": order_pb2.CARD_KIND_LINK,
}


def scenario(name: str) -> Scenario:
    """By its name."""
    return next(one for one in shops()[KIND].scenarios if one.name == name)


def yuan(money: Money) -> Decimal:
    """The amount of a message."""
    return Decimal(money.units) + Decimal(money.nanos) / 1_000_000_000


def columns(card: order_pb2.Card) -> tuple[str, str]:
    """What stood in `card_num` and `card_pass`, by the manual's table of card types."""
    match card.kind:
        case order_pb2.CARD_KIND_CODE:
            return card.secret, card.instructions
        case order_pb2.CARD_KIND_NUMBER_AND_SECRET:
            return card.number, card.secret
        case order_pb2.CARD_KIND_QR:
            return card.qr.image_url, card.qr.content
        case order_pb2.CARD_KIND_LINK_AND_SECRET:
            return card.secret, card.link
        case _:
            return card.link, card.instructions


def sold(played: Played) -> list[tuple[str, str]]:
    """The columns of every card, as the supplier has them."""
    return [(card["card_num"], card["card_pass"]) for order in played.books["orders"] for card in order["delivered"]]


@pytest.mark.parametrize("card_type", KINDS)
@pytest.mark.parametrize("said_by", ["type", "told-type"])
async def test_each_column_is_shown_as_what_it_is(said_by: str, card_type: str, tmp_path: Path) -> None:
    """Secret, link, QR code or instructions by the card's type, which the answer says or else the offer."""
    async with play(KIND, scenario(f"{said_by}-{card_type}"), tmp_path) as played:
        (card,) = played.order.cards
        assert card.kind == KINDS[card_type]
        assert [columns(card)] == sold(played)


async def test_three_cards_are_one_purchase_at_the_sum_of_their_prices(tmp_path: Path) -> None:
    """Every card is the supplier's, the cost is what was charged, and `order_money` is the limit of all three."""
    async with play(KIND, scenario("three-cards"), tmp_path) as played:
        (bought,) = played.books["orders"]
        (purchase,) = played.explained.purchases
        assert sorted(map(columns, played.order.cards)) == sorted(sold(played))
        assert len({columns(card) for card in played.order.cards}) == 3
        assert len({card.card_id for card in played.order.cards}) == 3
        assert purchase.supplier_reference == bought["supplier_number"]
        assert sum(yuan(card.unit_cost) for card in played.order.cards) == Decimal(bought["charged"])
        assert yuan(played.order.total_cost) == Decimal(bought["charged"]) == Decimal("120.18")
        (order,) = played.running.sandbox.desk(KIND).book.orders
        assert order.details["order_money"] == "121.68"


async def test_more_cards_than_one_purchase_takes_are_bought_under_several_numbers(tmp_path: Path) -> None:
    """Ten and two, and each number is used once."""
    async with play(KIND, scenario("twelve-cards"), tmp_path) as played:
        numbers = [purchase.number for purchase in played.explained.purchases]
        assert [purchase.quantity for purchase in played.explained.purchases] == [10, 2]
        assert sorted(numbers) == sorted(order["number"] for order in played.books["orders"])
        assert sorted(map(columns, played.order.cards)) == sorted(sold(played))


@pytest.mark.parametrize(
    ("name", "price"),
    [("type-1", "40.06"), ("warranty-12", "40.12"), ("warranty-24", "40.24"), ("warranty-48", "40.60")],
)
async def test_a_longer_warranty_costs_what_the_table_says(name: str, price: str, tmp_path: Path) -> None:
    """The surcharge is in the charge, in the cost that the client sees, and the warranty lasts that long."""
    async with play(KIND, scenario(name), tmp_path) as played:
        (bought,) = played.books["orders"]
        (card,) = played.order.cards
        assert bought["charged"] == price
        assert yuan(played.order.total_cost) == yuan(card.unit_cost) == Decimal(price)
        hours = int(scenario(name).parameters["auto_confirm_hour"])
        assert card.warranty_end_time.seconds == int(bought["times"]["accepted"]) + hours * 3600


async def test_the_warranty_is_counted_from_unix_seconds_as_well(tmp_path: Path) -> None:
    """A public client of the supplier reads its times so."""
    async with play(KIND, scenario("unix-times"), tmp_path) as played:
        (bought,) = played.books["orders"]
        (card,) = played.order.cards
        assert card.warranty_end_time.seconds == int(bought["times"]["accepted"]) + 10 * 3600


async def test_a_price_at_the_limit_is_paid_to_the_fen(tmp_path: Path) -> None:
    """The supplier compares its rounded total with ours: equal is accepted."""
    async with play(KIND, scenario("price-equal"), tmp_path) as played:
        (bought,) = played.running.sandbox.desk(KIND).book.orders
        assert (str(bought.charged), bought.details["order_money"]) == ("40.56", "40.56")


@pytest.mark.parametrize("name", ["slow", "duplicate-replayed", "duplicate-refused"])
async def test_cards_that_come_twice_are_stored_once(name: str, tmp_path: Path) -> None:
    """By query and late answer, or by two answers to one number."""
    async with play(KIND, scenario(name), tmp_path) as played:
        assert [columns(card) for card in played.order.cards] == sold(played)
        (bought,) = played.books["orders"]
        assert bought["number"] == played.explained.purchases[0].number
        evidence = [entry.outcome for entry in played.explained.purchases[0].evidence]
        assert evidence.count("Delivered") == 1


async def test_a_card_delivered_is_not_overwritten_by_another_one(tmp_path: Path) -> None:
    """What the query showed stays; the answer that contradicts it is noted for the operator."""
    async with play(KIND, scenario("slow-other-card"), tmp_path) as played:
        assert [columns(card) for card in played.order.cards] == sold(played)
        (purchase,) = played.explained.purchases
        assert [item.reason for item in purchase.review_items] == [order_pb2.REVIEW_REASON_CARDS_CHANGED]
        assert list(played.order.review_reasons) == [order_pb2.REVIEW_REASON_CARDS_CHANGED]
        for words in (purchase.evidence[-1].detail, purchase.review_items[0].detail):
            assert "of 1 known before 0 are missing and 1 changed" in words


@pytest.mark.rule("P15")
@pytest.mark.parametrize(
    ("name", "word"), [("wrong-secret", "签名"), ("unknown-appid", "appid"), ("ip-never-registered", "IP")]
)
async def test_a_supplier_that_refuses_us_is_not_asked_in_a_loop(name: str, word: str, tmp_path: Path) -> None:
    """One call, the reason is told, no look, and the account stands still."""
    async with play(KIND, scenario(name), tmp_path) as played:
        (purchase,) = played.explained.purchases
        assert len(played.books["refusals"]) == played.creates == 1
        assert word in purchase.evidence[0].detail
        assert [entry.source for entry in purchase.evidence] == ["place", "deadline"]


@pytest.mark.parametrize("name", ["out-of-stock", "unknown-product", "low-balance", "price-above", "field-missing"])
async def test_a_refusal_is_believed_with_a_look_that_finds_nothing(name: str, tmp_path: Path) -> None:
    """One purchase, one look at once, no second try."""
    async with play(KIND, scenario(name), tmp_path) as played:
        (purchase,) = played.explained.purchases
        assert [(entry.source, entry.outcome) for entry in purchase.evidence] == [
            ("place", "Refused"),
            ("query", "Absent"),
        ]
        assert [refusal["number"] for refusal in played.books["refusals"]] == [purchase.number]


async def test_a_cancelled_card_never_reaches_the_client(tmp_path: Path) -> None:
    """It was cancelled before anybody saw it: nothing of it is stored."""
    async with play(KIND, scenario("cancelled-at-once"), tmp_path) as played:
        assert sold(played)
        assert not played.order.cards
        (purchase,) = played.explained.purchases
        assert not purchase.answers
        assert [entry.outcome for entry in purchase.evidence] == ["Refunded"]


async def test_calls_to_an_account_without_callbacks_are_answered_like_those_to_none(tmp_path: Path) -> None:
    """404 without a word, whoever signed them, and the order stays as it is."""
    async with play(KIND, scenario("called-back"), tmp_path) as played:
        (bought,) = played.books["orders"]
        assert [(call["status"], call["answer"]) for call in bought["callbacks"]] == [(404, "")] * 4
        assert {entry.source for entry in played.explained.purchases[0].evidence} == {"place"}


async def operators(played: Played, call: str, request: Any) -> Any:
    """Asks the operator's service."""
    async with caller(played.running.place.grpc_port, OPERATOR) as operator:
        stub = operator_service_pb2_grpc.OperatorServiceStub(operator.channel)
        return await getattr(stub, call)(request, metadata=operator.metadata)


async def test_stock_on_the_list_is_shown_as_the_supplier_lists_it(tmp_path: Path) -> None:
    """A list may be older than the purchase that found nothing left; asked again it is read anew."""
    async with play(KIND, scenario("stock-race"), tmp_path) as played:
        request = operator_service_pb2.GetSupplierProductRequest(supplier=KIND, product=scenario("stock-race").product)
        assert (await operators(played, "GetSupplierProduct", request)).product.stock == 5


async def test_all_products_are_listed_page_by_page(tmp_path: Path) -> None:
    """Fifty a page, which is the most that the supplier gives; none is left out, none comes twice."""
    async with play(KIND, scenario("second-page"), tmp_path) as played:
        listed, more, page = [], True, 0
        while more:
            page += 1
            request = operator_service_pb2.ListSupplierProductsRequest(supplier=KIND, page=page)
            answer = await operators(played, "ListSupplierProducts", request)
            listed += [product.number for product in answer.products]
            more = answer.more
        on_sale = [one.product for one in shops()[KIND].scenarios if one.name != "unknown-product"]
        assert page == 2
        assert listed == on_sale
        assert listed.index(scenario("second-page").product) >= 50


@pytest.mark.parametrize("name", ["list-page-51", "list-signed-paging"])
async def test_a_list_asked_for_otherwise_is_refused_and_not_taken_for_an_empty_one(name: str, tmp_path: Path) -> None:
    """More than fifty a page, or paging under the signature: the operator is told that the supplier refused."""
    async with play(KIND, scenario(name), tmp_path) as played:
        request = operator_service_pb2.ListSupplierProductsRequest(supplier=KIND)
        with pytest.raises(AioRpcError) as failed:
            await operators(played, "ListSupplierProducts", request)
        assert failed.value.code() is StatusCode.UNAVAILABLE
        assert WORDS[name] in str(failed.value.details())


async def test_the_deposit_is_what_the_books_have(tmp_path: Path) -> None:
    """Yuan as text on the wire, to the fen."""
    async with service(tmp_path) as running:
        await running.sandbox.order(KIND, "balance", balance="348.70")
        async with caller(running.place.grpc_port, OPERATOR) as operator:
            stub = operator_service_pb2_grpc.OperatorServiceStub(operator.channel)
            answer = await stub.ListSuppliers(operator_service_pb2.ListSuppliersRequest(), metadata=operator.metadata)
        (supplier,) = [one for one in answer.suppliers if one.name == KIND]
        assert yuan(supplier.balance) == Decimal("348.70")


def test_a_purchase_without_a_price_check_cannot_be_configured(tmp_path: Path) -> None:
    """`order_money` 0 would buy at any price."""
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", accounts={KIND: {"send_zero_order_money": True}})
    with pytest.raises(ConfigError, match="send_zero_order_money"):
        load_settings(place.write(), {})


@pytest.mark.parametrize(
    "parameters", ['{ card_type = "1", auto_confirm_hour = "11" }', '{ auto_confirm_hour = "10" }']
)
def test_an_offer_that_no_delivery_could_follow_cannot_be_configured(parameters: str, tmp_path: Path) -> None:
    """Hours of warranty in nobody's table, or a card whose columns nobody could name."""
    offer = (
        '[[products]]\nid = "odd"\nkind = "card"\nname = "odd"\nface_value = "50.00"\n'
        f'[[products.offers]]\nsupplier = "{KIND}"\nsupplier_product = "9"\nunit_cost = "40.00"\n'
        f'max_unit_cost = "41.00"\nparameters = {parameters}\n'
    )
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", extra=offer)
    with pytest.raises(ConfigError, match=r"auto_confirm_hour|card_type"):
        load_settings(place.write(), {})

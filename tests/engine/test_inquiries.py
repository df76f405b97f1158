"""What suppliers can tell beside orders: asked for by operators, and by the service itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from reward_adapters.contract import FormEntry, NotSent, NotSentCause, ProductKind, Recipient, RecipientKind
from reward_adapters.money import Money, yuan
from reward_server.catalogue import Catalogue, FormField, FormSource, Product, ProductOffer
from reward_server.domain.ids import IdSource
from reward_server.engine import inquiries as module
from reward_server.engine.account import Account, AccountPlan, AccountState
from reward_server.engine.engine import Engine
from reward_server.engine.inquiries import Balance, Inquiries
from reward_server.engine.ordering import OrderRequest, check_against_product
from reward_server.errors import (
    InvalidRequest,
    NotOfferedBySupplier,
    SupplierNotFound,
    SupplierProductNotFound,
    SupplierUnavailable,
)
from reward_server.metrics import Metrics
from reward_server.sealing import MasterKeys, Vault
from reward_server.store.sqlite import SqliteStore, open_sqlite

from .dealer import PRODUCT, RECIPIENT, ZONE, Desk, ScriptedDealer, desk, form_entry
from .rig import WallClock, traits, until

ALL = ("balance", "products", "product", "form")


def an_offer(account: str, number: str = "7") -> ProductOffer:
    return ProductOffer(
        account=account,
        supplier_product=number,
        unit_cost=Money(10_000),
        max_unit_cost=Money(20_000),
        max_units_per_purchase=1,
    )


def topup(*offers: ProductOffer, product_id: str = "topup", **fields: Any) -> Product:
    values: dict[str, Any] = {"kind": ProductKind.TOPUP, "recipient_kind": RecipientKind.ACCOUNT, **fields}
    return Product(product_id=product_id, name="Q", face_value=Money(10_000), offers=offers, **values)


class Office:
    """Inquiries with two accounts at one desk, "a" and "b"."""

    def __init__(
        self,
        it: Desk,
        accounts: dict[str, Account],
        catalogue: Catalogue,
        *,
        store: SqliteStore,
        vault: Vault,
        clock: WallClock,
    ) -> None:
        self.desk = it
        self.store = store
        self.vault = vault
        self.accounts = accounts
        self.catalogue = catalogue
        self.clock = clock
        self.metrics = Metrics()
        self.inquiries = Inquiries(accounts, catalogue, clock=clock, metrics=self.metrics)

    def dealer(self, name: str = "a") -> ScriptedDealer:
        found = self.accounts[name].supplier
        assert isinstance(found, ScriptedDealer)
        return found

    def value(self, name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(self.metrics.render().decode())
        return next((s.value for f in families for s in f.samples if s.name == name and s.labels == labels), None)


MakeOffice: TypeAlias = Callable[..., Awaitable[Office]]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[MakeOffice]:
    """Makes an office: `await office(topup(an_offer("a")), needs_token=True)`."""
    made: list[Office] = []
    store = open_sqlite(tmp_path / "reward.db")
    vault = await Vault.unlock(store, MasterKeys({"m": bytes(32)}))
    async with desk() as it:

        async def make(*products: Product, offered: tuple[str, ...] = ALL, **its: Any) -> Office:
            clock, metrics, known = WallClock(), Metrics(), traits(**its)
            accounts = {
                name: Account(
                    AccountPlan(name=name, adapter="scripted", traits=known),
                    ScriptedDealer(it.url, known, *offered),
                    store=store,
                    sealer=vault.system,
                    clock=clock,
                    metrics=metrics,
                )
                for name in ("b", "a")
            }
            made.append(Office(it, accounts, Catalogue(products), store=store, vault=vault, clock=clock))
            return made[-1]

        yield make
        it.open.set()
        for one in made:
            await one.inquiries.close()
            for account in one.accounts.values():
                await account.close()
    await store.close()


# --- Balances


async def test_balances_of_all_accounts_come_with_their_time(office: MakeOffice) -> None:
    """Every account is asked, and what was heard is in the metrics in yuan."""
    one = await office()
    before = one.clock.now_ms()
    balances = await one.inquiries.balances()
    assert list(balances) == ["a", "b"]
    assert balances["a"].amount == yuan("348.7")
    assert before <= balances["a"].at <= one.clock.now_ms()
    assert balances["a"].problem == ""
    assert one.value("reward_supplier_balance_yuan", account="b") == 348.7
    assert one.value("reward_supplier_calls_total", account="a", operation="balance", result="Answered") == 1


async def test_a_supplier_that_tells_no_balance_is_not_asked(office: MakeOffice) -> None:
    """Some suppliers offer no balance; that is said instead of a number."""
    one = await office(offered=())
    assert (await one.inquiries.balances())["a"] == Balance(problem="the supplier doesn't tell")
    assert one.desk.asked == []
    assert not one.inquiries.offers("a").balance


async def test_a_silent_supplier_delays_no_other_and_shows_what_was_last_heard(
    office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bound the old balance comes with the reason; who asks again doesn't ask the supplier again."""
    one = await office()
    one.dealer("b").offered.clear()
    heard = (await one.inquiries.balances())["a"]
    monkeypatch.setattr(module, "BALANCE_SECONDS", 0.05)
    one.desk.open.clear()
    for _ in range(3):
        assert (await one.inquiries.balances())["a"] == Balance(heard.amount, heard.at, "no answer within 0.05 s")
    assert one.desk.paths == ["balance", "balance"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"<html>", "unreadable"),
        ({"not sent": "configuration"}, "configuration: 1401: signature"),
        ({"wrong": 1}, "a defect of the adapter"),
    ],
)
async def test_why_a_balance_is_not_known_is_said(office: MakeOffice, said: object, problem: str) -> None:
    """A supplier that can't be understood or refuses us is no error of the question, and never pauses the account."""
    one = await office()
    one.desk.says["balance"] = said
    with capture_logs():
        assert (await one.inquiries.balances())["a"] == Balance(problem=problem)
    assert one.accounts["a"].standing().state is AccountState.READY


async def test_a_refused_token_is_renewed_and_the_question_asked_again(office: MakeOffice) -> None:
    """Questions carry the account's token, and renew it like purchases do."""
    one = await office(needs_token=True)
    one.desk.says["balance"] = {"not sent": "token_refused"}
    with capture_logs():
        balances = await one.inquiries.balances()
    assert balances["a"].problem == "token_refused: 1401: signature"
    assert one.desk.paths.count("balance") == 4
    assert all(token == "token1" for path, token in one.desk.asked if path == "balance")
    assert one.desk.paths.count("token") == 4


async def test_balances_are_read_in_the_background(office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics have them without anybody asking, again and again."""
    monkeypatch.setattr(module, "BALANCE_EVERY", 0.01)
    one = await office()
    with running(one.inquiries.keep_balances()):
        await until(lambda: one.desk.paths.count("balance") >= 4)
    assert one.value("reward_supplier_balance_yuan", account="a") == 348.7


# --- Products


async def test_products_are_listed_by_the_suppliers_pages(office: MakeOffice) -> None:
    """The page that was asked for, and whether there may be another."""
    one = await office()
    listing = await one.inquiries.products("a", 3)
    assert (listing.products, listing.more) == ((PRODUCT,), True)
    assert one.desk.paths == ["products/3"]


async def test_a_product_comes_with_its_order_form(office: MakeOffice) -> None:
    """With the recipient's own entry: operators see what the supplier wants."""
    one = await office()
    found = await one.inquiries.product("a", "7")
    assert found.product == PRODUCT
    assert [entry.key for entry in found.form] == ["recharge_account", "zone"]


async def test_a_product_is_shown_without_a_form_that_is_not_known(office: MakeOffice) -> None:
    """What could be learned is worth showing, with the reason for what is missing."""
    one = await office()
    one.desk.says["form"] = b"<html>"
    found = await one.inquiries.product("a", "7")
    assert (found.product, found.form, found.form_problem) == (PRODUCT, (), "unreadable")
    one.dealer().offered.discard("form")
    found = await one.inquiries.product("a", "7")
    assert (found.product, found.form, found.form_problem) == (PRODUCT, (), "")


async def test_what_cannot_be_answered_is_an_error_of_its_own(
    office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown account names the known ones; not offered, not listed and not answering are told apart."""
    one = await office()
    with pytest.raises(SupplierNotFound, match="there are: a, b"):
        await one.inquiries.products("c", 1)
    one.desk.says["product"] = {"found": False}
    with pytest.raises(SupplierProductNotFound, match="'8'"):
        await one.inquiries.product("a", "8")
    one.desk.says["products"] = {"not sent": "rate_limited"}
    with pytest.raises(SupplierUnavailable, match="rate_limited") as unavailable:
        await one.inquiries.products("a", 1)
    assert unavailable.value.retry_after > 0
    one.dealer("b").offered.clear()
    with pytest.raises(NotOfferedBySupplier):
        await one.inquiries.product("b", "7")
    monkeypatch.setattr(module, "QUESTION_SECONDS", 0.05)
    one.desk.open.clear()
    with pytest.raises(SupplierUnavailable, match="no answer within"):
        await one.inquiries.products("a", 1)


async def test_a_defect_of_an_adapter_is_no_defect_of_ours(office: MakeOffice) -> None:
    """An adapter that fails to ask leaves the answer unknown, and the server running."""
    one = await office()
    one.dealer().defects |= {"products", "balance"}
    with capture_logs():
        with pytest.raises(SupplierUnavailable, match="a defect of the adapter"):
            await one.inquiries.products("a", 1)
        assert (await one.inquiries.balances())["a"].problem == "a defect of the adapter"


# --- Order forms


@contextmanager
def running(work: Any) -> Iterator[None]:
    """Lets work run in the background."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


def check(product: Product | None, **parameters: str) -> dict[str, str]:
    """What is wrong with an order of the product: by field."""
    assert product is not None
    request = OrderRequest(
        client_id="shop",
        client_order_id="1",
        product_id=product.product_id,
        quantity=1,
        recipient=None,
        max_unit_price=None,
        supplier_parameters=parameters,
        metadata={},
    )
    try:
        check_against_product(request, product)
    except InvalidRequest as error:
        return {v.field: v.description for v in error.violations if not v.field.startswith("recipient")}
    return {}


async def test_a_form_that_is_not_known_yet_lets_orders_through(office: MakeOffice) -> None:
    """Until the supplier has told what it asks for any key may be given, except the recipient's own."""
    one = await office(topup(an_offer("a")))
    product = one.catalogue.get("topup")
    assert product is not None
    assert not product.form_complete
    assert check(product) == {}
    assert check(product, zone="x", anything="y") == {}
    assert list(check(product, recharge_account="10001")) == ["supplier_parameters['recharge_account']"]


async def test_a_known_form_is_asked_for_and_shown(office: MakeOffice) -> None:
    """What the supplier requires beyond the recipient has to be given, with one of its values; the rest is refused."""
    one = await office(topup(an_offer("a")))
    with running(one.inquiries.keep_forms()), capture_logs():
        await until(lambda: (one.catalogue.get("topup") or topup()).form_complete)
    product = one.catalogue.get("topup")
    assert product is not None
    assert product.form == (FormField(key="zone", label="Zone", options=("a", "b")),)
    assert one.catalogue.page("", 10) == [product]
    where = "supplier_parameters['zone']"
    assert check(product) == {where: "this product needs it (Zone)"}
    assert check(product, zone="c") == {where: "must be one of: a, b"}
    assert check(product, zone="a") == {}
    assert list(check(product, zone="a", colour="red")) == ["supplier_parameters['colour']"]


async def test_only_products_that_are_no_cards_are_asked_about(office: MakeOffice) -> None:
    """Each of the supplier's products once, however many of ours it makes."""
    card = {"kind": ProductKind.CARD, "recipient_kind": RecipientKind.NONE}
    one = await office(
        topup(an_offer("a", "1"), product_id="card", **card),
        topup(an_offer("a", "2"), product_id="t1"),
        topup(an_offer("a", "2"), an_offer("b", "3"), product_id="t2"),
    )
    with running(one.inquiries.keep_forms()), capture_logs():
        await until(lambda: len(one.desk.asked) == 2)
    assert sorted(one.desk.paths) == ["form/2", "form/3"]
    card_product = one.catalogue.get("card")
    assert card_product is not None
    assert card_product.form_complete


async def test_a_supplier_without_forms_changes_nothing(office: MakeOffice) -> None:
    """The configured form is the whole form then, as it always was."""
    configured = topup(an_offer("a"), form=(FormField(key="zone", label="Zone"),))
    one = await office(configured, offered=())
    assert one.catalogue.get("topup") == configured
    with running(one.inquiries.keep_forms()):
        await asyncio.sleep(0)
    assert one.desk.asked == []


async def test_configured_fields_come_first_and_keep_their_words() -> None:
    """A field that is configured keeps its label and values; what a supplier requires is required all the same."""
    mine = (FormField(key="city", label="City"), FormField(key="zone", label="My zone", required=False))
    catalogue = Catalogue([topup(an_offer("a"), an_offer("b"), form=mine)])
    (source_a,), (source_b,) = catalogue.expect_forms("a"), catalogue.expect_forms("b")
    assert catalogue.learn_form(source_a, (RECIPIENT, ZONE))
    product = catalogue.get("topup")
    assert product is not None
    assert not product.form_complete
    extra = FormEntry(key="sex", label="", required=False)
    assert catalogue.learn_form(source_b, (extra, FormEntry(key="zone", label="z", required=False)))
    assert not catalogue.learn_form(source_b, (extra, FormEntry(key="zone", label="z", required=False)))
    product = catalogue.get("topup")
    assert product is not None
    assert product.form_complete
    assert product.form == (
        FormField(key="city", label="City"),
        FormField(key="zone", label="My zone", options=("a", "b")),
        FormField(key="sex", label="sex", required=False),
    )


async def test_what_no_client_could_give_is_not_asked_for() -> None:
    """A supplier's slip must neither break the catalogue nor make a product unorderable for good."""
    catalogue = Catalogue([topup(an_offer("a"))])
    [source] = catalogue.expect_forms("a")
    half = "\ud800"
    catalogue.learn_form(
        source,
        (
            FormEntry(key=half, label="x"),
            FormEntry(key="k" * 65, label="x"),
            FormEntry(key="", label="x"),
            FormEntry(key="zone", label=half, options=(half, "a", "b" * 257)),
        ),
    )
    product = catalogue.get("topup")
    assert product is not None
    assert product.form == (FormField(key="zone", label="zone", options=("a",)),)


async def test_an_error_lists_no_more_values_than_it_has_room_for() -> None:
    """Errors travel in headers; GetProduct has all values."""
    zones = tuple(f"zone {n:03}" for n in range(500))
    catalogue = Catalogue([topup(an_offer("a"), form=(FormField(key="zone", label="Zone", options=zones),))])
    [text] = check(catalogue.get("topup"), zone="x").values()
    assert text.startswith("must be one of: zone 000, zone 001, ")
    assert text.endswith("and 438 more; GetProduct lists them all")
    assert len(text) < 700


async def test_a_form_that_cannot_be_read_is_told_once_and_asked_for_again(
    office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, not one per try; orders go through meanwhile, and a form that changes is learned."""
    monkeypatch.setattr(module, "FORMS_ROUND", 0.01)
    monkeypatch.setattr(module, "FORMS_EVERY", 0.01)
    one = await office(topup(an_offer("a")))
    one.desk.says["form"] = b"<html>"
    with capture_logs() as logs, running(one.inquiries.keep_forms()):
        await until(lambda: len(one.desk.asked) >= 4)
        assert check(one.catalogue.get("topup"), anything="y") == {}
        one.desk.says["form"] = {"form": [form_entry(RECIPIENT)]}
        await until(lambda: (one.catalogue.get("topup") or topup()).form_complete)
        one.desk.says["form"] = {"form": [form_entry(ZONE)]}
        await until(lambda: (one.catalogue.get("topup") or topup()).form)
    assert [entry["log_level"] for entry in logs if "not read" in entry["event"]].count("warning") == 1
    news = [(entry["log_level"], entry["keys"]) for entry in logs if entry["event"] == "order form read"]
    assert news == [("debug", ["recharge_account"]), ("info", ["zone"])]


async def test_a_supplier_that_cannot_be_reached_is_not_asked_for_every_form(office: MakeOffice) -> None:
    """What refuses one question refuses them all: the others wait for the next round."""
    one = await office(topup(an_offer("a", "1"), an_offer("a", "2")))
    one.desk.says["form"] = {"not sent": "rate_limited"}
    with capture_logs():
        await one.inquiries._read_forms("a")
        assert one.desk.paths == ["form/1"]
        one.desk.says["form"] = {"form": []}
        await one.inquiries._read_forms("a")
        assert one.desk.paths == ["form/1", "form/2"]
        one.clock.advance(module.FORMS_ROUND + 1)
        await one.inquiries._read_forms("a")
    assert one.desk.paths == ["form/1", "form/2", "form/1"]


async def test_a_supplier_that_hangs_keeps_no_other_forms_waiting(
    office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every account is read at its own pace, and read again while another one still waits for an answer."""
    monkeypatch.setattr(module, "FORMS_ROUND", 0.01)
    monkeypatch.setattr(module, "FORMS_EVERY", 0.01)
    one = await office(topup(an_offer("a", "1")), topup(an_offer("b", "2"), product_id="other"))
    one.desk.hanging.add("form/1")
    with running(one.inquiries.keep_forms()), capture_logs():
        await until(lambda: one.desk.paths.count("form/2") >= 3)
    assert one.desk.paths.count("form/1") == 1


async def test_a_round_ends_at_the_first_form_that_gets_no_answer(office: MakeOffice) -> None:
    """A hanging supplier isn't waited for once per product; the next round begins with what was never read."""
    one = await office(topup(an_offer("a", "1"), an_offer("a", "2"), an_offer("a", "3")), read_timeout=0.05)
    one.desk.hanging.add("form/1")
    with capture_logs():
        assert not await one.inquiries._read_forms("a")
        assert one.desk.paths == ["form/1"]
        one.clock.advance(module.FORMS_ROUND + 1)
        assert not await one.inquiries._read_forms("a")
    assert one.desk.paths == ["form/1", "form/2", "form/3", "form/1"]
    assert one.value("reward_supplier_calls_total", account="a", operation="form", result="Unclear") == 2


async def test_an_order_is_checked_against_the_form_and_a_replay_is_not(office: MakeOffice) -> None:
    """An order that was taken before the form was known stays taken; a new one has to fill it in. Nobody is asked."""
    one = await office(topup(an_offer("a")))
    engine = Engine(
        store=one.store,
        vault=one.vault,
        catalogue=one.catalogue,
        accounts=one.accounts,
        clock=one.clock,
        new_id=IdSource(one.clock.now_ms),
        metrics=one.metrics,
    )
    request = OrderRequest(
        client_id="shop",
        client_order_id="1",
        product_id="topup",
        quantity=1,
        recipient=Recipient(RecipientKind.ACCOUNT, "player-1"),
        max_unit_price=None,
        supplier_parameters={},
        metadata={},
    )
    try:
        assert not (await engine.create(request)).existed
        one.catalogue.learn_form(FormSource("a", "7"), (RECIPIENT, ZONE))
        assert (await engine.create(request)).existed
        with pytest.raises(InvalidRequest, match="Zone"):
            await engine.create(replace(request, client_order_id="2"))
        assert not (
            await engine.create(replace(request, client_order_id="2", supplier_parameters={"zone": "b"}))
        ).existed
    finally:
        await engine.close()
    assert one.desk.asked == []


# --- Standing


async def test_how_an_account_stands(office: MakeOffice) -> None:
    """Ready, resting with the reason and the end of the rest, paused likewise."""
    one = await office()
    account = one.accounts["a"]
    assert account.standing().state is AccountState.READY
    account.heard(NotSent(cause=NotSentCause.UNREACHABLE, detail="ClientConnectorError", retry_after=30))
    with capture_logs():
        resting = account.standing()
        assert (resting.state, resting.why, resting.detail) == (
            AccountState.RESTING,
            "unreachable",
            "ClientConnectorError",
        )
        assert 29_000 < resting.until - one.clock.now_ms() <= 30_000
        account.heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="1401: signature"))
    paused = account.standing()
    assert (paused.state, paused.why, paused.detail) == (
        AccountState.PAUSED,
        "the supplier refuses us",
        "1401: signature",
    )
    one.clock.advance(61)
    assert account.standing().state is AccountState.READY


async def test_what_accounts_offer(office: MakeOffice) -> None:
    """As their adapters say."""
    one = await office(calls_back=True, queryable=False)
    offers = one.inquiries.offers("a")
    assert (offers.query, offers.callbacks, offers.cancel) == (False, True, False)
    assert (offers.balance, offers.products, offers.order_forms) == (True, True, True)

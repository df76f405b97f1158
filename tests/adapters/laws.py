"""What every adapter must keep, whatever its supplier: the engine relies on it.

A law takes an adapter's *specimen*: how an account of it is configured, what it may be asked to buy, and one genuine
answer for everything its supplier can say. `test_laws.py` holds every adapter in the package to every law here.
"""

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from reward_adapters.contract import (
    SECRET,
    Absent,
    Accepted,
    Adapter,
    Call,
    Callback,
    CallbackRefused,
    Cancelled,
    CancelRefused,
    CancelTaken,
    Catalogue,
    Context,
    Dealer,
    Delivered,
    HttpReply,
    HttpRequest,
    Notice,
    NotOffered,
    NotSent,
    Outcome,
    ProductKind,
    Purchase,
    Refunded,
    Refused,
    Supplier,
    Token,
    Unclear,
)
from reward_adapters.money import Money

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOKEN = "access-token-0123456789abcdefghijklmnopqrst"

OUTCOMES: tuple[type[Outcome], ...] = (Accepted, Delivered, Refused, NotSent, Refunded, Absent, Unclear)


def json_reply(value: object, status: int = 200) -> HttpReply:
    """An answer in JSON."""
    return HttpReply(status, json.dumps(value, ensure_ascii=False).encode(), {"content-type": "application/json"})


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """What the laws need to know of one supplier."""

    adapter: Adapter[Any]
    config: Mapping[str, Any]
    """The keys of an account as Python values, secrets included."""
    purchases: Sequence[Purchase]
    """One of each kind that it sells; answers below are about the first unless they say otherwise."""
    placed: Sequence[tuple[type[Outcome], HttpReply]]
    """Genuine answers to a purchase, one for everything that the supplier can say, and what each means."""
    found: Sequence[tuple[type[Outcome], HttpReply]] = ()
    """The same for looks; empty when it has no query."""
    unreachable: Mapping[type[Outcome], str] = field(default_factory=dict)
    """Outcomes that the supplier has no words for, and why."""
    token: HttpReply | None = None
    """A genuine answer to the request for an access token."""
    callback: Callback | None = None
    """A genuine callback about the first purchase, as a form or as flat JSON."""
    unsigned: frozenset[str] = frozenset()
    """Fields of the callback that its signature doesn't cover."""
    reference: str = "REFERENCE1"
    """The supplier's own number in the answers."""
    cancelled: HttpReply | None = None
    balance: HttpReply | None = None
    products: HttpReply | None = None
    product: HttpReply | None = None
    order_form: HttpReply | None = None
    """Genuine answers to the questions that the supplier offers."""

    @property
    def dealer(self) -> Dealer:
        """The account at work."""
        return self.adapter.supplier(self.adapter.config(**self.config))

    @property
    def context(self) -> Context:
        """Of every call."""
        return Context(NOW, TOKEN if self.dealer.traits.needs_token else None)

    @property
    def secrets(self) -> list[str]:
        """What must not be seen outside requests."""
        keys = [spec.name for spec in dataclasses.fields(self.adapter.config) if spec.metadata.get(SECRET)]
        values = [str(self.config[key]) for key in keys]
        recipients = [purchase.recipient.value for purchase in self.purchases if purchase.recipient]
        return [*values, TOKEN, *recipients]

    def place(self, purchase: Purchase | None = None) -> Call[Outcome]:
        """The exchange that buys. Fails where the adapter refuses by itself."""
        call = self.dealer.place(purchase or self.purchases[0], self.context)
        assert isinstance(call, Call), f"the specimen's purchase is refused before it is sent: {call}"
        return call

    def query(self, *purchases: Purchase) -> Call[Mapping[str, Outcome]]:
        """The exchange that asks."""
        call = self.dealer.query(purchases or self.purchases[:1], self.context)
        assert isinstance(call, Call), "Traits.queryable, but `query` is not offered"
        return call

    def readers(self) -> Iterator[tuple[str, Callable[[HttpReply], Any], Sequence[HttpReply]]]:
        """Every reader of answers, with its genuine answers."""
        yield "place", self.place().read, [reply for _, reply in self.placed]
        if self.dealer.traits.queryable:
            yield "query", self.query().read, [reply for _, reply in self.found]
        for name, call, reply in self.questions():
            yield name, call.read, [reply]

    def questions(self) -> Iterator[tuple[str, Call[Any], HttpReply]]:
        """What is offered beside buying and looking."""
        dealer, context = self.dealer, self.context
        bought = replace(self.purchases[0], supplier_reference=self.reference)
        offered: list[tuple[str, Call[Any] | NotOffered, HttpReply | None]] = [
            ("fetch_token", dealer.fetch_token(context), self.token),
            ("cancel", dealer.cancel(bought, context), self.cancelled),
            ("balance", dealer.balance(context), self.balance),
            ("products", dealer.products(context), self.products),
            ("product", dealer.product(bought.supplier_product, context), self.product),
            ("order_form", dealer.order_form(bought.supplier_product, context), self.order_form),
        ]
        for name, call, reply in offered:
            if isinstance(call, NotOffered):
                assert reply is None, f"the specimen answers `{name}`, which isn't offered"
                continue
            assert reply is not None, f"`{name}` is offered: the specimen needs a genuine answer to it"
            yield name, call, reply


Law = Callable[[Specimen], None]
LAWS: list[Law] = []


def law(function: Law) -> Law:
    """Enters a law."""
    LAWS.append(function)
    return function


# --- The file ---------------------------------------------------------------------------------------------------------


@law
def it_has_every_method_of_both_protocols(specimen: Specimen) -> None:
    """What the supplier doesn't offer is a `NotOffered`, never a missing method."""
    names = [name for protocol in (Supplier, Catalogue) for name in vars(protocol) if not name.startswith("_")]
    missing = [name for name in names if not hasattr(specimen.dealer, name)]
    assert missing == [], f"missing: {', '.join(missing)}"


@law
def its_configuration_is_frozen_and_its_secrets_are_marked(specimen: Specimen) -> None:
    """So that no account prints its key, and every secret may come from a file."""
    config = specimen.adapter.config
    assert dataclasses.is_dataclass(config), "config must be a dataclass"
    assert config.__dataclass_params__.frozen, "config must be frozen"  # type: ignore[attr-defined]
    for spec in dataclasses.fields(config):
        looks_secret = any(word in spec.name for word in ("secret", "apikey", "password", "private"))
        assert not looks_secret or spec.metadata.get(SECRET), f"{spec.name} looks like a secret: make it by secret()"
    shown = repr(config(**specimen.config))
    assert [value for value in specimen.secrets if value in shown] == []


@law
def its_durations_make_sense(specimen: Specimen) -> None:
    """Deadlines for every kind that it sells; no look before something could be there."""
    traits = specimen.dealer.traits
    for purchase in specimen.purchases:
        assert traits.send_by[purchase.product_kind] > 0
        assert traits.settle_by[purchase.product_kind] >= traits.read_timeout
    assert traits.look_delays
    assert min(traits.look_delays) > 0
    assert list(traits.look_delays) == sorted(traits.look_delays), "looks get rarer, never closer"
    assert traits.query_batch >= 1
    assert traits.max_units_per_purchase >= 1
    assert traits.queryable or not traits.absence_resends, "who can't ask can't prove absence"
    assert traits.queryable or traits.calls_back or any(p.product_kind.delivers_cards for p in specimen.purchases)


# --- Requests ---------------------------------------------------------------------------------------------------------


@law
def it_writes_to_its_own_site_only(specimen: Specimen) -> None:
    """Every request goes under the account's `base_url`."""
    base = str(specimen.config["base_url"])
    for request in requests(specimen):
        assert urlsplit(request.url)[:2] == urlsplit(base)[:2], request
        assert request.method == "POST", "a GET may be repeated by whoever carries it"


@law
def it_says_the_same_when_asked_again(specimen: Specimen) -> None:
    """A request is a function of the purchase and the context."""
    for purchase in specimen.purchases:
        assert specimen.place(purchase).request == specimen.place(purchase).request


@law
def its_requests_name_our_number(specimen: Specimen) -> None:
    """It is what everything else is found by."""
    for purchase in specimen.purchases:
        assert purchase.number.encode() in specimen.place(purchase).request.body


@law
def its_requests_print_no_secret(specimen: Specimen) -> None:
    """Neither keys and tokens nor recipients."""
    for request in requests(specimen):
        assert [value for value in specimen.secrets if value in f"{request!r} {request.safe_url}"] == []


@law
def its_price_guard_follows_the_limit(specimen: Specimen) -> None:
    """A supplier with a guard is told the limit (or, where it takes nothing but the price, the cost)."""
    if not specimen.dealer.traits.price_guard:
        return
    purchase = specimen.purchases[0]
    other = replace(
        purchase, unit_limit=Money(purchase.unit_limit + 10_000), unit_cost=Money(purchase.unit_cost + 10_000)
    )
    assert specimen.place(other).request.body != specimen.place(purchase).request.body


def requests(specimen: Specimen) -> Iterator[HttpRequest]:
    """Every request that it can write."""
    for purchase in specimen.purchases:
        yield specimen.place(purchase).request
        if specimen.dealer.traits.queryable:
            yield specimen.query(purchase).request
    for _, call, _ in specimen.questions():
        yield call.request


# --- Answers ----------------------------------------------------------------------------------------------------------


@law
def it_reads_every_genuine_answer(specimen: Specimen) -> None:
    """Each as the specimen says."""
    for meaning, reply in specimen.placed:
        assert isinstance(specimen.place().read(reply), meaning), f"{reply.body!r} → {specimen.place().read(reply)}"
    for meaning, reply in specimen.found:
        found = specimen.query().read(reply)[specimen.purchases[0].number]
        assert isinstance(found, meaning), f"{reply.body!r} → {found}"
    for name, call, reply in specimen.questions():
        assert not isinstance(call.read(reply), NotSent | Unclear), f"{name}: {reply.body!r} → {call.read(reply)}"


@law
def every_outcome_is_shown_or_excused(specimen: Specimen) -> None:
    """What the supplier can't say has a reason in the specimen."""
    shown = {meaning for meaning, _ in (*specimen.placed, *specimen.found)}
    missing = [meaning.__name__ for meaning in OUTCOMES if meaning not in shown and meaning not in specimen.unreachable]
    assert missing == [], f"the specimen shows no answer that means {', '.join(missing)}"
    both = shown & set(specimen.unreachable)
    assert not both, f"shown and called unreachable: {both}"


JUNK: Sequence[bytes] = (
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b"[]",
    b"{}",
    b'""',
    b'"ok"',
    b"success",
    b"<html><body>502 Bad Gateway</body></html>",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf",
    b"{'code': 0}",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"NaN",
    b'{"code": NaN, "data": Infinity}',
    b'{"code": 1e400}',
    b'{"code": ' + b"9" * 5_000 + b"}",
    b'{"status": "\\ud800"}',
    b'{"code": "\\u0000"}',
    b"{}" * 10,
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
)


@law
def junk_means_nothing(specimen: Specimen) -> None:
    """HTML, half a gzip, deep nesting, numbers without end: unclear, whatever the HTTP status; never a verdict."""
    for body in JUNK:
        for status in (200, 204, 302, 404, 500, 502, 503):
            reply = HttpReply(status, body, {"content-type": "text/html"})
            for name, read, _ in specimen.readers():
                for outcome in outcomes(read(reply)):
                    assert isinstance(outcome, Unclear | NotSent), f"{name}: HTTP {status} {body[:40]!r} → {outcome}"
            assert isinstance(specimen.place().read(reply), Unclear), f"HTTP {status} {body[:40]!r}"


@law
def a_cut_answer_means_nothing(specimen: Specimen) -> None:
    """Wherever it is cut: half a card is no card, half a refusal no refusal."""
    for name, read, replies in specimen.readers():
        for reply in replies:
            whole = reply.body.rstrip()
            for end in range(len(whole)):
                for outcome in outcomes(read(replace(reply, body=whole[:end]))):
                    assert isinstance(outcome, Unclear | NotSent), f"{name}: {whole[:end]!r} → {outcome}"


STRANGE: Sequence[object] = (
    None,
    [],
    {},
    "",
    "\u0000",
    "x" * 5_000,
    True,
    1.5,
    -7,
    10**30,
    -(10**30),
    [[]],
    {"x": {}},
    [None],
)


@law
def a_strange_value_anywhere_is_survived(specimen: Specimen) -> None:
    """Every value of every genuine answer, replaced by every strange one: no crash, and from a success never proof of
    the contrary."""
    for name, read, replies in specimen.readers():
        for reply in replies:
            meant = {type(outcome) for outcome in outcomes(read(reply))}
            for path, changed in mutations(reply):
                for outcome in outcomes(read(changed)):
                    proves_absence = isinstance(outcome, Absent) or (isinstance(outcome, Refused) and outcome.certain)
                    from_success = bool(meant & {Accepted, Delivered})
                    listed_less = name == "query" and isinstance(outcome, Absent)
                    assert not (proves_absence and from_success and not listed_less), f"{name}: {path} → {outcome}"
                    assert not isinstance(outcome, Delivered) or Delivered in meant or Accepted in meant, (
                        f"{name}: {path} → {outcome}"
                    )


def mutations(reply: HttpReply) -> Iterator[tuple[str, HttpReply]]:
    """A JSON answer with one value after another replaced, or left out."""
    try:
        whole = json.loads(reply.body)
    except ValueError:
        return
    for path in paths(whole):
        for strange in STRANGE:
            yield f"{path} = {strange!r:.20}", replace(reply, body=json.dumps(put(whole, path, strange)).encode())
        yield f"without {path}", replace(reply, body=json.dumps(put(whole, path, leave_out=True)).encode())


def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all values inside one."""
    if path:
        yield path
    members: Sequence[tuple[str | int, object]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    for key, member in members:
        yield from paths(member, (*path, key))


def put(whole: Any, path: tuple[str | int, ...], value: object = None, *, leave_out: bool = False) -> Any:
    """A copy with another value at a place."""
    copy = deepcopy(whole)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if leave_out:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


@law
def a_look_answers_for_every_number_and_no_other(specimen: Specimen) -> None:
    """Matched by number: an answer about another order is no answer about ours."""
    if not specimen.dealer.traits.queryable:
        return
    batch = specimen.dealer.traits.query_batch
    asked = [replace(specimen.purchases[0], number=f"NUMBER{i:020}") for i in range(min(batch, 5))]
    for _, reply in specimen.found:
        if specimen.purchases[0].number.encode() not in reply.body:
            # It names no order: the supplier answers for the one number that it was asked about.
            continue
        found = specimen.query(*asked).read(reply)
        assert set(found) == {purchase.number for purchase in asked}
        for outcome in found.values():
            assert not isinstance(outcome, Delivered | Accepted | Refunded), f"{reply.body!r} → {outcome}"


@law
def too_many_requests_is_told_by_http_429(specimen: Specimen) -> None:
    """Nothing was taken, and the account rests as long as it is asked to."""
    reply = HttpReply(429, b"slow down", {"retry-after": "7"})
    outcome = specimen.place().read(reply)
    assert isinstance(outcome, NotSent), outcome
    assert (outcome.cause.name, outcome.retry_after) == ("RATE_LIMITED", 7.0)
    if specimen.dealer.traits.queryable:
        for found in specimen.query().read(reply).values():
            assert isinstance(found, NotSent), found


@law
def what_it_says_of_an_answer_holds_no_secret(specimen: Specimen) -> None:
    """Answers quote what was sent: a card or a key in the place of any text of an answer doesn't show."""
    card = "CNRY-7F3K-22QX-9ZTB"
    planted = [card, *specimen.secrets]
    for name, read, replies in specimen.readers():
        for reply in replies:
            for path, changed in planted_texts(reply, planted):
                for outcome in outcomes(read(changed)):
                    shown = repr(outcome) if not isinstance(outcome, Token) else ""
                    leaked = [value for value in planted if value in shown or quote(value, safe="") in shown]
                    named = getattr(outcome, "supplier_reference", None) or ""
                    leaked = [value for value in leaked if value not in named]
                    assert name in SHOWS_PRODUCTS or leaked == [], f"{name}: {path} → {shown}"


SHOWS_PRODUCTS = ("products", "product", "order_form")
"""What is on sale is no secret: its texts are shown."""


def planted_texts(reply: HttpReply, planted: Sequence[str]) -> Iterator[tuple[str, HttpReply]]:
    """A JSON answer with each text in it replaced by secrets."""
    try:
        whole = json.loads(reply.body)
    except ValueError:
        return
    text = " ".join(planted)
    for path in paths(whole):
        yield str(path), replace(reply, body=json.dumps(put(whole, path, text), ensure_ascii=False).encode())


def outcomes(read: object) -> Sequence[object]:
    """What a reader returned, as a list."""
    return list(read.values()) if isinstance(read, Mapping) else [read]


# --- Callbacks --------------------------------------------------------------------------------------------------------


@law
def a_genuine_callback_is_understood(specimen: Specimen) -> None:
    """It names our number; where the supplier can be asked, it is no evidence by itself."""
    if specimen.callback is None:
        assert not specimen.dealer.traits.calls_back, "Traits.calls_back: the specimen needs a genuine callback"
        read = specimen.dealer.read_callback(Callback(b"a=b"))
        assert isinstance(read, NotOffered | CallbackRefused)
        return
    notice = specimen.dealer.read_callback(specimen.callback)
    assert isinstance(notice, Notice), notice
    assert notice.number == specimen.purchases[0].number
    assert not (specimen.dealer.traits.queryable and notice.outcome is not None), "who can be asked is asked"


@law
def a_forged_callback_is_refused(specimen: Specimen) -> None:
    """Cut anywhere, with any signed byte changed, or junk."""
    if specimen.callback is None:
        return
    genuine = specimen.dealer.read_callback(specimen.callback)
    body = specimen.callback.body
    for end in range(len(body)):
        read = specimen.dealer.read_callback(replace(specimen.callback, body=body[:end]))
        assert isinstance(read, CallbackRefused), body[:end]
    for junk in JUNK:
        assert isinstance(specimen.dealer.read_callback(replace(specimen.callback, body=junk)), CallbackRefused)
    for i in range(len(body)):
        for byte in (b"0", b"z", b"&", b'"', b"\xff"):
            forged = body[:i] + byte + body[i + 1 :]
            read = specimen.dealer.read_callback(replace(specimen.callback, body=forged))
            # A change may leave the same content (letter case of a digest), or touch what isn't signed.
            assert isinstance(read, CallbackRefused) or read == genuine or unsigned_at(specimen, i), forged


def unsigned_at(specimen: Specimen, place: int) -> bool:
    """Whether a byte of the callback belongs to a field that isn't signed."""
    assert specimen.callback is not None
    before = specimen.callback.body[: place + 1].decode(errors="replace")
    return any(key in before for key in specimen.unsigned)


@law
def a_callback_prints_nothing(specimen: Specimen) -> None:
    """Neither the callback nor what was made of it shows a secret."""
    if specimen.callback is None:
        return
    shown = f"{specimen.callback!r} {specimen.dealer.read_callback(specimen.callback)!r}"
    assert [value for value in specimen.secrets if value in shown] == []


# --- Tokens -----------------------------------------------------------------------------------------------------------


@law
def a_token_is_fetched_where_one_is_needed(specimen: Specimen) -> None:
    """And does not print."""
    call = specimen.dealer.fetch_token(Context(NOW))
    assert isinstance(call, Call) is specimen.dealer.traits.needs_token
    if isinstance(call, Call):
        assert specimen.token is not None
        token = call.read(specimen.token)
        assert isinstance(token, Token), token
        assert token.value not in repr(token)
        assert token.expires_in > 0
        for body in JUNK:
            assert isinstance(call.read(HttpReply(200, body)), NotSent)


@law
def a_cancel_that_is_not_understood_proves_nothing(specimen: Specimen) -> None:
    """Only a clear answer cancels."""
    for name, call, reply in specimen.questions():
        if name != "cancel":
            continue
        assert isinstance(call.read(reply), Cancelled | CancelTaken)
        for path, changed in mutations(reply):
            read = call.read(changed)
            assert isinstance(read, Cancelled | CancelTaken | CancelRefused | NotSent | Unclear), f"{path} → {read}"


def example_purchase(kind: ProductKind, **changes: Any) -> Purchase:
    """A purchase for specimens."""
    facts: dict[str, Any] = {
        "number": "01K5TESTNUMBER000000000001",
        "product_kind": kind,
        "supplier_product": "1001",
        "quantity": 1,
        "recipient": None,
        "unit_cost": Money(100_000),
        "unit_limit": Money(110_000),
    }
    return Purchase(**{**facts, **changes})


assert set(OUTCOMES) == set(typing.get_args(Outcome))

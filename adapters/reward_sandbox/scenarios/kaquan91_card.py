"""What 91 Kaquan sells as cards: the secrets are in the create answer and in the query."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from reward_sandbox.faults import (
    LATE,
    Call,
    Fault,
    bad_utf8,
    cut,
    dropped,
    edited,
    empty,
    half,
    html,
    late,
    mislabelled,
    never,
    proper,
    rate_limited,
    refused,
)
from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import Behaviour, Card, Control, Expect, Scenario, Stage

SURCHARGES: Final = {
    "10": Decimal("0.0015"),
    "12": Decimal("0.003"),
    "24": Decimal("0.006"),
    "48": Decimal("0.015"),
}
"""Warranty in hours to the rate it adds (create-order page, appendix)."""

HOUR: Final = 3600.0
PAST_WARRANTY: Final = 10.2 * HOUR
"""Beyond the ten hours that most products here are sold with."""

CALLBACKS: Final = ("recharge", "recharge-wrong-secret", "price-notice", "price-notice-wrong-secret")
"""What claims to be a callback: none exists for cards."""

SOON: Final = {"settle_by_seconds": 1.0}
"""A person is called after a second instead of a quarter of an hour."""

GIVE_UP_SOON: Final = {"send_by_seconds": 1.0}
"""What can't be sent is given up after a second instead of a quarter of an hour."""


# --- Cards ------------------------------------------------------------------------------------------------------------


def _activation_code(press: Press) -> Card:
    return {"card_num": press.groups(4), "card_pass": ""}


def _number_and_password(press: Press) -> Card:
    return {"card_num": f"{CANARY}{press.digits(16)}", "card_pass": press.groups(3)}


def _qr_picture(press: Press) -> Card:
    code = CANARY + press.code(16)
    return {"card_num": f"https://img.kaquan.example/qr/{code}.png", "card_pass": f"https://q.kaquan.example/{code}"}


def _link_and_secret(press: Press) -> Card:
    """The secret is in `card_num` here, the address in `card_pass`: the other way round than type 1."""
    return {"card_num": press.groups(3), "card_pass": f"https://exchange.kaquan.example/{CANARY}/redeem"}


def _direct_link(press: Press) -> Card:
    return {
        "card_num": f"https://r.kaquan.example/{CANARY}{press.code(20)}",
        "card_pass": "打开链接，登录后点击领取，即时到账",
    }


_SHAPES: Final = (_activation_code, _number_and_password, _qr_picture, _link_and_secret, _direct_link)


# --- Courses ----------------------------------------------------------------------------------------------------------


def _blank(entry: dict[str, Any]) -> dict[str, Any]:
    """A card that isn't there yet: its entry is."""
    return {**entry, "card_num": "", "card_pass": ""}


IN_WARRANTY: Final = Stage(2, cards=True, outcome="delivered")
CONFIRMED: Final = Stage(3, cards=True, outcome="delivered")
BLANK: Final = Stage(1, cards=True, entry=_blank)
CANCELLED: Final = Stage(6, cards=True, refund=Decimal(1), outcome="failed")
AN_HOUR_LATER: Final = replace(IN_WARRANTY, seconds=HOUR)
DISPUTED: Final = Stage(4, cards=True, outcome="delivered")


# --- Answers that differ ----------------------------------------------------------------------------------------------


def _no_cards(answer: Any) -> Any:
    return {**answer, "result": []}


def _null(answer: Any) -> Any:
    return {**answer, "result": None}


def _no_other(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name != "other"}


def _strange_code(answer: Any) -> Any:
    return {**answer, "code": 2}


def _one_object(answer: Any) -> Any:
    return {**answer, "result": answer["result"][0]}


def _other_types(answer: Any) -> Any:
    """Texts where the sample has numbers, and numbers where it has texts."""
    other = answer.get("other")
    changed = {**answer, "code": str(answer["code"]), "result": [_entry_types(entry) for entry in answer["result"]]}
    return {**changed, "other": {**other, "card_id": str(other["card_id"])}} if other else changed


def _entry_types(entry: dict[str, Any]) -> dict[str, Any]:
    card_id = {"card_id": str(entry["card_id"])} if "card_id" in entry else {}
    return {**entry, **card_id, "status": str(entry["status"]), "money": float(entry["money"])}


def _columns_as_numbers(answer: Any) -> Any:
    """Leading zeros would be lost: no card can be read from it."""
    return {**answer, "result": [{**entry, "card_num": 12345, "card_pass": 678} for entry in answer["result"]]}


def _no_status(answer: Any) -> Any:
    return {**answer, "result": [{**entry, "status": ""} for entry in answer["result"]]}


def _type_nine(answer: Any) -> Any:
    return {**answer, "result": [{**entry, "type": "9"} for entry in answer["result"]]}


def _other_product(answer: Any) -> Any:
    return {**answer, "other": {**answer["other"], "card_id": 999999}}


def _one_more(answer: Any) -> Any:
    last = answer["result"][-1]
    more = {**last, "order_id": f"{last['order_id']}9", "card_num": f"{last['card_num']}9"}
    return {**answer, "result": [*answer["result"], more]}


def _one_number_twice(answer: Any) -> Any:
    first = answer["result"][0]
    return {**answer, "result": [first, {**answer["result"][1], "order_id": first["order_id"]}]}


def _other_secret(answer: Any) -> Any:
    return {**answer, "result": [{**entry, "card_pass": f"{CANARY}-OTHER"} for entry in answer["result"]]}


# --- What the service makes of it -------------------------------------------------------------------------------------

DELIVERED: Final = Expect(cards=1, after_sale="warranty")


def _delivered(cards: int = 1, **more: Any) -> Expect:
    """Fulfilled; the warranty runs."""
    return replace(DELIVERED, cards=cards, **more)


def _not_bought(failure: str, **more: Any) -> Expect:
    return Expect(state="failed", failure=failure, charges=0, **more)


def _review(reason: str, **more: Any) -> Expect:
    return Expect(state="needs_review", reviews=(reason,), alerts=("review",), **more)


def _scenario(
    name: str,
    product: int,
    title: str,
    description: str,
    *,
    expect: Expect = DELIVERED,
    shows: tuple[int, ...],
    codes: tuple[str, ...] = (),
    card_type: int = 1,
    told_type: int | None = None,
    hours: str = "10",
    stages: tuple[Stage, ...] = (IN_WARRANTY,),
    faults: Mapping[Call, Sequence[Fault]] | None = None,
    stock: int = 1_000_000,
    listed_stock: int | None = None,
    price: Decimal | None = None,
    maximum: int | None = None,
    duplicates: str = "",
    extra: Mapping[str, Any] | None = None,
    **more: Any,
) -> Scenario:
    """One product; `told_type`: the true type of its cards, which our catalogue has wrong and the answers tell."""
    told = {} if told_type is None else {"type": told_type, "typed": True}
    behaviour = Behaviour(
        stages,
        _SHAPES[card_type if told_type is None else told_type],
        faults=faults or {},
        stock=stock,
        listed_stock=listed_stock,
        price=price,
        maximum=maximum,
        repeated_request=bool(duplicates),
        modes={"duplicates": duplicates} if duplicates else {},
        extra={**told, **(extra or {})},
    )
    return Scenario(
        name=name,
        product=str(product),
        title=f"91 {title}",
        description=description,
        kind="card",
        face_value=Decimal("50.00"),
        unit_price=Decimal("40.00"),
        recipient="none",
        behaviour=behaviour,
        expect=expect,
        shows=shows,
        codes=codes,
        surcharge=SURCHARGES.get(hours, Decimal(0)),
        parameters={"auto_confirm_hour": hours, "card_type": str(card_type)},
        **more,
    )


_TYPES: Final = (
    _scenario("type-0", 1840, "激活码 50元", "activation code in card_num, card_pass empty", card_type=0, shows=(1,)),
    _scenario(
        "type-1",
        1841,
        "卡号密码 50元",
        "card number and password; times as text",
        shows=(1, 5, 13),
        codes=("code 1", "status 2"),
    ),
    _scenario(
        "type-2", 1842, "二维码 50元", "picture URL in card_num, QR content in card_pass", card_type=2, shows=(1,)
    ),
    _scenario(
        "type-3", 1843, "链接卡密 50元", "secret in card_num, redemption address in card_pass", card_type=3, shows=(1,)
    ),
    _scenario("type-4", 1844, "链接直兑 50元", "link in card_num, instructions in card_pass", card_type=4, shows=(1,)),
    *(
        _scenario(
            f"told-type-{told_type}",
            1850 + told_type,
            f"{('激活码', '卡号密码', '二维码', '链接卡密', '链接直兑')[told_type]} 50元（类型在应答中）",
            f'the entry has type "{told_type}" and typeName; our catalogue says {listed}',
            card_type=listed,
            told_type=told_type,
            shows=(1,),
            expect=_delivered(says="What the answer says of the card's type counts, not the catalogue."),
        )
        for told_type, listed in enumerate((1, 3, 1, 1, 1))
    ),
)

_QUANTITIES: Final = (
    _scenario(
        "three-cards",
        1855,
        "卡号密码 50元（三张）",
        "three entries with numbers and prices of their own under one pay_order_id",
        quantity=3,
        shows=(2,),
        expect=_delivered(3),
    ),
    _scenario(
        "twelve-cards",
        1856,
        "卡号密码 50元（十二张）",
        "ten entries and two, under two numbers: an offer here takes ten at once",
        quantity=12,
        shows=(2,),
        expect=_delivered(12, charges=2, requests=2),
    ),
    _scenario(
        "partial",
        1857,
        "卡号密码 50元（后补齐）",
        "two entries for num=3, two looks later three",
        quantity=3,
        stages=(replace(IN_WARRANTY, shown=2, looks=2), IN_WARRANTY),
        shows=(3,),
        expect=_delivered(3),
    ),
    _scenario(
        "partial-for-good",
        1858,
        "卡号密码 50元（缺一张）",
        "two entries for num=3, and never more",
        quantity=3,
        stages=(replace(IN_WARRANTY, shown=2),),
        account=SOON,
        shows=(3,),
        expect=_review("deadline", cards=2, after_sale="warranty", says="The two cards that came are shown."),
    ),
    _scenario(
        "one-too-many",
        1859,
        "卡号密码 50元（多一张）",
        "two entries for num=1",
        faults={"create": (edited("one entry more", _one_more),)},
        shows=(3,),
        expect=_review("too_many_cards", says="Nobody can tell which card was paid for: none is shown."),
    ),
)

_DELAYS: Final = (
    _scenario(
        "delayed",
        1860,
        "卡号密码 50元（延迟出卡）",
        "code 1 with an empty list; the query has an entry in state 1 without content, two looks later the card",
        stages=(replace(BLANK, looks=2), IN_WARRANTY),
        faults={"create": (edited("no cards yet", _no_cards),)},
        shows=(4,),
        codes=("status 1",),
    ),
    _scenario(
        "delayed-entry",
        1861,
        "卡号密码 50元（延迟出卡，空卡）",
        "already the create answer has an entry in state 1 without content",
        stages=(replace(BLANK, looks=1), IN_WARRANTY),
        shows=(4,),
    ),
    _scenario(
        "delayed-silently",
        1862,
        "卡号密码 50元（延迟出卡，查询为空）",
        "code 1 with an empty list and a pay_order_id; so has the query for two looks, then the card",
        stages=(Stage(1, looks=2), IN_WARRANTY),
        shows=(4,),
        expect=_delivered(says="An empty list isn't taken for an unknown number: the order was paid for."),
    ),
    _scenario(
        "forgotten",
        1869,
        "卡号密码 50元（查无订单）",
        "code 1 with an empty list; two looks are told that there is no such order, a later one shows the card",
        stages=(replace(BLANK, looks=3), IN_WARRANTY),
        faults={
            "create": (edited("no cards yet", _no_cards),),
            "query": (refused("0", "订单不存在"), refused("0", "未找到该订单")),
        },
        shows=(4, 10),
        expect=_delivered(
            alerts=("contradiction",), says="What was accepted isn't given up because the supplier forgets it."
        ),
    ),
    _scenario(
        "delayed-for-good",
        1863,
        "卡号密码 50元（不出卡）",
        "code 1 with an empty list, and never a card",
        stages=(BLANK,),
        faults={"create": (edited("no cards yet", _no_cards),)},
        account=SOON,
        shows=(4,),
        expect=_review("deadline"),
    ),
    _scenario(
        "delayed-too-long",
        1864,
        "卡号密码 50元（超时后出卡）",
        "state 7, which nobody documented, for longer than the settling deadline; then the card",
        stages=(Stage(7, looks=10, cards=True), IN_WARRANTY),
        account=SOON,
        shows=(4,),
        expect=_delivered(alerts=("review",), says="A person is called; the card ends the review by itself."),
    ),
)

_WARRANTIES: Final = (
    *(
        _scenario(
            f"warranty-{hours}",
            product,
            f"卡号密码 50元（质保{hours}小时）",
            f"auto_confirm_hour={hours}, {SURCHARGES[hours]:.2%} dearer",
            hours=hours,
            shows=(5,),
        )
        for product, hours in ((1865, "12"), (1866, "24"), (1867, "48"))
    ),
    _scenario(
        "warranty-not-sold",
        1868,
        "卡号密码 50元（无此质保）",
        "the product has 10 and 24 hours, ours asks for 48: code 0",
        hours="48",
        extra={"hours": ("10", "24")},
        shows=(5, 7),
        expect=_not_bought("product_unavailable"),
    ),
)

_PRICES: Final = (
    _scenario(
        "price-above",
        1870,
        "卡号密码 50元（涨价）",
        "41.06 with its surcharge, above order_money 40.56: code 0",
        price=Decimal("41.00"),
        shows=(6,),
        expect=_not_bought("price_above_limit", alerts=("supplier_price",)),
    ),
    _scenario(
        "price-equal",
        1871,
        "卡号密码 50元（到限价）",
        "40.56 with its surcharge, exactly order_money",
        price=Decimal("40.50"),
        shows=(6,),
    ),
    _scenario(
        "price-below",
        1872,
        "卡号密码 50元（降价）",
        "39.06 with its surcharge, below order_money",
        price=Decimal("39.00"),
        shows=(6,),
    ),
    _scenario(
        "price-unchecked",
        1873,
        "卡号密码 50元（限价失效）",
        "45.07 with its surcharge is charged although order_money says 40.56",
        price=Decimal("45.00"),
        extra={"unguarded": True},
        shows=(6,),
        expect=_delivered(reviews=("overcharged",), alerts=("overcharged",)),
    ),
    _scenario(
        "price-unlimited",
        1927,
        "卡号密码 50元（不限价）",
        "a proxy writes order_money=0 and signs it as the rule says: no limit, 45.07 is charged",
        price=Decimal("45.00"),
        extra={"rewritten": "no-limit"},
        shows=(6, 15),
        expect=_delivered(reviews=("overcharged",), alerts=("overcharged",)),
    ),
)

_REFUSED_US: Final = _not_bought("not_sent_in_time", alerts=("supplier_refuses_us",))

_ON_THE_WAY: Final = tuple(
    _scenario(
        f"signed-{proxy}",
        product,
        f"卡号密码 50元（代理签名：{title}）",
        f"a proxy {what}: code 0 about the signature",
        extra={"rewritten": proxy},
        account=GIVE_UP_SOON,
        shows=(15,),
        expect=_REFUSED_US,
    )
    for proxy, product, title, what in (
        ("unsorted", 1923, "乱序", "signs the fields backwards"),
        ("lower-case", 1924, "小写", "writes the digest in lower case"),
        ("empty-signed", 1925, "空参数", "adds an empty field and signs it, too"),
        (
            "zero-unsigned",
            1926,
            "零值",
            "writes order_money=0 and leaves the 0 out of what it signs, as if it were empty",
        ),
    )
)

_REFUSALS: Final = (
    _scenario(
        "out-of-stock",
        1845,
        "卡号密码 50元（缺货）",
        "refused with code 0, nothing is booked",
        stock=0,
        shows=(7,),
        codes=("code 0",),
        expect=_not_bought("out_of_stock"),
    ),
    _scenario(
        "wrong-secret",
        1874,
        "卡号密码 50元（签名错误）",
        "our secret is not the supplier's: code 0 about the signature",
        account={**GIVE_UP_SOON, "appsecret": "not-the-secret"},
        shows=(7, 15),
        expect=_not_bought(
            "not_sent_in_time",
            alerts=("supplier_refuses_us",),
            says="The account is paused; the same number waits until its sending deadline.",
        ),
    ),
    _scenario(
        "unknown-appid",
        1875,
        "卡号密码 50元（appid错误）",
        "our appid is none of the supplier's: code 0",
        account={**GIVE_UP_SOON, "appid": "10000"},
        shows=(7,),
        expect=_not_bought("not_sent_in_time", alerts=("supplier_refuses_us",)),
    ),
    _scenario(
        "unauthorised",
        1931,
        "卡号密码 50元（未授权）",
        "every purchase is answered by HTTP 401 without a body",
        faults={"create": (empty(401).unbooked().always(),)},
        account=GIVE_UP_SOON,
        shows=(7,),
        codes=("HTTP 401",),
        expect=_not_bought("not_sent_in_time", alerts=("supplier_refuses_us",)),
    ),
    _scenario(
        "ip-not-registered",
        1876,
        "卡号密码 50元（IP未备案）",
        "code 0 about our IP; a minute later it is registered",
        faults={"create": (refused("0", "IP未加入白名单，请联系管理员"),)},
        lapse=90.0,
        shows=(7,),
        expect=_delivered(
            requests=2,
            alerts=("supplier_refuses_us",),
            says="The account rests for a minute, then the same number is sent again.",
        ),
    ),
    _scenario(
        "ip-never-registered",
        1921,
        "卡号密码 50元（IP不在白名单）",
        "our address isn't on the supplier's list, and stays off it: code 0",
        account=GIVE_UP_SOON,
        controls=(Control("mode", {"allow_list": "others"}),),
        shows=(7,),
        expect=_not_bought("not_sent_in_time", alerts=("supplier_refuses_us",)),
    ),
    _scenario(
        "unknown-product",
        1877,
        "卡号密码 50元（已下架）",
        "the product is gone: code 0",
        extra={"withdrawn": True},
        shows=(7,),
        expect=_not_bought("product_unavailable"),
    ),
    _scenario(
        "low-balance",
        1878,
        "卡号密码 50元（余额不足）",
        "one yuan is left of our deposit: code 0",
        controls=(Control("balance", {"balance": "1.00"}),),
        shows=(7,),
        expect=_not_bought("supplier_balance", alerts=("supplier_balance",)),
    ),
    _scenario(
        "num-above-maximum",
        1879,
        "卡号密码 50元（限购两张）",
        "two at a time, num=3: code 0",
        quantity=3,
        maximum=2,
        shows=(7,),
        expect=_not_bought("refused"),
    ),
    _scenario(
        "field-missing",
        1880,
        "卡号密码 50元（缺参数）",
        "code 0: the supplier misses a field that nobody told us of",
        faults={"create": (refused("0", "缺少参数：buyer"),)},
        shows=(7,),
        expect=_not_bought("refused"),
    ),
    _scenario(
        "busy",
        1881,
        "卡号密码 50元（系统繁忙）",
        "code 0 about trouble of its own; the order wasn't taken",
        faults={"create": (refused("0", "系统繁忙，请稍后再试"),)},
        shows=(7,),
        expect=_not_bought("refused", says="The text proves nothing; the look that finds no order does."),
    ),
    _scenario(
        "busy-yet-bought",
        1882,
        "卡号密码 50元（繁忙但已下单）",
        "code 0 about trouble of its own although the order was taken",
        faults={"create": (refused("0", "系统繁忙，请稍后再试", booked=True),)},
        shows=(7,),
        expect=_delivered(says="The look that follows every refusal finds the card."),
    ),
    _scenario(
        "too-fast",
        1883,
        "卡号密码 50元（请求频繁）",
        "code 0 about too many requests, then HTTP 429, then an ordinary answer",
        faults={"create": (refused("0", "请求过于频繁"), rate_limited(1))},
        shows=(7,),
        codes=("HTTP 429",),
        expect=_delivered(requests=3, says="The same number is sent later."),
    ),
)

_DUPLICATES: Final = (
    _scenario(
        "duplicate-refused",
        1884,
        "卡号密码 50元（重复请求，拒绝）",
        "a proxy hands the request over twice: bought, and code 0 for the repeated number",
        duplicates="reject",
        shows=(8,),
        expect=_delivered(says="The refusal isn't believed: the look finds the card."),
    ),
    _scenario(
        "duplicate-replayed",
        1885,
        "卡号密码 50元（重复请求，重放）",
        "a proxy hands the request over twice and the first answer is lost: the same cards come again",
        duplicates="replay",
        shows=(8,),
    ),
    _scenario(
        "duplicate-bought",
        1886,
        "卡号密码 50元（重复请求，重复扣款）",
        "a proxy hands the request over twice: two cards and two charges under one number; we see the second answer",
        duplicates="double",
        lapse=PAST_WARRANTY,
        shows=(8,),
        expect=_delivered(
            charges=2,
            alerts=("contradiction",),
            reviews=("too_many_cards",),
            says="One card is delivered. The last look finds one too many: an operator is told, nothing is handed out.",
        ),
    ),
    _scenario(
        "duplicate-bought-silently",
        1887,
        "卡号密码 50元（重复扣款，无应答）",
        "the same without an answer: the query lists two cards for one",
        duplicates="double",
        faults={"create": (dropped().always(),)},
        shows=(8, 9),
        expect=_review("too_many_cards", charges=2),
    ),
)

_SILENCE: Final = (
    _scenario(
        "slow",
        1846,
        "卡号密码 50元（慢）",
        "accepted at once, answered after the client's time-out; the query shows the cards meanwhile",
        faults={"create": (late(),)},
        shows=(8, 9),
        expect=_delivered(says="The late answer brings the same card once more; it is stored once."),
    ),
    _scenario(
        "slow-other-card",
        1888,
        "卡号密码 50元（慢，卡密不符）",
        "the same, but the late answer has another card_pass than the query had",
        faults={"create": (replace(edited("late, with another card_pass", _other_secret), delay=LATE),)},
        shows=(8, 9),
        expect=_delivered(alerts=("contradiction",), reviews=("cards_changed",), says="Nothing is overwritten."),
    ),
    _scenario(
        "silent",
        1889,
        "卡号密码 50元（无应答）",
        "accepted and charged, the answer never comes; the query shows the card",
        faults={"create": (never(),)},
        shows=(9,),
    ),
    _scenario(
        "cut-off",
        1890,
        "卡号密码 50元（断线）",
        "accepted and charged, the connection is closed without an answer",
        faults={"create": (dropped(),)},
        shows=(9,),
    ),
    _scenario(
        "cut-short",
        1891,
        "卡号密码 50元（半途断线）",
        "accepted and charged, the connection breaks in the middle of the answer",
        faults={"create": (cut(60),)},
        shows=(9, 14),
    ),
    _scenario(
        "silent-before",
        1892,
        "卡号密码 50元（未下单，无应答）",
        "never taken, never answered; queries are code 0: no such order",
        faults={"create": (never().unbooked(),)},
        shows=(10,),
        expect=_not_bought("never_received"),
    ),
    _scenario(
        "cut-off-before",
        1893,
        "卡号密码 50元（未下单，断线）",
        "never taken, the connection is closed; queries are code 1 with an empty list",
        faults={"create": (dropped().unbooked(),)},
        controls=(Control("mode", {"not_found": "empty"}),),
        shows=(10,),
        expect=_not_bought("never_received"),
    ),
    _scenario(
        "found-late",
        1894,
        "卡号密码 50元（迟到的订单）",
        "accepted and charged, no answer; the first look is told that there is no such order, the second shows it",
        faults={"create": (dropped(),), "query": (refused("0", "订单不存在"),)},
        shows=(9, 10),
        expect=_delivered(says="One look that finds nothing proves nothing."),
    ),
)

_AFTERWARDS: Final = (
    _scenario(
        "confirmed",
        1895,
        "卡号密码 50元（质保到期）",
        "state 2, and 3 when the ten hours are over",
        lapse=PAST_WARRANTY,
        shows=(5, 11),
        codes=("status 3",),
        expect=Expect(cards=1),
    ),
    _scenario(
        "confirmed-at-once",
        1896,
        "卡号密码 50元（直接完成）",
        "state 3 already in the create answer",
        stages=(CONFIRMED,),
        shows=(11,),
        expect=Expect(cards=1),
    ),
    _scenario(
        "disputed",
        1897,
        "卡号密码 50元（纠纷中）",
        "state 2, an hour later 4, and no end",
        stages=(AN_HOUR_LATER, DISPUTED),
        lapse=PAST_WARRANTY,
        shows=(11,),
        codes=("status 4",),
        expect=Expect(cards=1, after_sale="disputed", reviews=("disputed",), alerts=("disputed",)),
    ),
    _scenario(
        "dispute-over",
        1898,
        "卡号密码 50元（纠纷已完成）",
        "state 2, an hour later 4, an hour later 5: who won isn't said",
        stages=(AN_HOUR_LATER, replace(DISPUTED, seconds=HOUR), replace(DISPUTED, state=5)),
        lapse=PAST_WARRANTY,
        shows=(11,),
        codes=("status 5",),
        expect=Expect(cards=1, after_sale="closed_unclear", reviews=("disputed",), alerts=("disputed",)),
    ),
    _scenario(
        "cancelled",
        1899,
        "卡号密码 50元（已取消）",
        "state 2, an hour later 6: the money is back, the card must not be used",
        stages=(AN_HOUR_LATER, CANCELLED),
        lapse=PAST_WARRANTY,
        shows=(11,),
        codes=("status 6",),
        expect=Expect(cards=1, refunds=1, after_sale="reversed", reviews=("reversed",), alerts=("reversed",)),
    ),
    _scenario(
        "one-of-two-cancelled",
        1900,
        "卡号密码 50元（取消一张）",
        "two cards in state 2, an hour later one of them in 6",
        quantity=2,
        stages=(AN_HOUR_LATER, Stage("2,6", cards=True, refund=Decimal("0.5"), outcome="delivered")),
        lapse=PAST_WARRANTY,
        shows=(2, 11),
        expect=Expect(cards=2, after_sale="reversed", reviews=("reversed",), alerts=("reversed",)),
    ),
    _scenario(
        "cancelled-at-once",
        1901,
        "卡号密码 50元（下单即取消）",
        "state 6 already in the create answer",
        stages=(CANCELLED,),
        shows=(11,),
        expect=Expect(state="failed", failure="refunded", refunds=1, says="The card's content is never kept."),
    ),
    _scenario(
        "one-cancelled-at-once",
        1902,
        "卡号密码 50元（下单即取消一张）",
        "num=2: one entry in state 2, one in 6",
        quantity=2,
        stages=(Stage("2,6", cards=True, refund=Decimal("0.5"), outcome="delivered"),),
        account=SOON,
        shows=(3, 11),
        expect=_review("deadline", cards=1, after_sale="warranty"),
    ),
)

_ODDITIES: Final = (
    _scenario(
        "other-types",
        1903,
        "卡号密码 50元（类型不符）",
        'code "1", status "2", card_id as text, money as a number',
        faults={"create": (edited("other types", _other_types),)},
        shows=(12,),
    ),
    _scenario(
        "one-object",
        1904,
        "卡号密码 50元（单个对象）",
        "result is the one card itself, without its list",
        faults={"create": (edited("an object for a list", _one_object),)},
        shows=(12,),
    ),
    _scenario(
        "other-types-asked-after",
        1905,
        "卡号密码 50元（查询类型不符）",
        "no answer; the query has the other types, and the object without its list",
        faults={
            "create": (dropped(),),
            "query": (edited("other types, an object for a list", lambda a: _one_object(_other_types(a))).always(),),
        },
        shows=(12,),
    ),
    _scenario(
        "unix-times",
        1906,
        "卡号密码 50元（时间戳）",
        "create_time and update_time as Unix seconds",
        extra={"unix_times": True},
        shows=(13,),
    ),
    _scenario(
        "html",
        1907,
        "卡号密码 50元（网关错误）",
        "HTTP 502 with HTML although the order was taken",
        faults={"create": (html(),)},
        shows=(14,),
    ),
    _scenario(
        "empty-body",
        1908,
        "卡号密码 50元（空应答）",
        "HTTP 200 without a body although the order was taken",
        faults={"create": (empty(),)},
        shows=(14,),
    ),
    _scenario(
        "half-json",
        1909,
        "卡号密码 50元（半截JSON）",
        "JSON that ends in the middle although the order was taken",
        faults={"create": (half(),)},
        shows=(14,),
    ),
    _scenario(
        "null-result",
        1910,
        "卡号密码 50元（result为空）",
        "code 1 with result null",
        faults={"create": (edited("result null", _null),)},
        shows=(14,),
    ),
    _scenario(
        "no-other",
        1911,
        "卡号密码 50元（无other）",
        "code 1 with cards but without other: no payment number, no time",
        faults={"create": (edited("without other", _no_other),)},
        shows=(14,),
    ),
    _scenario(
        "malformed-looks",
        1912,
        "卡号密码 50元（查询异常）",
        "no answer, and a dozen queries that go wrong one after another before a good one",
        faults={
            "create": (bad_utf8(),),
            "query": (
                html(),
                html(200),
                empty(),
                half(),
                cut(40),
                dropped(),
                bad_utf8(),
                refused("0", "系统繁忙，请稍后再试"),
                edited("result null", _null),
                edited("code 2", _strange_code),
                edited("columns as numbers", _columns_as_numbers),
                edited("without a state", _no_status),
                proper(),
            ),
        },
        shows=(14,),
    ),
    _scenario(
        "strange-code",
        1913,
        "卡号密码 50元（未知code）",
        "code 2, which nobody documented, although the order was taken",
        faults={"create": (edited("code 2", _strange_code),)},
        shows=(14,),
    ),
    _scenario(
        "strange-type",
        1914,
        "卡号密码 50元（未知类型）",
        'the entry has type "9", which nobody documented; the query has no type',
        faults={"create": (edited("type 9", _type_nine),)},
        shows=(1, 14),
        expect=_delivered(alerts=("unexpected_answer",)),
    ),
    _scenario(
        "other-product",
        1915,
        "卡号密码 50元（产品不符）",
        "the answer is about another card_id",
        faults={"create": (edited("another card_id", _other_product),)},
        shows=(14,),
        expect=_review("contradiction"),
    ),
    _scenario(
        "one-number-twice",
        1916,
        "卡号密码 50元（卡单号重复）",
        "two different cards under one order_id",
        quantity=2,
        faults={"create": (edited("one order_id twice", _one_number_twice),)},
        shows=(14,),
        expect=_review("contradiction"),
    ),
)

_REST: Final = (
    _scenario(
        "encode-all",
        1917,
        "卡号密码 50元（全部编码签名）",
        "we sign by the other reading of the rule: no field of card orders has a character that makes a difference",
        account={"sign_value_encoding": "encode-all"},
        shows=(15,),
    ),
    _scenario(
        "called-back",
        1918,
        "卡号密码 50元（伪造回调）",
        "four calls to the account's callback address, in the form of recharges' and of price notices, well and badly "
        "signed",
        stages=(replace(IN_WARRANTY, callbacks=CALLBACKS),),
        shows=(16,),
        expect=_delivered(callbacks=(False,) * len(CALLBACKS)),
    ),
    _scenario(
        "stock-race",
        1919,
        "卡号密码 50元（库存竞争）",
        "list and detail show five in stock, the purchase is code 0: nothing left",
        stock=0,
        listed_stock=5,
        shows=(17,),
        expect=_not_bought("out_of_stock"),
    ),
    _scenario(
        "second-page",
        1920,
        "卡号密码 50元（列表第二页）",
        "bought like any other; the list shows it on its second page only, since a page has fifty at most",
        shows=(18,),
    ),
    _scenario(
        "list-page-51",
        1928,
        "卡号密码 50元（列表每页51）",
        "bought like any other; a proxy asks for 51 products a page: code 0",
        controls=(Control("mode", {"list_proxy": "page-51"}),),
        shows=(18,),
        expect=_delivered(says="Nothing is listed, and buying goes on."),
    ),
    _scenario(
        "list-signed-paging",
        1929,
        "卡号密码 50元（列表分页签名）",
        "bought like any other; a proxy signs page number and size of the list along with the rest: code 0 about the "
        "signature",
        controls=(Control("mode", {"list_proxy": "signed-paging"}),),
        shows=(18,),
        expect=_delivered(says="Nothing is listed, and buying goes on."),
    ),
    _scenario(
        "wrong-label",
        1930,
        "卡号密码 50元（类型标错）",
        "every answer is proper JSON in UTF-8 under Content-Type text/html; charset=gbk",
        faults={"create": (mislabelled().always(),), "query": (mislabelled().always(),)},
        shows=(14,),
    ),
)

SCENARIOS: Final = (
    *_TYPES,
    *_QUANTITIES,
    *_DELAYS,
    *_WARRANTIES,
    *_PRICES,
    *_REFUSALS,
    *_ON_THE_WAY,
    *_DUPLICATES,
    *_SILENCE,
    *_AFTERWARDS,
    *_ODDITIES,
    *_REST,
)

BEHAVIOURS: Final[Mapping[int, str]] = {
    1: "Cards of five types: code, number and password, QR picture, secret and link, link. The type decides what the "
    "two columns mean; where the answer leaves it out, the offer's `card_type` says it.",
    2: "Several cards in one answer, each with a number and a price of its own: all are delivered, the cost is their "
    "sum.",
    3: "Fewer entries than were ordered: what came is kept and shown, looks go on, and after the settling deadline a "
    "person decides. More than were ordered: a person decides at once.",
    4: "Success without a card yet: the order waits, and looks bring the cards.",
    5: "The warranty has a price: 0.15, 0.3, 0.6 or 1.5 percent for 10, 12, 24 or 48 hours. Hours that a product is "
    "not sold with are refused; an offer with hours that 91 doesn't know can't be configured.",
    6: "`order_money` is the ceiling of the whole purchase: above it nothing is bought, at it and below it is. 0 would "
    "switch it off and is never sent. Charged more all the same: delivered, and an operator is told.",
    7: "Every refusal is `code` 0 with a free text. A look decides whether nothing was bought; the text only sorts the "
    "reason. Signature, appid and IP are about us: the account pauses with an alert, and the same number waits.",
    8: "A number that comes twice is refused, answered again, or bought again; no page says which. However it is, one "
    "purchase's cards are delivered, and none is stored twice.",
    9: "Taken, but the answer is late, cut or lost: the query shows the cards, and they are delivered once.",
    10: "Not taken, and no answer: `code` 0 with a text, or `code` 1 with an empty list. Two looks after a grace prove "
    "it, and the order fails; one look, or one after acceptance, proves nothing.",
    11: "A card's state goes on after delivery: confirmed when its warranty ends, disputed, dispute over, cancelled. "
    "The order stays as it is; what became of its cards stands beside it, and a person looks.",
    12: "Numbers as texts and texts as numbers, and a single card without its list, are read.",
    13: "Times come as text or as Unix seconds; the end of the warranty is counted from either.",
    14: "HTML, an empty body, JSON cut short, a missing part or a value of another sort leave a doubt; looks settle "
    "it. An answer about something else than we bought is for a person.",
    15: "The signature is checked to the letter: order of the fields, upper case, empty ones left out, 0 not.",
    16: "Cards have no callbacks: whatever calls back, however signed, is refused and moves nothing. Notices of prices "
    "and stock may be subscribed to.",
    17: "Stock that the list still shows may be gone when one buys: refused, and no order stands; a notice says so "
    "sooner.",
    18: "Lists have pages of 20 to 50. Page number and size stay out of the signed text.",
}

OPEN: Final[Mapping[int, str]] = {
    16: "the genuine notices of prices and stock, which aren't taken",
    17: "stock read anew because of a notice: notices aren't taken, the list is read when somebody asks for it",
}

CODES: Final[Mapping[str, str]] = {
    "code 0": "failure; the text says why",
    "HTTP 401": "we are refused",
    "HTTP 429": "too many requests",
    "code 1": "success",
    "status 1": "undocumented: the card isn't there yet",
    "status 2": "待确认: delivered, within its warranty",
    "status 3": "已完成: delivered, final",
    "status 4": "纠纷中: in dispute",
    "status 5": "纠纷已完成: the dispute is over, who won isn't said",
    "status 6": "已取消: cancelled, must not be used",
}

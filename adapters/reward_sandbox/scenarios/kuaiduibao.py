"""What Kuaiduibao sells: cards and coupons at once, top-ups with a callback; nothing can be asked after."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from reward_sandbox.faults import (
    Fault,
    bad_utf8,
    cut,
    drip,
    dropped,
    edited,
    empty,
    half,
    html,
    huge,
    late,
    mislabelled,
    never,
    rate_limited,
    redirected,
    refused,
)
from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import GENUINE, Behaviour, Card, Control, Expect, Scenario, Stage


def _coupon(press: Press) -> Card:
    """A fixed code: `card_pws` is empty and the number is all there is."""
    return {
        "card_no": CANARY + press.digits(11),
        "card_pws": "",
        "link": f"http://url.cn/{CANARY}{press.code(7)}",
        "start_time": "03/11/2026",
        "expire_time": "07/31/2029",
    }


def _card(press: Press) -> Card:
    return {"card_no": f"JDV{CANARY}{press.digits(13)}", "card_pws": press.groups(4), "expire_time": "04/28/2029"}


def _card_pwd(press: Press) -> Card:
    """One sample of the create-order page spells the password `card_pwd`, against its own table."""
    return {"card_no": f"g{CANARY}{press.digits(9)}", "card_pwd": f"f{CANARY}{press.digits(8)}"}


def _card_both(press: Press) -> Card:
    """Both spellings, and they differ."""
    return {**_card(press), "card_pwd": press.groups(3)}


def _card_empty_pws(press: Press) -> Card:
    """The spelling of the table is there and empty, the other one holds the password."""
    return {**_card_pwd(press), "card_pws": ""}


def _card_number_only(press: Press) -> Card:
    """Neither spelling."""
    return {"card_no": f"g{CANARY}{press.digits(9)}"}


def _card_odd_dates(press: Press) -> Card:
    """Dates in another form than the samples'."""
    return {**_card(press), "start_time": "", "expire_time": "2029年4月28日"}


_ONCE: Final = (Stage("delivered", cards=True, outcome="delivered"),)
_LATER: Final = (Stage("accepted"), Stage("recharged", callbacks=(GENUINE,), outcome="delivered"))
_WITHOUT_CARDS: Final = (Stage("accepted"), Stage("issued", callbacks=(GENUINE,), outcome="delivered"))
"""A card product whose answer holds no cards; no callback ever does."""


def _calls(*names: str, at_once: bool = False) -> tuple[Stage, ...]:
    """A top-up that sends these callbacks, one after another; `at_once`: before the create call is answered."""
    told = Stage("recharged", callbacks=names, outcome="delivered")
    return (told,) if at_once else (Stage("accepted"), told)


def _answers(*faults: Fault) -> dict[Any, tuple[Fault, ...]]:
    """How the create calls about one order go wrong."""
    return {"create": faults}


def _spelt(name: str, change: Callable[[str], str]) -> Fault:
    """The proper answer, written otherwise."""
    return Fault(name, edit=lambda body: change(body.decode()).encode())


def _with(name: str, **members: Any) -> Fault:
    """The proper answer with other members."""
    return edited(name, lambda answer: {**answer, **members})


def _with_data(name: str, **members: Any) -> Fault:
    """The proper answer with other members in `data`."""
    return edited(name, lambda answer: {**answer, "data": {**answer["data"], **members}})


_JUNK_CARD: Final = _with_data("cards unreadable", cards=[{"card_no": ["CNRY"], "card_pws": 7.5}])
_SECOND_CARD: Final = edited(
    "a card twice as many",
    lambda answer: {
        **answer,
        "data": {**answer["data"], "cards": [*answer["data"]["cards"], {"card_no": "JDVCNRY2", "card_pws": "CNRY-2"}]},
    },
)
_ONE_CARD: Final = edited(
    "cards as an object",
    lambda answer: {**answer, "data": {**answer["data"], "cards": answer["data"]["cards"][0]}},
)

_OTHER_ORDER: Final = replace(_with("another order_no", data={"order_no": "TO0000000000000000"}), delay=0.5)

_UNKNOWN: Final = Expect(state="outcome_unknown")
_UNTAKEN: Final = Expect(state="outcome_unknown", charges=0)
_CALLED: Final = Expect(callbacks=(True,))
"""Told by the callback, whatever became of the answer."""


def _failed(failure: str, **more: Any) -> Expect:
    return Expect(state="failed", failure=failure, charges=0, **more)


def _review(reason: str, **more: Any) -> Expect:
    return Expect(state="needs_review", reviews=(reason,), alerts=("review",), **more)


def _jd(name: str, product: str, what: str, description: str, expect: Expect, **more: Any) -> Scenario:
    """A JD card of 100 yuan; `more` are members of `Scenario` and of its `Behaviour`."""
    card = {"title": f"快兑宝 京东E卡 100元（{what}）", "kind": "card", "stages": _ONCE, "shape": _card}
    return _made(name=name, product=product, description=description, expect=expect, **{**card, **more})


def _credit(name: str, product: str, what: str, description: str, expect: Expect, **more: Any) -> Scenario:
    """A phone credit of 100 yuan; `more` are members of `Scenario` and of its `Behaviour`."""
    credit = {"title": f"快兑宝 话费直充 100元（{what}）", "kind": "topup", "recipient": "phone", "stages": _LATER}
    return _made(name=name, product=product, description=description, expect=expect, **{**credit, **more})


def _refused(name: str, product: str, text: str, expect: Expect) -> Scenario:
    """A card refused with a text."""
    faults = _answers(refused("1", text))
    return _jd(
        name, product, text, f"refused with code 1 “{text}”, nothing is booked", expect, faults=faults, shows=(11,)
    )


def _made(**members: Any) -> Scenario:
    course = {key: members.pop(key) for key in Behaviour.__dataclass_fields__ if key in members}
    usual = {"face_value": Decimal("100.00"), "unit_price": Decimal("98.50"), "recipient": "none"}
    return Scenario(behaviour=Behaviour(**course), **{**usual, **members})


SCENARIOS: Final = (
    Scenario(
        name="coupon",
        product="10001",
        title="快兑宝 优惠券 30元",
        description="one coupon at once: fixed code, empty card_pws, link, both dates as m/d/Y",
        kind="coupon",
        face_value=Decimal("30.00"),
        unit_price=Decimal("27.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _coupon),
        expect=Expect(cards=1),
        shows=(6,),
        codes=("0",),
    ),
    Scenario(
        name="card",
        product="10002",
        title="快兑宝 京东E卡 100元",
        description="one card at once: card_no, card_pws, expire_time as m/d/Y",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card),
        expect=Expect(cards=1),
        shows=(7,),
    ),
    Scenario(
        name="card-pwd",
        product="10003",
        title="快兑宝 移动充值卡 100元",
        description="one card at once, password under card_pwd instead of card_pws, no dates",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("99.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card_pwd),
        expect=Expect(cards=1),
        shows=(8,),
    ),
    Scenario(
        name="topup",
        product="10004",
        title="快兑宝 话费直充 50元",
        description="order_no only; the callback with status_code 1 comes a step later",
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.50"),
        recipient="phone",
        behaviour=Behaviour(_LATER),
        expect=Expect(callbacks=(True,)),
        shows=(5, 24),
        codes=("status_code 1",),
    ),
    Scenario(
        name="out-of-stock",
        product="10005",
        title="快兑宝 京东E卡 200元（缺货）",
        description="refused with code 1, nothing is booked",
        kind="card",
        face_value=Decimal("200.00"),
        unit_price=Decimal("197.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card, stock=0),
        expect=_failed("out_of_stock"),
        shows=(11,),
        codes=("1",),
    ),
    Scenario(
        name="topup-silent",
        product="10006",
        title="快兑宝 话费直充 100元（超时）",
        description="accepted and charged, the answer never comes; the callback does",
        kind="topup",
        face_value=Decimal("100.00"),
        unit_price=Decimal("99.00"),
        recipient="phone",
        behaviour=Behaviour(_LATER, faults={"create": (never(),)}),
        expect=Expect(callbacks=(True,)),
        shows=(14,),
    ),
    Scenario(
        name="card-lost",
        product="10007",
        title="快兑宝 京东E卡 500元（丢失）",
        description="accepted and charged, no answer, no callback: nothing ever tells what became of it",
        kind="card",
        face_value=Decimal("500.00"),
        unit_price=Decimal("492.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card, faults={"create": (never(),)}),
        expect=Expect(
            state="outcome_unknown", says="Nothing can be asked: after the settling deadline a person has to look."
        ),
        shows=(15,),
    ),
    # --- Access tokens
    _jd(
        "token-shared",
        "10008",
        "五张",
        "five create calls at a time under one access token that lives for 60 s",
        Expect(cards=5, charges=5, requests=5, says="One token is fetched for all five."),
        quantity=5,
        controls=(Control("tokens", {"lifetime": 60}),),
        shows=(1,),
    ),
    _jd(
        "token-trouble",
        "10009",
        "令牌故障",
        "the first token call gets a proxy's error page, the second an answer without a token, the third a token",
        Expect(cards=1, says="Nothing is sent without a token; the order waits for one."),
        controls=(
            Control("answer", {"call": "token", "status": 502, "body": "<html>502 Bad Gateway</html>"}),
            Control("answer", {"call": "token", "body": '{"code":0,"data":{}}'}),
        ),
        shows=(1,),
    ),
    _jd(
        "wrong-secret",
        "10010",
        "密钥错误",
        "token call: HTTP 401, error invalid_client",
        _failed(
            "not_sent_in_time",
            requests=0,
            alerts=("supplier_refuses_us",),
            says="The account is paused; nothing was ordered when the sending deadline came.",
        ),
        account={"app_secret": "sandbox-kuaiduibao-no-such-secret", "send_by_seconds": 1.0},
        shows=(2,),
        codes=("HTTP 401",),
    ),
    _jd(
        "token-expired",
        "10011",
        "令牌过期",
        "create: HTTP 401 once, then one card",
        Expect(cards=1, requests=2, says="One renewal, one more send under the same number."),
        faults=_answers(refused("401", "access_token is not valid")),
        shows=(3,),
        codes=("HTTP 401",),
    ),
    _jd(
        "token-always-refused",
        "10012",
        "令牌被拒",
        "create: HTTP 401 every time, whatever token",
        _failed(
            "not_sent_in_time",
            requests=2,
            alerts=("supplier_refuses_us",),
            says="One renewal and one more send; then the account pauses for a minute at a time, and here the "
            "sending deadline comes first.",
        ),
        faults=_answers(refused("401", "access_token is not valid").always()),
        account={"send_by_seconds": 2.0},
        shows=(4,),
    ),
    _jd(
        "refused-after-renewal",
        "10013",
        "令牌过期后拒单",
        "create: HTTP 401, then code 1 for the same number; nothing is booked",
        Expect(
            state="outcome_unknown",
            charges=0,
            requests=2,
            says="A refusal of a second send may be about the first one.",
        ),
        faults=_answers(refused("401", "access_token is not valid"), refused("1", "商品库存不足")),
        shows=(3, 13),
    ),
    _jd(
        "taken-with-401",
        "10014",
        "401却已受理",
        "create: one card under code 0, but with HTTP 401",
        _review("contradiction", says="Sent again it might be bought again."),
        faults=_answers(Fault("HTTP 401 with code 0", status=401)),
        shows=(3,),
    ),
    _jd(
        "rate-limited",
        "10015",
        "限流",
        "create: HTTP 429 with Retry-After: 1, then one card",
        Expect(cards=1, requests=2),
        faults=_answers(rate_limited(1)),
        codes=("HTTP 429",),
    ),
    _jd(
        "json-bodies",
        "10016",
        "JSON请求",
        "token and create calls as JSON instead of a form",
        Expect(cards=1),
        account={"request_encoding": "json"},
    ),
    # --- Orders that go well
    _credit(
        "topup-qq",
        "10017",
        "Q币",
        "like topup, for a QQ number",
        _CALLED,
        recipient="qq",
        shows=(5,),
    ),
    _credit(
        "topup-two",
        "10018",
        "两次",
        "two orders for one number, the second after the first was called back about",
        Expect(charges=2, requests=2, callbacks=(True, True)),
        quantity=2,
        shows=(5,),
    ),
    _jd(
        "card-both-passwords",
        "10019",
        "两种密码字段",
        "card_pws and card_pwd both, with different values",
        Expect(cards=1, says="The first non-empty one is the secret."),
        shape=_card_both,
        shows=(9,),
    ),
    _jd(
        "card-empty-pws",
        "10020",
        "空密码字段",
        "card_pws empty, the password under card_pwd",
        Expect(cards=1),
        shape=_card_empty_pws,
        shows=(9,),
    ),
    _jd(
        "card-number-only",
        "10021",
        "只有卡号",
        "card_no and nothing else",
        Expect(cards=1, says="The number is the code."),
        shape=_card_number_only,
        shows=(9,),
    ),
    _jd(
        "card-odd-dates",
        "10022",
        "日期格式",
        "an empty start_time and an expire_time in another form than m/d/Y",
        Expect(cards=1, says="Delivered; a date that can't be read is left out."),
        shape=_card_odd_dates,
        shows=(18,),
    ),
    _jd(
        "last-one",
        "10023",
        "只剩一张",
        "three create calls one after another: one card, then code 1 for want of stock",
        Expect(
            state="partially_fulfilled",
            failure="out_of_stock",
            cards=1,
            requests=2,
            says="The third isn't sent: it would meet the same refusal.",
        ),
        quantity=3,
        account={"max_in_flight": 1},
        stock=1,
        shows=(11,),
    ),
    # --- Cards that don't come
    _jd(
        "card-called-back",
        "10024",
        "延迟出卡",
        "code 0 without cards for a card; then a callback with status_code 1, which holds no cards either",
        _review("card_missing", callbacks=(True,), says="Delivered at the supplier, and the card isn't here."),
        stages=_WITHOUT_CARDS,
        shows=(10,),
    ),
    _jd(
        "card-awaited",
        "10025",
        "一直无卡",
        "code 0 without cards for a card, and nothing more",
        _review("deadline"),
        stages=(Stage("accepted"),),
        account={"settle_by_seconds": 0.5},
        shows=(10,),
    ),
    # --- Refusals
    _refused("no-such-product", "10026", "商品不存在", _failed("product_unavailable")),
    _refused("off-shelf", "10027", "商品已下架", _failed("product_unavailable")),
    _refused("low-balance", "10028", "账户余额不足", _failed("supplier_balance", alerts=("supplier_balance",))),
    _refused("field-missing", "10029", "缺少参数：receive_no", _failed("refused")),
    _refused("risk-control", "10030", "触发风控，订单已拦截", _failed("refused")),
    _credit(
        "bad-recipient",
        "10031",
        "号码不正确",
        "refused with code 1 “领取号码不正确”, nothing is booked",
        _failed("recipient_refused"),
        faults=_answers(refused("1", "领取号码不正确")),
        shows=(11,),
    ),
    _jd(
        "object-missing",
        "10032",
        "对象不存在",
        "refused with code 100404, nothing is booked",
        _failed("product_unavailable"),
        faults=_answers(refused("100404", "商品不存在")),
        shows=(11,),
        codes=("100404",),
    ),
    _credit(
        "refused-but-taken",
        "10033",
        "拒单却扣款",
        "refused with code 1 although the order is booked; the callback says so",
        Expect(
            state="failed",
            failure="refused",
            reviews=("late_success",),
            alerts=("late_success",),
            callbacks=(True,),
            says="The refusal was believed and nothing else was bought; a person settles what was taken after all.",
        ),
        faults=_answers(refused("1", "系统繁忙，请稍后重试", booked=True)),
        shows=(11,),
    ),
    _jd(
        "unknown-code",
        "10034",
        "未知错误码",
        "code 987654 with a text, nothing is booked",
        Expect(state="outcome_unknown", charges=0, alerts=("unexpected_answer",)),
        faults=_answers(refused("987654", "系统异常")),
        shows=(12,),
    ),
    _credit(
        "unknown-code-taken",
        "10035",
        "未知错误码已受理",
        "code 987654 although the order is booked; the callback says so",
        Expect(alerts=("unexpected_answer",), callbacks=(True,)),
        faults=_answers(refused("987654", "系统异常", booked=True)),
        shows=(12,),
    ),
    _jd(
        "ambiguous-code",
        "10036",
        "存疑错误码",
        "code 1, which this account's configuration doesn't believe; nothing is booked",
        _UNTAKEN,
        faults=_answers(refused("1", "系统繁忙，请稍后重试")),
        account={"ambiguous_codes": [1]},
        shows=(12,),
    ),
    # --- Numbers used twice
    _credit(
        "duplicate-rejected",
        "10037",
        "重复提交被拒",
        "the create call arrives twice; the first one is booked, the client sees the second one's code 1",
        Expect(
            alerts=("unexpected_answer",),
            callbacks=(True,),
            says="Bought once: a refusal that speaks of a repeated number isn't believed; the callback tells.",
        ),
        repeated_request=True,
        modes={"duplicates": "reject"},
        shows=(13,),
    ),
    _credit(
        "duplicate-doubted",
        "10038",
        "重复提交存疑",
        "like duplicate-rejected, with an account that doesn't believe code 1",
        _CALLED,
        repeated_request=True,
        modes={"duplicates": "reject"},
        account={"ambiguous_codes": [1]},
        shows=(13,),
    ),
    _jd(
        "duplicate-replayed",
        "10039",
        "重复提交重放",
        "the create call arrives twice; both are answered with the same order_no and card",
        Expect(cards=1),
        repeated_request=True,
        modes={"duplicates": "replay"},
        shows=(13,),
    ),
    _jd(
        "duplicate-doubled",
        "10040",
        "重复提交重复扣款",
        "the create call arrives twice and is booked twice; the client sees the second card",
        Expect(cards=1, charges=2, says="One card for one unit: what else was charged stands in the supplier's books."),
        repeated_request=True,
        modes={"duplicates": "double"},
        shows=(13,),
    ),
    # --- Answers that don't come, or late
    _jd(
        "card-late",
        "10041",
        "迟到的卡",
        "the answer with the card comes after the client's read time-out",
        Expect(cards=1, says="The exchange stays open: this is the only copy of the card."),
        faults=_answers(late()),
        shows=(14,),
    ),
    _jd(
        "card-dripping",
        "10042",
        "逐字节",
        "the answer with the card comes byte by byte, and ends after the client's read time-out",
        Expect(cards=1),
        faults=_answers(drip(0.01)),
        account={"answer_patience": 20.0},
        shows=(14,),
    ),
    _jd(
        "never-arrived",
        "10043",
        "从未到达",
        "nothing is booked and no answer ever comes",
        _review("deadline", charges=0, says="Unknown until the settling deadline of 15 minutes, then for a person."),
        faults=_answers(never().unbooked()),
        lapse=1200.0,
        shows=(15,),
    ),
    _credit(
        "topup-unbooked",
        "10044",
        "无音讯",
        "nothing is booked and no answer ever comes, nor a callback",
        _UNTAKEN,
        faults=_answers(never().unbooked()),
        shows=(15,),
    ),
    # --- Answers that break
    _jd(
        "cut-body",
        "10045",
        "正文中断",
        "booked; the connection breaks in the middle of the card",
        _UNKNOWN,
        faults=_answers(cut(90)),
        shows=(16,),
    ),
    _jd(
        "dropped",
        "10046",
        "连接断开",
        "booked; the connection is closed without an answer",
        _UNKNOWN,
        faults=_answers(dropped()),
        shows=(16,),
    ),
    _jd(
        "dropped-unbooked",
        "10047",
        "连接断开未受理",
        "the connection is closed without an answer, nothing is booked",
        _UNTAKEN,
        faults=_answers(dropped().unbooked()),
        shows=(16,),
    ),
    _credit(
        "empty-body",
        "10048",
        "空正文",
        "booked; HTTP 200 without a body, then the callback",
        _CALLED,
        faults=_answers(empty()),
        shows=(16,),
    ),
    _jd(
        "wrong-label",
        "10096",
        "类型标错",
        "booked; the answer is proper JSON in UTF-8 under Content-Type text/html; charset=gbk",
        Expect(cards=1),
        faults=_answers(mislabelled()),
        shows=(18,),
    ),
    _jd(
        "html-page",
        "10049",
        "网页",
        "booked; HTTP 200 with an HTML page",
        _UNKNOWN,
        faults=_answers(html(200)),
        shows=(16,),
    ),
    _credit(
        "bad-gateway",
        "10050",
        "502",
        "booked; HTTP 502 with an HTML page, then the callback",
        _CALLED,
        faults=_answers(html(502)),
        shows=(16,),
    ),
    _jd(
        "bad-gateway-unbooked",
        "10051",
        "504未受理",
        "HTTP 504 with an HTML page, nothing is booked",
        _UNTAKEN,
        faults=_answers(html(504).unbooked()),
        shows=(16,),
    ),
    _jd(
        "server-error-with-card",
        "10052",
        "500带卡",
        "booked; HTTP 500 around a well-formed answer with the card",
        _UNKNOWN,
        faults=_answers(Fault("HTTP 500", status=500)),
        shows=(16,),
    ),
    _jd(
        "half-json",
        "10053",
        "半个JSON",
        "booked; well-formed HTTP whose JSON ends in the middle of the card",
        _UNKNOWN,
        faults=_answers(half(0.75)),
        shows=(16,),
    ),
    _jd(
        "redirect",
        "10054",
        "重定向",
        "HTTP 302 to another address, nothing is booked",
        Expect(state="outcome_unknown", charges=0, says="A purchase follows no redirect."),
        faults=_answers(redirected("http://127.0.0.1:9/service/order/create")),
        shows=(16,),
    ),
    _jd(
        "huge-body",
        "10055",
        "超大正文",
        "booked; 100 MB of blanks before the answer",
        _UNKNOWN,
        faults=_answers(huge()),
        shows=(16,),
    ),
    # --- Answers that aren't JSON, or not the documented types
    _jd(
        "single-quotes",
        "10056",
        "单引号",
        "booked; JSON with single quotes, as a sample prints it",
        _UNKNOWN,
        faults=_answers(_spelt("single quotes", lambda text: text.replace('"', "'"))),
        shows=(17,),
    ),
    _jd(
        "full-width-comma",
        "10057",
        "全角逗号",
        "booked; JSON with full-width commas, as a sample prints it",
        _UNKNOWN,
        faults=_answers(_spelt("full-width commas", lambda text: text.replace(",", "，"))),
        shows=(17,),
    ),
    _jd(
        "trailing-comma",
        "10058",
        "多余逗号",
        "booked; JSON with a comma after the last member, as a sample prints it",
        _UNKNOWN,
        faults=_answers(_spelt("trailing comma", lambda text: text.replace("}]", ",}]"))),
        shows=(17,),
    ),
    _jd(
        "bad-utf8",
        "10059",
        "编码错误",
        "booked; a byte that no UTF-8 text holds",
        _UNKNOWN,
        faults=_answers(bad_utf8()),
        shows=(17,),
    ),
    _jd(
        "code-as-text",
        "10060",
        "字符串状态码",
        'one card under code "0" as a text',
        Expect(cards=1),
        faults=_answers(_with("code as text", code="0")),
        shows=(18,),
        codes=("0",),
    ),
    _credit(
        "order-no-as-number",
        "10061",
        "数字订单号",
        "order_no as a JSON number of 20 digits; the callback has it as text",
        _CALLED,
        extra={"order_no": "number"},
        shows=(18,),
    ),
    _credit(
        "data-as-list",
        "10062",
        "data为数组",
        "booked; code 0 with data as [], then the callback",
        _CALLED,
        faults=_answers(_with("data as a list", data=[])),
        shows=(18,),
    ),
    _jd(
        "data-null",
        "10063",
        "data为空",
        "booked; code 0 with data as null",
        _UNKNOWN,
        faults=_answers(_with("data as null", data=None)),
        shows=(18,),
    ),
    _credit(
        "cards-null",
        "10064",
        "cards为空",
        "cards as null beside order_no, then the callback",
        _CALLED,
        faults=_answers(_with_data("cards as null", cards=None)),
        shows=(18,),
    ),
    _jd(
        "cards-as-object",
        "10065",
        "cards为对象",
        "the card without the list around it",
        Expect(cards=1),
        faults=_answers(_ONE_CARD),
        shows=(18,),
    ),
    _jd(
        "cards-unreadable",
        "10066",
        "卡无法识别",
        "a card whose card_no is a list and whose card_pws is a number",
        _review("card_missing", says="The answer is kept, sealed."),
        faults=_answers(_JUNK_CARD),
        shows=(18,),
    ),
    _jd(
        "two-cards",
        "10067",
        "多一张卡",
        "two cards for an order of one",
        _review("too_many_cards"),
        faults=_answers(_SECOND_CARD),
        shows=(18,),
    ),
    _credit(
        "topup-with-cards",
        "10068",
        "话费带卡",
        "a card in the answer for a top-up, then the callback",
        _review("contradiction", callbacks=(True,)),
        faults=_answers(_with_data("cards for a top-up", cards=[{"card_no": "CNRY1", "card_pws": "CNRY-2"}])),
        shows=(18,),
    ),
    _credit(
        "no-order-no",
        "10069",
        "无订单号",
        "code 0 with empty data, then the callback",
        _CALLED,
        faults=_answers(_with("empty data", data={})),
        shows=(18,),
    ),
    _credit(
        "no-code",
        "10070",
        "无状态码",
        "order_no without a code, then the callback",
        _CALLED,
        faults=_answers(edited("no code", lambda answer: {"data": answer["data"], "extra": None})),
        shows=(18,),
    ),
    # --- Callbacks
    _credit(
        "callback-thrice",
        "10071",
        "三次回调",
        "the same callback three times, acknowledged or not",
        Expect(callbacks=(True, True, True)),
        stages=_calls(GENUINE, GENUINE, GENUINE),
        shows=(19,),
    ),
    _credit(
        "callback-unheard",
        "10072",
        "回调重试",
        "the supplier hears no answer and repeats the callback after 15, 15, 30, 180, 1800 … 3600 s, ten in all",
        Expect(callbacks=(False,) * 9 + (True,), says="The first one delivers, and all are answered alike."),
        stages=_calls("unheard"),
        lapse=12_000.0,
        shows=(19,),
    ),
    _credit(
        "callback-first",
        "10073",
        "回调先到",
        "the callback comes before the answer",
        _CALLED,
        stages=_calls(GENUINE, at_once=True),
        faults=_answers(late(0.5)),
        shows=(20,),
    ),
    _credit(
        "callback-first-late",
        "10074",
        "回调先到应答超时",
        "the callback comes before the answer, which comes after the client's read time-out",
        _CALLED,
        stages=_calls(GENUINE, at_once=True),
        faults=_answers(late()),
        shows=(20,),
    ),
    _jd(
        "card-callback-first",
        "10075",
        "回调先于卡",
        "a callback for a card comes before the answer that holds the card",
        Expect(cards=1, callbacks=(True,), says="The answer is still to come, so the card isn't missing yet."),
        stages=(Stage("issued", cards=True, callbacks=(GENUINE,), outcome="delivered"),),
        faults=_answers(late(0.5)),
        shows=(20,),
    ),
    _jd(
        "card-after-callback",
        "10076",
        "回调后迟到的卡",
        "a callback for a card comes after the client's read time-out, and then the answer that holds the card",
        Expect(cards=1, alerts=("review",), callbacks=(True,), says="Missing for a moment: the late answer ends it."),
        stages=(
            Stage("accepted", cards=True, seconds=2.0),
            Stage("issued", cards=True, callbacks=(GENUINE,), outcome="delivered"),
        ),
        faults=_answers(late(3.0)),
        account={"answer_patience": 20.0},
        shows=(20,),
    ),
    _credit(
        "callback-unknown-number",
        "10077",
        "未知单号回调",
        "a well-signed callback for a number that isn't ours and one without a number, then the genuine one",
        Expect(alerts=("unexpected_answer",), callbacks=(False, False, True)),
        stages=_calls("unknown-number", "no-number", GENUINE),
        shows=(21,),
    ),
    _credit(
        "callback-stale-status",
        "10078",
        "成功后又变",
        "status_code 1, then a callback with another status_code",
        Expect(
            alerts=("contradiction",),
            reviews=("contradiction",),
            callbacks=(True, True),
            says="Delivered stays delivered; a person hears of it.",
        ),
        stages=_calls(GENUINE, "other-status"),
        shows=(22,),
    ),
    _credit(
        "callback-other-status",
        "10079",
        "未知回调状态",
        "a callback with a status_code that isn't 1",
        _review("contradiction", callbacks=(True,)),
        stages=_calls("other-status"),
        shows=(22,),
    ),
    _credit(
        "callback-out-of-order",
        "10080",
        "回调乱序",
        "a callback with another status_code, then status_code 1",
        _review("contradiction", callbacks=(True, True), says="Only a person ends it: the supplier said both."),
        stages=_calls("other-status", GENUINE),
        shows=(22,),
    ),
    _credit(
        "callback-forged",
        "10081",
        "伪造回调",
        "callbacks with another secret's signature, none, an empty one, an unsigned field, a changed status, a changed "
        "number, a field twice, and one that is no form",
        Expect(state="processing", callbacks=(False,) * 8, says="None is acknowledged, none moves anything."),
        stages=(
            Stage("accepted"),
            Stage(
                "pestered",
                callbacks=(
                    "wrong-secret",
                    "missing-sign",
                    "empty-sign",
                    "extra-field",
                    "tampered-status",
                    "tampered-number",
                    "field-twice",
                    "no-form",
                ),
            ),
        ),
        shows=(23,),
    ),
    _credit(
        "callback-upper-case",
        "10082",
        "大写签名",
        "a callback with another secret's signature, then one whose good signature is in upper case",
        Expect(callbacks=(False, True)),
        stages=_calls("wrong-secret", "upper-case-sign"),
        shows=(23,),
    ),
    _credit(
        "callback-signed-field",
        "10083",
        "多一个字段",
        "a callback with one more field that is signed with the others",
        _CALLED,
        stages=_calls("signed-extra-field"),
        shows=(23,),
    ),
    _credit(
        "callback-json",
        "10084",
        "JSON回调",
        "the callback as JSON",
        _CALLED,
        stages=_calls("json"),
        shows=(5,),
    ),
    _credit(
        "callback-json-number",
        "10085",
        "JSON数字回调",
        "the callback as JSON, status_code as a number",
        _CALLED,
        stages=_calls("numeric-status"),
        shows=(5,),
    ),
    _credit(
        "callback-other-order",
        "10086",
        "回调单号不符",
        "a well-signed callback that names another order_no than the answer did",
        _review("contradiction", callbacks=(True,)),
        stages=_calls("other-order"),
        shows=(25,),
    ),
    _credit(
        "answer-other-order",
        "10087",
        "应答单号不符",
        "the callback comes first, and the answer names another order_no",
        Expect(alerts=("contradiction",), reviews=("contradiction",), callbacks=(True,)),
        stages=_calls(GENUINE, at_once=True),
        faults=_answers(_OTHER_ORDER),
        shows=(25,),
    ),
    # --- What our side can't say
    Scenario(
        name="recipient-too-long",
        product="10088",
        title="快兑宝 视频会员 月卡（账号过长）",
        description="nothing: a receive_no of more than 20 characters can't be sent",
        kind="membership",
        face_value=Decimal("25.00"),
        unit_price=Decimal("20.00"),
        recipient="account",
        account_name="somebody-with-a-long-name@example.com",
        behaviour=Behaviour(_LATER),
        expect=_failed("recipient_refused", requests=0),
        shows=(26,),
    ),
    # --- With an order query, where the supplier grants one
    _jd(
        "queried-card",
        "10089",
        "可查询",
        "booked; no answer ever, but the account was granted an order query, which lists the card",
        Expect(cards=1),
        faults=_answers(never()),
        account={"order_query_path": "/service/order/query"},
    ),
    _credit(
        "queried-topup",
        "10090",
        "可查询话费",
        "the answer is a proxy's error page; an order query, granted to the account, and the callback tell the rest",
        _CALLED,
        stages=_calls(GENUINE),
        faults=_answers(html(502)),
        account={"order_query_path": "/service/order/query"},
    ),
)

BEHAVIOURS: Final[Mapping[int, str]] = {
    1: "An access token has a short life: it is renewed before its end, and any number of orders share one renewal.",
    2: "Wrong credentials get no token: the account is paused, somebody is told, and nothing is ordered.",
    3: "A token that dies in use is answered with HTTP 401: it is renewed once and the order sent once more.",
    4: "A token that is refused again and again: one renewal, one more send, then the account is paused.",
    5: "A top-up is accepted with an order_no alone and delivered by the callback.",
    6: "A coupon comes with the answer; its password is empty, so its number is the code, and its dates are read.",
    7: "A card comes with the answer, its password under card_pws.",
    8: "A card comes with the answer, its password under card_pwd; it isn't lost.",
    9: "Both spellings of the password, one of them empty, or neither: the first non-empty one counts.",
    10: "A card product without its card: awaited, and a person looks when a callback or the deadline comes first.",
    11: "A business failure is code 1 with a text: the order fails, by the text for a typed reason.",
    12: "A code that nobody knows, or isn't believed: the outcome is unknown, and an unknown code is told.",
    13: "A number used twice is refused, answered again or bought twice: one delivery, and never a new purchase.",
    14: "The answer comes too late or never, although the order was taken: the late answer or the callback delivers.",
    15: "No answer, and nothing was taken: unknown, until a person looks.",
    16: "A broken connection, an empty body, an HTML page, an HTTP error: unknown.",
    17: "JSON as carelessly written as a printed sample: unknown, and the answer is kept, sealed.",
    18: "Other types than documented: read where the meaning is plain, else unknown or for a person.",
    19: "A callback is repeated until it is acknowledged: it has one effect, and each answer is signed.",
    20: "The callback comes before the answer: one order, delivered once.",
    21: "A callback for a number that isn't ours: answered with status 0, kept and told.",
    22: "Callbacks that contradict each other: delivered stays delivered, and a person looks.",
    23: "A forged callback is refused: each field is signed. The letter case of the signature doesn't matter.",
    24: "The supplier believes only signed acknowledgements: ours are signed.",
    25: "Answer and callback name different orders of the supplier: nothing is delivered by it, a person looks.",
    26: "What is too long or no number is never sent; the supplier would refuse it with code 1.",
}

OPEN: Final[Mapping[int, str]] = {}

CODES: Final[Mapping[str, str]] = {
    "0": "Accepted.",
    "1": "A business failure, with a text.",
    "100404": "The object that was named doesn't exist.",
    "HTTP 401": "The credentials or the token are refused.",
    "HTTP 429": "Too many requests.",
    "status_code 1": "In a callback: delivered.",
}

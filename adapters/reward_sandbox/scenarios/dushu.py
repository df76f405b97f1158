"""What Dushu sells: memberships, done in the create answer. Every other course is an answer that went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from reward_sandbox.faults import (
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
    raw,
    redirected,
    refused,
)
from reward_sandbox.scenario import Behaviour, Control, Expect, Scenario, Stage

YEAR: Final = "1"
MONTH: Final = "2"
DAY: Final = "3"
"""Units of membership time, as the product list names them."""

_DONE: Final = (Stage("COMPLETE", outcome="delivered"),)
_NEW: Final = Stage("NEW", looks=2)
_SLOW: Final = (_NEW, *_DONE)
_HOUR: Final = 3600.0

_CREDENTIALS: Final = '{"error":"invalid_client","error_description":"Bad client credentials"}'
_ABNORMAL: Final = "资源服务异常"

_BOUGHT: Final = Expect()
_BOUGHT_AT_SECOND: Final = Expect(requests=2)
_CONTRADICTED: Final = Expect(
    state="needs_review",
    reviews=("contradiction",),
    alerts=("review",),
    says="It is no success until a person has compared it with the supplier's console.",
)
_REFUSED_US: Final = ("supplier_refuses_us",)
_NEVER_SENT: Final = Expect(state="failed", failure="not_sent_in_time", charges=0, requests=0, alerts=_REFUSED_US)


def _course(*create: Fault, stages: tuple[Stage, ...] = _DONE, query: Sequence[Fault] = (), **others: Any) -> Behaviour:
    """What goes wrong with create calls and looks, and the states that looks see."""
    faults: dict[Call, Sequence[Fault]] = {"create": create, "query": query}
    return Behaviour(stages, faults=faults, extra=others)


def _no(failure: str, says: str = "") -> Expect:
    """Refused at once, nothing booked."""
    return Expect(state="failed", failure=failure, charges=0, says=says)


def _membership(
    name: str,
    product: str,
    title: str,
    fee: str,
    description: str,
    *,
    behaviour: Behaviour | None = None,
    expect: Expect = _BOUGHT,
    vip: tuple[int, str] = (6, MONTH),
    **others: Any,
) -> Scenario:
    behaviour = behaviour or _course()
    return Scenario(
        name=name,
        product=product,
        title=f"樊登读书 {title}",
        description=description,
        kind="membership",
        face_value=Decimal(fee),
        unit_price=Decimal(fee),
        recipient="phone",
        behaviour=replace(behaviour, extra={"vip": vip, **behaviour.extra}),
        expect=expect,
        **others,
    )


# --- Bought at once ---------------------------------------------------------------------------------------------------

_AT_ONCE: Final = (
    _membership(
        "membership",
        "200000148",
        "年卡",
        "365.00",
        "done in the create answer, whose orderNumber has 19 digits",
        vip=(1, YEAR),
        shows=(1, 6),
        codes=("0000",),
    ),
    _membership(
        "half-year",
        "200000501",
        "半年卡",
        "188.00",
        "done in the create answer; the product list has its price as a whole number and its time in months",
        shows=(7,),
    ),
    _membership(
        "day-card",
        "200000502",
        "七天卡",
        "9.90",
        "done in the create answer; the product list has its price as a decimal and its time in days",
        vip=(7, DAY),
        shows=(7,),
    ),
    _membership(
        "two-quarters",
        "200000503",
        "季卡（两份）",
        "99.00",
        "two units are two create calls with numbers of their own, one after the other",
        vip=(3, MONTH),
        expect=Expect(charges=2, requests=2),
        quantity=2,
        shows=(6,),
    ),
    _membership(
        "new-user",
        "200000504",
        "半年卡（新用户）",
        "188.00",
        "the phone number has no account yet: the answer is lost, the order detail shows the userId it was given",
        behaviour=_course(dropped()),
        shows=(25,),
        codes=("COMPLETE",),
    ),
)

_FEES: Final = tuple(
    _membership(
        name,
        product,
        f"半年卡（价格写作{fee}）",
        "188.00",
        f"a proxy writes the fee of 188.00 as {fee} and signs anew: the same by value",
        behaviour=_course(rewritten=name),
        shows=(12,),
    )
    for name, product, fee in (
        ("fee-whole", "200000505", "188"),
        ("fee-one-decimal", "200000506", "188.0"),
        ("fee-exponent", "200000507", "18800e-2"),
    )
)

_SEVERAL_UNITS: Final = (
    _membership(
        "two-in-one",
        "200000641",
        "半年卡（一单两份）",
        "188.00",
        "buyCount 2 with the fee of one, which the platform compares: 376.00 is charged",
        quantity=2,
        max_units=2,
        shows=(11,),
    ),
    _membership(
        "two-in-one-total",
        "200000642",
        "半年卡（一单两份，总价）",
        "188.00",
        "buyCount 2 with the fee of both, 376.00; the platform compares the total",
        quantity=2,
        max_units=2,
        account={"fee_mode": "total"},
        controls=(Control("mode", {"fee": "total"}),),
        shows=(11,),
    ),
    _membership(
        "two-in-one-misread",
        "200000643",
        "半年卡（一单两份，误读）",
        "188.00",
        "buyCount 2 with the fee of both, 376.00; the platform compares the price of one: 2002",
        expect=Expect(state="failed", failure="price_above_limit", charges=0, alerts=("supplier_price",)),
        quantity=2,
        max_units=2,
        account={"fee_mode": "total"},
        shows=(11,),
        codes=("2002",),
    ),
)

_NUMBERS: Final = (
    _membership(
        "number-as-number",
        "200000508",
        "半年卡（数字单号）",
        "188.00",
        "a proxy writes tradeNo as a bare number and signs anew; the answer echoes it as text",
        behaviour=_course(rewritten="bare-number"),
        shows=(13,),
    ),
    _membership(
        "number-as-number-lost",
        "200000509",
        "半年卡（数字单号，响应丢失）",
        "188.00",
        "the same, and the answer is lost; the order detail is asked for the bare number and echoes text",
        behaviour=_course(dropped(), rewritten="bare-number"),
        shows=(13, 17),
    ),
)

# --- Refused ----------------------------------------------------------------------------------------------------------

_REFUSALS: Final = (
    _membership(
        "product-gone",
        "200000511",
        "半年卡（商品不存在）",
        "188.00",
        "refused with 2001, nothing is booked",
        behaviour=_course(refused("2001", "会期商品不存在").always()),
        expect=_no("product_unavailable"),
        shows=(8,),
        codes=("2001",),
    ),
    _membership(
        "price-risen",
        "200000512",
        "半年卡（已涨价）",
        "188.00",
        "refused with 2002: the agreed price is 0.01 yuan above our fee",
        behaviour=replace(_course(), price=Decimal("188.01")),
        expect=Expect(
            state="failed",
            failure="price_above_limit",
            charges=0,
            alerts=("supplier_price",),
            says="The catalogue's unit_cost is out of date: every order fails until it is mended.",
        ),
        shows=(8, 11),
        codes=("2002",),
    ),
    _membership(
        "price-fallen",
        "200000513",
        "半年卡（已降价）",
        "188.00",
        "refused with 2002 as well: the agreed price is 0.01 yuan below our fee",
        behaviour=replace(_course(), price=Decimal("187.99")),
        expect=Expect(state="failed", failure="price_above_limit", charges=0, alerts=("supplier_price",)),
        shows=(11,),
    ),
    _membership(
        "locked-phone",
        "200000147",
        "半年卡（号码锁定）",
        "188.00",
        "refused with 2003, nothing is booked",
        behaviour=_course(refused("2003", "该手机号已锁定").always()),
        expect=_no("recipient_refused"),
        shows=(8,),
        codes=("2003",),
    ),
    _membership(
        "recharge-failed",
        "200000514",
        "半年卡（充值失败）",
        "188.00",
        "refused with 2005; the order detail answers 0006",
        behaviour=_course(refused("2005", "会期直充失败").always()),
        expect=_no("refused", "Believed only with the look that finds nothing."),
        shows=(8,),
        codes=("2005", "0006"),
    ),
    _membership(
        "recharge-failed-yet-done",
        "200000515",
        "半年卡（报失败实成功）",
        "188.00",
        "taken although the answer says 2005; the order detail shows COMPLETE",
        behaviour=_course(refused("2005", "会期直充失败", booked=True)),
        shows=(8,),
    ),
    _membership(
        "received-already",
        "200000516",
        "半年卡（已领取）",
        "188.00",
        "refused with 2006, nothing is booked",
        behaviour=_course(refused("2006", "已领取，不能重复领取").always()),
        expect=_no("recipient_refused"),
        shows=(8,),
        codes=("2006",),
    ),
    _membership(
        "off-shelf",
        "200000517",
        "半年卡（已下架）",
        "188.00",
        "refused with 2007, nothing is booked",
        behaviour=_course(refused("2007", "商品已下架").always()),
        expect=_no("product_unavailable"),
        shows=(8,),
        codes=("2007",),
    ),
    _membership(
        "package-offline",
        "200000518",
        "书籍包（未上线）",
        "188.00",
        "refused with 2008, nothing is booked",
        behaviour=_course(refused("2008", "书籍包已下线或未发布").always()),
        expect=_no("product_unavailable"),
        shows=(8,),
        codes=("2008",),
    ),
    _membership(
        "bought-already",
        "200000519",
        "书籍包（已购买）",
        "188.00",
        "refused with 2009, nothing is booked",
        behaviour=_course(refused("2009", "书籍包已购买").always()),
        expect=_no("recipient_refused"),
        shows=(8,),
        codes=("2009",),
    ),
    _membership(
        "no-settlement",
        "200000520",
        "半年卡（未配置结算）",
        "188.00",
        "refused with 2010, nothing is booked",
        behaviour=_course(refused("2010", "未配置结算方式").always()),
        expect=_no("refused"),
        shows=(8,),
        codes=("2010",),
    ),
)

# --- The flag beside the code -----------------------------------------------------------------------------------------


def _flagged(name: str, **flags: bool) -> Fault:
    """Refused with 2003, and with other flags than the usual `suceess: false`."""

    def change(body: dict[str, object]) -> dict[str, object]:
        return {**{key: value for key, value in body.items() if key != "suceess"}, **flags}

    return replace(edited(name, change), refusal=refused("2003", "该手机号已锁定").refusal, booked=False).always()


_FLAGS: Final = (
    _membership(
        "flag-well-spelt",
        "200000521",
        "半年卡（拼写正确）",
        "188.00",
        "refused with 2003 and success: false, spelt properly",
        behaviour=_course(_flagged("success", success=False)),
        expect=_no("recipient_refused"),
        shows=(23,),
    ),
    _membership(
        "flag-missing",
        "200000522",
        "半年卡（无标志）",
        "188.00",
        "refused with 2003 and no flag at all",
        behaviour=_course(_flagged("no flag")),
        expect=_no("recipient_refused"),
        shows=(23,),
    ),
    _membership(
        "flag-lies",
        "200000523",
        "半年卡（标志相反）",
        "188.00",
        "refused with 2003, yet both spellings of the flag say true",
        behaviour=_course(_flagged("flags say success", suceess=True, success=True)),
        expect=_no("recipient_refused"),
        shows=(23,),
    ),
    _membership(
        "flag-false-at-success",
        "200000524",
        "半年卡（成功但标志为假）",
        "188.00",
        "0000 and an orderNumber, yet suceess: false",
        behaviour=_course(edited("suceess: false", lambda body: {**body, "suceess": False})),
        shows=(23,),
    ),
)

# --- The same number again --------------------------------------------------------------------------------------------

_AGAIN: Final = (
    _membership(
        "sent-twice",
        "200000531",
        "半年卡（重复请求）",
        "188.00",
        "a proxy hands the create call over twice, the second one is answered 2004; the order detail shows COMPLETE",
        behaviour=replace(_course(), repeated_request=True),
        shows=(9,),
        codes=("2004", "COMPLETE"),
    ),
    _membership(
        "sent-twice-slow",
        "200000532",
        "半年卡（重复请求，到账慢）",
        "188.00",
        "a create call handed over twice is answered 2004; the order detail shows NEW for two looks, then COMPLETE",
        behaviour=replace(_course(stages=_SLOW), repeated_request=True),
        shows=(9, 18),
    ),
    _membership(
        "repeated-yet-unknown",
        "200000533",
        "半年卡（报重复实无单）",
        "188.00",
        "2004 for a number that the order detail then doesn't know: 0006; sent again it is taken",
        behaviour=_course(refused("2004", "订单号重复")),
        expect=_BOUGHT_AT_SECOND,
        shows=(9,),
    ),
    _membership(
        "sent-twice-at-once",
        "200000538",
        "半年卡（同时重复请求）",
        "188.00",
        "a proxy hands the create call over twice at once; the second arrives while the first is still running and is "
        "answered 9999; the order detail shows COMPLETE",
        behaviour=replace(_course(), repeated_request=True, repeated_at_once=True),
        shows=(10,),
        codes=("9999", "COMPLETE"),
    ),
    _membership(
        "repeated-submission",
        "200000534",
        "半年卡（重复提交）",
        "188.00",
        "taken, but answered 9999 as a repeat of a call still running; the order detail shows NEW twice, then COMPLETE",
        behaviour=_course(refused("9999", "重复提交", booked=True), stages=_SLOW),
        shows=(10, 18),
        codes=("9999", "NEW"),
    ),
    _membership(
        "busy-once",
        "200000535",
        "半年卡（系统繁忙）",
        "188.00",
        "9999 and nothing is booked; sent again after 0006 it is taken",
        behaviour=_course(refused("9999", "系统繁忙")),
        expect=_BOUGHT_AT_SECOND,
        shows=(10, 20),
    ),
    _membership(
        "busy-always",
        "200000536",
        "半年卡（一直繁忙）",
        "188.00",
        "9999 every time and nothing is booked; the order detail answers 0006",
        behaviour=_course(refused("9999", "系统繁忙").always()),
        expect=Expect(state="failed", failure="never_received", charges=0, requests=3),
        shows=(10, 20),
    ),
    _membership(
        "known-late",
        "200000537",
        "半年卡（查询滞后）",
        "188.00",
        "taken, the answer is lost and the order detail says 0006 until the number comes again, which is answered 2004",
        behaviour=_course(dropped(), known_from=2),
        expect=_BOUGHT_AT_SECOND,
        shows=(9, 20),
        codes=("2004", "0006"),
    ),
)

# --- The service behind the gateway -----------------------------------------------------------------------------------


def _abnormal(code: str, product: str) -> Scenario:
    return _membership(
        f"abnormal-{code}",
        product,
        f"半年卡（服务异常 {code[-1]}）",
        "188.00",
        f"taken although the answer says {code}; the order detail shows COMPLETE",
        behaviour=_course(refused(code, _ABNORMAL, booked=True)),
        shows=(16,),
        codes=(code,),
    )


_ABNORMALITIES: Final = (
    _membership(
        "slow-recharge",
        "200000146",
        "季卡（到账慢）",
        "99.00",
        "taken although the answer says 200001; the detail call shows NEW for three looks, then COMPLETE",
        behaviour=_course(refused("200001", _ABNORMAL, booked=True), stages=(Stage("NEW", looks=3), *_DONE)),
        vip=(3, MONTH),
        shows=(16, 18),
        codes=("200001", "NEW", "COMPLETE"),
    ),
    _abnormal("200002", "200000541"),
    _abnormal("200003", "200000542"),
    _abnormal("200004", "200000543"),
    _membership(
        "abnormal-unbooked",
        "200000544",
        "半年卡（服务异常，未下单）",
        "188.00",
        "200001 and nothing is booked; sent again after 0006 it is taken",
        behaviour=_course(refused("200001", _ABNORMAL)),
        expect=_BOUGHT_AT_SECOND,
        shows=(16, 20),
    ),
)

# --- No answer --------------------------------------------------------------------------------------------------------

_LOSSES: Final = (
    _membership(
        "silent",
        "200000403",
        "半年卡（超时）",
        "188.00",
        "accepted, the answer never comes; the detail call shows COMPLETE",
        behaviour=_course(never()),
        shows=(17,),
    ),
    _membership(
        "late-answer",
        "200000551",
        "半年卡（响应过慢）",
        "188.00",
        "accepted, the answer comes after the client's time-out; the order detail shows COMPLETE",
        behaviour=_course(late()),
        shows=(17,),
    ),
    _membership(
        "answer-dropped",
        "200000552",
        "半年卡（连接断开）",
        "188.00",
        "accepted, the connection closes without an answer; the order detail shows COMPLETE",
        behaviour=_course(dropped()),
        shows=(17,),
    ),
    _membership(
        "silent-unbooked",
        "200000553",
        "半年卡（超时，未下单）",
        "188.00",
        "never taken and never answered; the order detail says 0006; sent again it is taken",
        behaviour=_course(never().unbooked()),
        expect=_BOUGHT_AT_SECOND,
        shows=(20,),
    ),
    _membership(
        "lost-twice",
        "200000554",
        "半年卡（丢失两次）",
        "188.00",
        "the connection closes twice before the order is taken; the third time it is",
        behaviour=_course(dropped().unbooked().for_times(2)),
        expect=Expect(requests=3),
        shows=(20,),
    ),
    _membership(
        "lost-always",
        "200000555",
        "半年卡（始终丢失）",
        "188.00",
        "the connection closes every time before the order is taken; the order detail says 0006",
        behaviour=_course(dropped().unbooked().always()),
        expect=Expect(
            state="failed",
            failure="never_received",
            charges=0,
            requests=3,
            says="The same number is sent again twice, never more.",
        ),
        shows=(20,),
    ),
    _membership(
        "redirected",
        "200000556",
        "半年卡（重定向）",
        "188.00",
        "HTTP 302 to another address, nothing is booked; sent again after 0006 it is taken",
        behaviour=_course(redirected("/dushu/elsewhere")),
        expect=_BOUGHT_AT_SECOND,
        shows=(20,),
    ),
    _membership(
        "rate-limited",
        "200000557",
        "半年卡（限流）",
        "188.00",
        "HTTP 429 with Retry-After 1, nothing is booked; a second later it is taken",
        behaviour=_course(rate_limited(1)),
        expect=_BOUGHT_AT_SECOND,
    ),
)

# --- Never done -------------------------------------------------------------------------------------------------------

_ABNORMAL_FOREVER: Final = refused("200001", _ABNORMAL, booked=True)

_WAITS: Final = (
    _membership(
        "never-complete",
        "200000561",
        "半年卡（一直未到账）",
        "188.00",
        "taken although the answer says 200001; the order detail shows NEW for ever",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW"),)),
        expect=Expect(
            state="needs_review",
            reviews=("deadline",),
            alerts=("review",),
            says="After 24 hours; looks go on, and COMPLETE would still end it.",
        ),
        lapse=25 * _HOUR,
        shows=(19,),
        codes=("NEW",),
    ),
    _membership(
        "complete-after-deadline",
        "200000562",
        "半年卡（次日到账）",
        "188.00",
        "taken although the answer says 200001; the order detail shows NEW for 25 hours, then COMPLETE",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW", seconds=25 * _HOUR), *_DONE)),
        expect=Expect(alerts=("review",), says="A person was called after 24 hours, and isn't needed any more."),
        lapse=27 * _HOUR,
        shows=(18, 19),
    ),
    _membership(
        "look-troubles",
        "200000563",
        "半年卡（查询故障）",
        "188.00",
        "accepted, the answer is lost; looks meet HTTP 502 and 500, a cut, silence, 100003, 200002 and 429, "
        "then COMPLETE",
        behaviour=_course(
            dropped(),
            query=(
                html(502),
                html(500),
                dropped(),
                never(),
                refused("100003", "access_token失效或已过期"),
                refused("200002", _ABNORMAL),
                rate_limited(),
            ),
        ),
        shows=(21,),
        codes=("100003", "200002"),
    ),
    _membership(
        "looks-fail",
        "200000564",
        "半年卡（查询一直故障）",
        "188.00",
        "accepted, the answer is lost and every look meets HTTP 502",
        behaviour=_course(dropped(), query=(html(502).always(),)),
        expect=Expect(state="outcome_unknown", says="Asked again and again; after 24 hours a person has to look."),
        shows=(21,),
    ),
    _membership(
        "looks-unanswered",
        "200000565",
        "半年卡（查询无响应）",
        "188.00",
        "accepted, the answer is lost and every look's connection closes without an answer",
        behaviour=_course(dropped(), query=(dropped().always(),)),
        expect=Expect(state="needs_review", reviews=("deadline",), alerts=("review",)),
        lapse=25 * _HOUR,
        shows=(21,),
    ),
)

# --- Malformed --------------------------------------------------------------------------------------------------------


def _without(*names: str) -> Fault:
    return edited(f"without {', '.join(names)}", lambda body: {k: v for k, v in body.items() if k not in names})


def _with(**members: object) -> Fault:
    return edited(f"with {members}", lambda body: {**body, **members})


def _malformed(
    name: str, product: str, title: str, what: str, fault: Fault, *, alerts: tuple[str, ...] = ()
) -> Scenario:
    return _membership(
        name,
        product,
        f"半年卡（{title}）",
        "188.00",
        f"accepted, but {what}; the order detail shows COMPLETE",
        behaviour=_course(fault),
        expect=Expect(alerts=alerts),
        shows=(22,),
    )


_MALFORMED: Final = (
    _malformed("empty-answer", "200000571", "空响应", "the answer is empty", empty()),
    _membership(
        "wrong-label",
        "200000585",
        "半年卡（类型标错）",
        "188.00",
        "create answer and order detail are proper JSON in UTF-8 under Content-Type text/html; charset=gbk",
        behaviour=_course(
            replace(refused("200001", _ABNORMAL, booked=True), content_type=mislabelled().content_type),
            query=(mislabelled().always(),),
        ),
        shows=(22,),
    ),
    _malformed("html-answer", "200000572", "网页响应", "the answer is a web page with HTTP 502", html(502)),
    _malformed("html-answer-200", "200000573", "网页响应 200", "the answer is a web page with HTTP 200", html(200)),
    _malformed("half-answer", "200000574", "半截响应", "the JSON ends in the middle", half()),
    _malformed("cut-answer", "200000575", "响应中断", "the connection closes after 20 bytes", cut(20)),
    _malformed("bad-text", "200000576", "乱码响应", "the answer holds a byte that no UTF-8 has", bad_utf8()),
    _malformed("data-null", "200000577", "空数据", "the answer is 0000 with data: null", _with(data=None)),
    _malformed("no-order-number", "200000578", "无平台单号", "0000 comes without orderNumber", _with(data={})),
    _malformed("no-status", "200000579", "无状态码", "the answer has no status", _without("status")),
    _malformed(
        "status-number",
        "200000580",
        "状态码为数字",
        "status is the number 0 and not the text 0000",
        _with(status=0),
        alerts=("unexpected_answer",),
    ),
    _malformed("no-object", "200000581", "响应为数组", "the answer is a list", raw(b"[]", name="a list")),
    _malformed("http-500", "200000582", "响应 500", "0000 comes with HTTP 500", Fault("HTTP 500", status=500)),
    _malformed(
        "unknown-code",
        "200000583",
        "未知状态码",
        "status is 7777, which no page lists",
        refused("7777", "未知", booked=True),
        alerts=("unexpected_answer",),
    ),
    _membership(
        "malformed-looks",
        "200000584",
        "半年卡（查询响应异常）",
        "188.00",
        "accepted, the answer is lost; looks are answered with nothing, a web page, half a JSON, no UTF-8, a list, "
        "data: null, no status, the number 0 and an unknown orderStatus, then COMPLETE",
        behaviour=_course(
            dropped(),
            query=(
                empty(),
                html(200),
                half(),
                bad_utf8(),
                raw(b"[]", name="a list"),
                _with(data=None),
                _without("status"),
                _with(status=0),
                edited("orderStatus PAID", lambda body: {**body, "data": {**body["data"], "orderStatus": "PAID"}}),
            ),
        ),
        shows=(21, 22),
    ),
)

# --- Another order than ours ------------------------------------------------------------------------------------------


def _detail(**members: object) -> tuple[Stage, ...]:
    """Done, and shown with other members than the order's own; numbers are added to those."""

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        told = {key: value if isinstance(value, str) else entry[key] + value for key, value in members.items()}
        return {**entry, **told}

    return (Stage("COMPLETE", outcome="delivered", entry=change),)


_CONTRADICTIONS: Final = (
    _membership(
        "other-product",
        "200000591",
        "半年卡（商品不符）",
        "188.00",
        "accepted, the answer is lost; the order detail shows COMPLETE for another productId",
        behaviour=_course(dropped(), stages=_detail(productId=1)),
        expect=_CONTRADICTED,
        shows=(17,),
    ),
    _membership(
        "other-amount",
        "200000592",
        "半年卡（金额不符）",
        "188.00",
        "accepted, the answer is lost; the order detail shows COMPLETE with another totalFee",
        behaviour=_course(dropped(), stages=_detail(totalFee=1.0)),
        expect=_CONTRADICTED,
        shows=(17,),
    ),
    _membership(
        "other-trade-no",
        "200000593",
        "半年卡（单号不符）",
        "188.00",
        "accepted, the answer is lost; the order detail shows COMPLETE for another tradeNo",
        behaviour=_course(dropped(), stages=_detail(tradeNo="DS202401010001")),
        expect=_CONTRADICTED,
        shows=(13, 17),
    ),
    _membership(
        "other-trade-no-answered",
        "200000594",
        "半年卡（响应单号不符）",
        "188.00",
        "accepted, but the create answer is about another tradeNo",
        behaviour=_course(
            edited("another tradeNo", lambda body: {**body, "data": {**body["data"], "tradeNo": "DS202401010001"}})
        ),
        expect=_CONTRADICTED,
        shows=(13,),
    ),
    _membership(
        "order-number-off-by-one",
        "200000595",
        "半年卡（平台单号变化）",
        "188.00",
        "taken although the answer says 200001; the order detail shows NEW, then COMPLETE with an orderNumber "
        "that differs in the last of 19 digits",
        behaviour=_course(
            _ABNORMAL_FOREVER,
            stages=(
                _NEW,
                Stage(
                    "COMPLETE",
                    outcome="delivered",
                    entry=lambda entry: {**entry, "orderNumber": entry["orderNumber"] ^ 1},
                ),
            ),
        ),
        expect=_CONTRADICTED,
        shows=(6,),
    ),
    _membership(
        "forgotten",
        "200000596",
        "半年卡（查询丢单）",
        "188.00",
        "taken although the answer says 200001; looks see NEW, twice 0006, then COMPLETE",
        behaviour=_course(
            _ABNORMAL_FOREVER,
            stages=(Stage("NEW", looks=3), *_DONE),
            query=(proper(), refused("0006", "订单不存在").for_times(2)),
        ),
        expect=Expect(alerts=("contradiction",), says="An order that was there once isn't bought again."),
        shows=(18, 20),
        codes=("0006",),
    ),
)

# --- Access tokens ----------------------------------------------------------------------------------------------------

_TOKENS: Final = (
    _membership(
        "token-expired",
        "200000601",
        "半年卡（令牌过期）",
        "188.00",
        "all tokens end at the first create call, which is answered HTTP 401 and 100003; with a new one it is taken",
        behaviour=_course(tokens="expired"),
        expect=_BOUGHT_AT_SECOND,
        shows=(4, 15),
        codes=("100003", "HTTP 401"),
    ),
    _membership(
        "token-expired-200",
        "200000602",
        "半年卡（令牌过期 200）",
        "188.00",
        "all tokens end at the first create call, which is answered HTTP 200 and 100003; with a new one it is taken",
        behaviour=_course(tokens="expired-200"),
        expect=_BOUGHT_AT_SECOND,
        shows=(4,),
        codes=("100003",),
    ),
    _membership(
        "token-forgotten",
        "200000603",
        "半年卡（令牌非法）",
        "188.00",
        "the platform forgets all tokens at the first create call: HTTP 401 and 100002; with a new one it is taken",
        behaviour=_course(tokens="forgotten"),
        expect=_BOUGHT_AT_SECOND,
        shows=(4, 15),
        codes=("100002", "HTTP 401"),
    ),
    _membership(
        "http-401",
        "200000604",
        "半年卡（401 网页）",
        "188.00",
        "a web page with HTTP 401 and nothing is booked; with a new token it is taken",
        behaviour=_course(html(401).unbooked()),
        expect=_BOUGHT_AT_SECOND,
        shows=(4,),
        codes=("HTTP 401",),
    ),
    _membership(
        "token-refused-twice",
        "200000605",
        "半年卡（新令牌也被拒）",
        "188.00",
        "100002 for the first token and for the new one; a minute later it is taken",
        behaviour=_course(refused("100002", "非法的access_token").for_times(2)),
        expect=Expect(
            requests=3, alerts=_REFUSED_US, says="One retry with a new token; then the account pauses for a minute."
        ),
        lapse=90,
        shows=(4,),
    ),
    _membership(
        "token-expired-look",
        "200000606",
        "半年卡（查询令牌过期）",
        "188.00",
        "taken although the answer says 200001; all tokens end while the order detail shows NEW, then COMPLETE",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW", looks=12), *_DONE)),
        after=(Control("tokens"),),
        after_state="processing",
        shows=(4, 21),
        codes=("100003", "HTTP 401"),
    ),
    _membership(
        "token-rotated",
        "200000607",
        "半年卡（令牌轮换）",
        "188.00",
        "somebody else fetches a token while the order detail shows NEW: ours is good for five minutes more, "
        "then 100003; in the end COMPLETE",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW", seconds=600), *_DONE), tokens="rotated"),
        lapse=900,
        shows=(3,),
        codes=("100003", "HTTP 401"),
    ),
    _membership(
        "token-renewed",
        "200000608",
        "半年卡（令牌续期）",
        "188.00",
        "tokens live two minutes, and the order detail shows NEW for five; then COMPLETE",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW", seconds=300), *_DONE)),
        controls=(Control("tokens", {"lifetime": 120}),),
        lapse=400,
        shows=(1, 3),
    ),
    _membership(
        "token-limit",
        "200000609",
        "半年卡（令牌次数用尽）",
        "188.00",
        "no more tokens are given today while the order detail shows NEW; COMPLETE comes before the present one ends",
        behaviour=_course(_ABNORMAL_FOREVER, stages=(Stage("NEW", seconds=6800), *_DONE)),
        expect=Expect(alerts=_REFUSED_US, says="The present token serves until its end."),
        account={"token_renew_margin_seconds": 1000},
        after=(Control("mode", {"tokens_left": "none"}),),
        after_state="processing",
        lapse=7100,
        shows=(5,),
        codes=("HTTP 429",),
    ),
    _membership(
        "bad-credentials",
        "200000610",
        "半年卡（密钥错误）",
        "188.00",
        "the token call is refused: invalid_client with HTTP 401; nothing is ever ordered",
        expect=Expect(
            state="failed",
            failure="not_sent_in_time",
            charges=0,
            requests=0,
            alerts=_REFUSED_US,
            says="The account pauses a minute at a time until the secret is mended.",
        ),
        account={"appsecret": "not-the-secret", "send_by_seconds": 1.5},
        shows=(2,),
        codes=("invalid_client",),
    ),
    _membership(
        "bad-credentials-200",
        "200000611",
        "半年卡（密钥错误 200）",
        "188.00",
        "the token call is refused: invalid_client with HTTP 200; nothing is ordered for a minute",
        expect=_NEVER_SENT,
        account={"send_by_seconds": 1.5},
        controls=(Control("answer", {"call": "token", "next": 1, "status": 200, "body": _CREDENTIALS}),),
        shows=(2,),
        codes=("invalid_client",),
    ),
    _membership(
        "client-unauthorized",
        "200000613",
        "半年卡（无令牌权限）",
        "188.00",
        "the token call is refused: unauthorized_client with HTTP 401; nothing is ordered for a minute",
        expect=_NEVER_SENT,
        account={"send_by_seconds": 1.5},
        controls=(
            Control("answer", {"call": "token", "next": 1, "status": 401, "body": '{"error":"unauthorized_client"}'}),
        ),
        shows=(2,),
        codes=("unauthorized_client",),
    ),
    _membership(
        "token-malformed",
        "200000612",
        "半年卡（令牌响应异常）",
        "188.00",
        "token calls are answered with a web page and with value: null; the third brings a token",
        controls=(
            Control("answer", {"call": "token", "next": 1, "status": 502, "body": "<html></html>"}),
            Control("answer", {"call": "token", "next": 1, "body": '{"value":null,"expiresIn":7199}'}),
        ),
        shows=(22,),
    ),
)

# --- The gateway refuses us -------------------------------------------------------------------------------------------

_GATEWAY: Final = (
    _membership(
        "body-rewritten",
        "200000626",
        "半年卡（内容被改写）",
        "188.00",
        "a proxy writes the JSON of the body anew, with blanks, under the signature of the old one: 100001",
        behaviour=_course(rewritten="spaced"),
        expect=Expect(state="failed", failure="not_sent_in_time", charges=0, alerts=_REFUSED_US),
        account={"send_by_seconds": 1.5},
        shows=(14,),
        codes=("100001",),
    ),
    _membership(
        "bad-signature",
        "200000621",
        "半年卡（签名错误）",
        "188.00",
        "100001, as when a proxy writes the JSON of the body anew; a minute later it is taken",
        behaviour=_course(refused("100001", "非法的签名")),
        expect=Expect(requests=2, alerts=_REFUSED_US, says="Not tried again at once: the account pauses for a minute."),
        lapse=90,
        shows=(14,),
        codes=("100001",),
    ),
    _membership(
        "missing-parameters",
        "200000622",
        "半年卡（缺少参数）",
        "188.00",
        "access_token, appid, sign and another parameter are missed, call by call: 100004 (HTTP 401) to 100007",
        behaviour=_course(
            refused("100004", "缺少access_token"),
            refused("100005", "缺少appid"),
            refused("100006", "缺少sign"),
            refused("100007", "缺少授权参数"),
        ),
        expect=Expect(requests=5, alerts=_REFUSED_US),
        lapse=300,
        shows=(15,),
        codes=("100004", "100005", "100006", "100007"),
    ),
    _membership(
        "no-rights",
        "200000623",
        "半年卡（无权限）",
        "188.00",
        "no right to the API, API not authorised, API configured wrongly, app unknown: 100008 to 100011 with HTTP 403",
        behaviour=_course(
            refused("100008", "无权访问该API"),
            refused("100009", "API未授权"),
            refused("100010", "API配置错误"),
            refused("100011", "应用不存在"),
        ),
        expect=Expect(requests=5, alerts=_REFUSED_US),
        lapse=300,
        shows=(15,),
        codes=("100008", "100009", "100010", "100011", "HTTP 403"),
    ),
    _membership(
        "address-refused",
        "200000624",
        "半年卡（IP 未登记）",
        "188.00",
        "our address isn't registered, then no address is: 100012 and 100013 with HTTP 403",
        behaviour=_course(refused("100012", "IP不在白名单"), refused("100013", "未设置IP白名单")),
        expect=Expect(
            requests=3, alerts=_REFUSED_US, says="Tried once a minute, and taken as soon as the address is registered."
        ),
        lapse=180,
        shows=(15, 24),
        codes=("100012", "100013"),
    ),
    _membership(
        "address-unregistered",
        "200000625",
        "半年卡（IP 一直未登记）",
        "188.00",
        "every call from our address is refused with 100012, token calls included; nothing is ever ordered",
        expect=_NEVER_SENT,
        account={"send_by_seconds": 1.5},
        controls=(Control("mode", {"allow_list": "others"}),),
        shows=(24,),
        codes=("100012", "HTTP 403"),
    ),
)

# --- What the platform doesn't have -----------------------------------------------------------------------------------

_NOT_OFFERED: Final = (
    _membership(
        "foreign-callbacks",
        "200000631",
        "半年卡（伪造回调）",
        "188.00",
        "taken although the answer says 200001; somebody posts callbacks, repeated, contradictory, as a form and "
        "for an unknown number, while the order detail shows NEW; then COMPLETE",
        behaviour=_course(
            _ABNORMAL_FOREVER,
            stages=(
                Stage("NEW", looks=3, callbacks=("complete", "complete", "failed", "new", "form", "unknown-number")),
                *_DONE,
            ),
        ),
        expect=Expect(callbacks=(False,) * 6, says="Refused, and nothing moves: the platform has no callbacks."),
        shows=(26,),
    ),
)

SCENARIOS: Final = (
    *_AT_ONCE,
    *_FEES,
    *_SEVERAL_UNITS,
    *_NUMBERS,
    *_REFUSALS,
    *_FLAGS,
    *_AGAIN,
    *_ABNORMALITIES,
    *_LOSSES,
    *_WAITS,
    *_MALFORMED,
    *_CONTRADICTIONS,
    *_TOKENS,
    *_GATEWAY,
    *_NOT_OFFERED,
)

BEHAVIOURS: Final[Mapping[int, str]] = {
    1: "Gives access tokens that end by themselves; one is kept for all calls and renewed once, whoever needs it.",
    2: "Refuses wrong credentials at the token call (invalid_client): our configuration, the account pauses.",
    3: "Lets an old token live five minutes after a new one was issued; no order fails meanwhile.",
    4: "Refuses an expired token with HTTP 401, or with 100003 and HTTP 200: renewed, and one retry with a new URL.",
    5: "Gives no more tokens today: the present one serves until its end, and the operator is told.",
    6: "Does a recharge at once and gives it an order number of 19 digits, kept to the last one.",
    7: "Lists its products with prices as whole numbers or decimals and time in years, months or days.",
    8: "Says no to a product, a price, a phone number or the recharge itself: the order fails with its words.",
    9: "Answers 2004 to a number it has: whatever it has is looked up and delivered once.",
    10: "Answers 9999 to a repeat while the first call still runs, or when it is busy: looked up, delivered once.",
    11: "Says no to a fee that is off by 0.01 yuan: the order fails, and the operator is told about the price. Whether "
    "the fee is for one or for all units the manual leaves open.",
    12: "Compares the fee by value, however it is spelt.",
    13: "Takes our number as text or as a number and echoes text, by which an answer is matched.",
    14: "Refuses a body that was written anew on its way (100001): our configuration, not tried again at once.",
    15: "Refuses us at the gateway: a token is renewed, anything else pauses the account until somebody mends it.",
    16: "Fails behind the gateway (200001 to 200004): the order detail tells whether it was taken.",
    17: "Takes an order whose answer is lost: the order detail tells, and must name our product, amount and number.",
    18: "Shows NEW before COMPLETE: waited for.",
    19: "Shows NEW for ever: waited for, and after 24 hours a person is called.",
    20: "Never got an order: after the grace period the same number is sent again, twice at most.",
    21: "Can't be asked for a while: the outcome stays unknown and is asked for again.",
    22: "Answers with nothing, a web page, half a JSON or members of another type: looked up, never guessed.",
    23: "Spells the flag beside a failure wrongly, properly or not at all: the code alone decides.",
    24: "Refuses our address (100012): the account pauses, the operator is told, and nothing is sent in a loop.",
    25: "Makes an account for a phone number that has none: delivered like any other.",
    26: "Sends no callbacks: whoever posts one is refused and moves nothing.",
    27: "Sells no cards, so none can come late.",
}

OPEN: Final[Mapping[int, str]] = {27: "There is nothing to show: the platform has no card products."}

CODES: Final[Mapping[str, str]] = {
    "0000": "done",
    "0006": "no such order, to the order detail",
    "2001": "no such membership product",
    "2002": "the fee isn't the agreed price",
    "2003": "the phone number is locked",
    "2004": "the order number was used before",
    "2005": "the recharge failed",
    "2006": "received already, can't be received again",
    "2007": "the product is off the shelf",
    "2008": "the book package is off line or not published",
    "2009": "the book package was bought already",
    "2010": "no settlement method is configured",
    "9999": "any other failure, a repeat of a call still running among them",
    "100001": "illegal signature",
    "100002": "illegal access token",
    "100003": "the access token has ended",
    "100004": "the access token is missing",
    "100005": "the appid is missing",
    "100006": "the signature is missing",
    "100007": "a parameter of the authorisation is missing",
    "100008": "no right to this API",
    "100009": "the API isn't authorised",
    "100010": "the API is configured wrongly",
    "100011": "unknown app",
    "100012": "the address isn't on the list of allowed ones",
    "100013": "there is no list of allowed addresses",
    "200001": "the service behind the gateway is abnormal",
    "200002": "the service behind the gateway is abnormal",
    "200003": "the service behind the gateway is abnormal",
    "200004": "the service behind the gateway is abnormal",
    "invalid_client": "the token call's credentials are wrong",
    "unauthorized_client": "the token call's credentials are good for something else",
    "HTTP 401": "the token isn't accepted; with 100002 to 100004",
    "HTTP 403": "the app or its address isn't allowed; with 100008 to 100013",
    "HTTP 429": "no more tokens today",
    "NEW": "the order is taken and not done yet",
    "COMPLETE": "the order is done",
}

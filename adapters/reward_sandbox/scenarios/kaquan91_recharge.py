"""What 91 Kaquan recharges: accepted first, done by somebody later."""

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
    late,
    mislabelled,
    never,
    proper,
    rate_limited,
    raw,
    redirected,
    refused,
)
from reward_sandbox.scenario import GENUINE, Behaviour, Control, Expect, Scenario, Stage

HOUR: Final = 3600
DAY: Final = 24 * HOUR

MATCHING: Final = Stage(7)
WAITING: Final = Stage(1)
RECHARGING: Final = Stage(2)
DONE: Final = Stage(3, callbacks=(GENUINE,), outcome="delivered")
CONFIRMED: Final = Stage(4, outcome="delivered")
DISPUTED: Final = Stage(5, outcome="delivered")
FAILED: Final = Stage(6, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed")

SUCCESS: Final = (MATCHING, WAITING, RECHARGING, DONE)
ACKNOWLEDGED: Final = Expect(callbacks=(True,))
REFUSED: Final = Expect(state="failed", failure="refused", charges=0)
REFUSES_US: Final = Expect(
    state="failed",
    failure="not_sent_in_time",
    charges=0,
    alerts=("supplier_refuses_us",),
    says="The account is paused and tries again every minute, until the order's sending deadline.",
)
IN_DOUBT: Final = Expect(state="needs_review", reviews=("contradiction",), alerts=("review",))

SHORT: Final = {"send_by_seconds": 1.5}
"""A sending deadline that a test can wait for."""
SERVER_ERROR: Final = Fault("HTTP 500", status=500)
PROMPT: Final = {"poll_plan": [0.05]}
"""Looks in quick succession, where many of them go wrong."""


def _seen(stage: Stage, *, genuine: bool = False, looks: int = 1) -> Stage:
    """The same, until so many looks have seen it; `genuine`: with a callback that makes the service look."""
    return replace(stage, steps=0, looks=looks, callbacks=(GENUINE,) if genuine else stage.callbacks)


def _quiet(stage: Stage) -> Stage:
    """The same, without callbacks."""
    return replace(stage, callbacks=())


def _sending(*callbacks: str) -> Stage:
    """Done, and then these callbacks one after another."""
    return replace(DONE, callbacks=callbacks)


def _having(stage: Stage, **members: object) -> Stage:
    """The same, told of with these members."""
    return replace(stage, entry=lambda entry: {**entry, **members})


def _answer(name: str, **members: object) -> Fault:
    """A proper answer but for these members of the envelope."""
    return edited(name, lambda answer: {**answer, **members})


def _result(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """A proper answer but for what is in `result`."""
    return edited(name, lambda answer: {**answer, "result": change(answer["result"])})


def _without(answer: dict[str, Any], member: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != member}


def _topup(
    name: str,
    product: str,
    remark: str,
    description: str,
    *,
    behaviour: Behaviour | None = None,
    expect: Expect = ACKNOWLEDGED,
    shows: tuple[int, ...] = (),
    **more: Any,
) -> Scenario:
    return Scenario(
        name=name,
        product=product,
        title=f"91 话费代充 50元（{remark}）" if remark else "91 话费代充 50元",
        description=description,
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.00"),
        recipient=more.pop("recipient", "phone"),
        behaviour=behaviour or Behaviour(SUCCESS),
        expect=expect,
        shows=shows,
        **more,
    )


def _answered(name: str, product: str, remark: str, description: str, fault: Fault, **expect: Any) -> Scenario:
    """A purchase whose answer is odd; what became of it is told by the looks."""
    behaviour = Behaviour(SUCCESS, faults={"create": (fault,)})
    return _topup(
        name, product, remark, description, behaviour=behaviour, expect=replace(ACKNOWLEDGED, **expect), shows=(21,)
    )


def _turned_down(
    name: str, product: str, remark: str, text: str, description: str, *, failure: str = "refused"
) -> Scenario:
    """A purchase refused in these words, nothing booked."""
    behaviour = Behaviour(SUCCESS, faults={"create": (refused("0", text).always(),)})
    return _topup(
        name, product, remark, description, behaviour=behaviour, expect=replace(REFUSED, failure=failure), shows=(6,)
    )


_COURSES: Final = (
    _topup(
        "topup",
        "521",
        "",
        "7, 1, 2, 3 one step each, then the callback",
        expect=replace(ACKNOWLEDGED, says="The callback is answered with exactly `success`, so it isn't repeated."),
        shows=(1, 8, 9, 19),
        codes=("code 1",),
    ),
    _topup(
        "step-by-step",
        "526",
        "逐步",
        "7, 1, 2, 3, 4, each until a query has seen it; callbacks tell of 3 and 4",
        behaviour=Behaviour(
            (
                *(_seen(stage) for stage in (MATCHING, WAITING, RECHARGING)),
                _seen(DONE),
                _seen(CONFIRMED, genuine=True),
                CONFIRMED,
            )
        ),
        expect=Expect(callbacks=(True, True)),
        shows=(1, 14),
        codes=("status 7", "status 1", "status 2", "status 3", "status 4"),
    ),
    _topup(
        "confirmed-after-a-day",
        "527",
        "自动确认",
        "7, 1, 2, 3 and the callback; queries show 4 from 24 hours after that on",
        shows=(1,),
        lapse=26 * HOUR,
    ),
    _topup("several", "528", "三份", "one order for three, one state for all of them", shows=(1,), quantity=3),
    _topup(
        "no-callback",
        "529",
        "无回调",
        "no notify_url in the order, so no callback; 7, 1, 2, 3",
        expect=Expect(),
        shows=(2, 9),
        calls_back=False,
    ),
    _topup(
        "failed",
        "523",
        "失败",
        "7, 1, 2, then 6: closed and paid back, with a callback",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, _seen(FAILED), _quiet(FAILED))),
        expect=replace(ACKNOWLEDGED, state="failed", failure="refunded", refunds=1),
        shows=(3,),
        codes=("status 6",),
    ),
    _topup(
        "failed-no-callback",
        "530",
        "失败无回调",
        "7, 1, 2, then 6 without any callback",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, FAILED)),
        expect=Expect(state="failed", failure="refunded", refunds=1),
        shows=(2, 3),
        calls_back=False,
    ),
    _topup(
        "taken-down",
        "531",
        "七天下架",
        "1 for seven days, then 6 with a callback: nobody took the order",
        behaviour=Behaviour((replace(WAITING, seconds=7 * DAY), FAILED)),
        expect=replace(ACKNOWLEDGED, state="failed", failure="refunded", refunds=1),
        shows=(4,),
        # Its last leap ends half an hour after the take-down and half an hour before the settling deadline.
        lapse=7 * DAY + HOUR / 2,
    ),
    _topup(
        "taken-down-unmatched",
        "532",
        "七天未匹配",
        "7 for seven days, then 6 without a callback",
        behaviour=Behaviour((replace(MATCHING, seconds=7 * DAY), FAILED)),
        expect=Expect(state="failed", failure="refunded", refunds=1),
        shows=(2, 4),
        calls_back=False,
        lapse=7 * DAY + HOUR / 2,
    ),
    _topup(
        "forgotten",
        "533",
        "无人处理",
        "1 for ever: the supplier breaks its own rule of seven days",
        behaviour=Behaviour((WAITING,)),
        expect=Expect(state="needs_review", reviews=("deadline",), alerts=("review",)),
        shows=(4,),
        account={"settle_by_seconds": 1.0},
    ),
    _topup(
        "after-the-deadline",
        "534",
        "超期完成",
        "1 for longer than the settling deadline, then 3 with a callback",
        behaviour=Behaviour((replace(WAITING, seconds=2.5), DONE)),
        expect=replace(
            ACKNOWLEDGED, alerts=("review",), says="Looks go on in a review for a deadline, and evidence ends it."
        ),
        shows=(4,),
        account={"settle_by_seconds": 0.5},
    ),
    _topup(
        "waiting",
        "525",
        "待充值",
        "stays in 1 until it is cancelled: nobody takes the order",
        behaviour=Behaviour((MATCHING, WAITING)),
        expect=Expect(state="processing"),
        shows=(7,),
    ),
    _topup(
        "no-stock",
        "535",
        "缺货等待",
        "out of stock and no check asked for: accepted, waits in 7",
        behaviour=Behaviour((MATCHING,), stock=0),
        expect=Expect(state="processing"),
        shows=(7,),
    ),
    _topup(
        "no-stock-taken-later",
        "536",
        "缺货后完成",
        "out of stock and no check asked for: accepted, and somebody takes it later",
        behaviour=Behaviour((_seen(MATCHING, looks=2), WAITING, RECHARGING, DONE), stock=0),
        shows=(7, 9),
    ),
)

_LATE_SUCCESS: Final = Expect(
    state="failed",
    failure="refunded",
    refunds=1,
    alerts=("late_success",),
    reviews=("late_success",),
    callbacks=(True, True),
    says="The order stays failed; a person decides what becomes of the recharge.",
)

_AFTER_SALE: Final = (
    _topup(
        "dispute-settled",
        "540",
        "纠纷后完成",
        "3, then 5, then 4, a callback for each",
        behaviour=Behaviour((_seen(DONE), _seen(DISPUTED, genuine=True), _seen(CONFIRMED, genuine=True), CONFIRMED)),
        expect=Expect(
            alerts=("disputed",),
            callbacks=(True, True, True),
            says="The review item of the dispute closes with the dispute.",
        ),
        shows=(5,),
        codes=("status 5",),
    ),
    _topup(
        "dispute-lost",
        "541",
        "纠纷后退款",
        "3, then 5, then 6 and paid back, a callback for each",
        behaviour=Behaviour((_seen(DONE), _seen(DISPUTED, genuine=True), _seen(FAILED), _quiet(FAILED))),
        expect=Expect(
            refunds=1,
            alerts=("disputed", "reversed"),
            reviews=("reversed",),
            after_sale="reversed",
            callbacks=(True, True, True),
            says="The order stays fulfilled; a person decides what becomes of it, and nothing is bought again.",
        ),
        shows=(5,),
    ),
    _topup(
        "dispute-open",
        "542",
        "纠纷中",
        "3, then 5 with a callback, and no end of it",
        behaviour=Behaviour((_seen(DONE), _seen(DISPUTED, genuine=True), DISPUTED)),
        expect=Expect(alerts=("disputed",), reviews=("disputed",), after_sale="disputed", callbacks=(True, True)),
        shows=(5,),
    ),
    _topup(
        "dispute-first",
        "543",
        "首见纠纷",
        "2, then 5 at once: no query ever saw 3",
        behaviour=Behaviour((_seen(RECHARGING), _seen(DISPUTED, genuine=True), DISPUTED)),
        expect=Expect(alerts=("disputed",), reviews=("disputed",), after_sale="disputed", callbacks=(True,)),
        shows=(5,),
    ),
    _topup(
        "reversed",
        "544",
        "成功后退款",
        "3, then 6 and paid back without any dispute",
        behaviour=Behaviour((_seen(DONE), _seen(FAILED), _quiet(FAILED))),
        expect=Expect(
            refunds=1, alerts=("reversed",), reviews=("reversed",), after_sale="reversed", callbacks=(True, True)
        ),
        shows=(3, 5),
    ),
    _topup(
        "success-after-failure",
        "545",
        "失败后成功",
        "6 and paid back, then 3 after all, a callback for each",
        behaviour=Behaviour((_seen(FAILED), _seen(DONE), _quiet(DONE))),
        expect=_LATE_SUCCESS,
        shows=(3, 16),
    ),
    _topup(
        "success-while-asked",
        "546",
        "查询中成功",
        "as before, but the callback for 3 comes while the answer to the query that saw 6 is on its way",
        behaviour=Behaviour((_seen(FAILED), _seen(DONE), _quiet(DONE)), faults={"query": (late(0.3).always(),)}),
        expect=_LATE_SUCCESS,
        shows=(3, 16),
    ),
    _topup(
        "dispute-while-asked",
        "547",
        "查询中纠纷",
        "3, 4, then 5, whose callback comes while the answer to the query that saw 4 is on its way",
        behaviour=Behaviour(
            (_seen(DONE), _seen(CONFIRMED, genuine=True), _seen(DISPUTED, genuine=True), DISPUTED),
            faults={"query": (late(0.3).always(),)},
        ),
        expect=Expect(alerts=("disputed",), reviews=("disputed",), after_sale="disputed", callbacks=(True, True, True)),
        shows=(5,),
    ),
)

_REFUSALS: Final = (
    replace(
        _turned_down(
            "refused",
            "522",
            "下架",
            "产品已下架",
            "refused with code 0, nothing is booked",
            failure="product_unavailable",
        ),
        codes=("code 0",),
    ),
    _turned_down(
        "unknown-product", "550", "无此产品", "产品不存在", "refused: no such product", failure="product_unavailable"
    ),
    _turned_down("missing-field", "551", "缺少参数", "缺少参数：datetime", "refused: a field is missing"),
    _turned_down("busy", "552", "系统繁忙", "系统繁忙，请稍后再试", "refused: the system is busy; nothing is booked"),
    _topup(
        "busy-but-booked",
        "553",
        "繁忙但已下单",
        "refused: the system is busy; yet the order is booked",
        behaviour=Behaviour(SUCCESS, faults={"create": (refused("0", "系统繁忙，请稍后再试", booked=True),)}),
        shows=(6, 11),
    ),
    _topup(
        "price-above",
        "554",
        "涨价",
        "refused: `money` is below the platform's price of 60 yuan",
        behaviour=Behaviour(SUCCESS, price=Decimal("60.00")),
        expect=replace(REFUSED, failure="price_above_limit", alerts=("supplier_price",)),
        shows=(6, 8),
    ),
    _topup(
        "no-stock-checked",
        "555",
        "缺货检查",
        "refused: out of stock, and `check=1` asked for a refusal",
        behaviour=Behaviour(SUCCESS, stock=0),
        expect=replace(REFUSED, failure="out_of_stock"),
        shows=(6, 9),
        account={"check_stock": True},
    ),
    _topup(
        "stock-checked",
        "556",
        "有货检查",
        "`check=1` beside the signature, and enough in stock",
        shows=(9,),
        account={"check_stock": True},
    ),
    _topup(
        "low-balance",
        "557",
        "余额不足",
        "refused: the deposit holds 48.99 yuan",
        expect=replace(REFUSED, failure="supplier_balance", alerts=("supplier_balance",)),
        shows=(6,),
        controls=(Control("balance", {"balance": "48.99"}),),
    ),
    _topup(
        "bad-account",
        "558",
        "账号错误",
        "refused: the product takes no such number",
        behaviour=Behaviour(SUCCESS, extra={"accounts": r"170\d{8}"}),
        expect=replace(REFUSED, failure="recipient_refused"),
        shows=(6,),
    ),
    _topup(
        "stale-clock",
        "559",
        "时间戳错误",
        "refused: `datetime` is an hour off by the supplier's clock",
        behaviour=Behaviour(SUCCESS, extra={"clock_off": HOUR}),
        expect=REFUSES_US,
        shows=(6,),
        account=SHORT,
    ),
    _topup(
        "bad-number",
        "560",
        "数量错误",
        "refused: the product is sold one at a time",
        behaviour=Behaviour(SUCCESS, maximum=1),
        expect=REFUSED,
        shows=(6,),
        quantity=2,
    ),
    _topup(
        "wrong-secret",
        "561",
        "签名错误",
        "every request is refused: the signature is wrong",
        expect=REFUSES_US,
        shows=(6,),
        account={"appsecret": "not-the-secret", **SHORT},
    ),
    _topup(
        "unknown-appid",
        "562",
        "appid错误",
        "every request is refused: no such appid",
        expect=REFUSES_US,
        shows=(6,),
        account={"appid": "1", **SHORT},
    ),
    _topup(
        "unregistered-address",
        "563",
        "IP未登记",
        "every request is refused: our address isn't registered",
        expect=REFUSES_US,
        shows=(6,),
        account=SHORT,
        controls=(Control("mode", {"allow_list": "others"}),),
    ),
    _topup(
        "unauthorised",
        "567",
        "未授权",
        "every order is answered by HTTP 401 without a body",
        behaviour=Behaviour(SUCCESS, faults={"create": (raw(b"", status=401).unbooked().always(),)}),
        expect=REFUSES_US,
        shows=(6,),
        codes=("HTTP 401",),
        account=SHORT,
    ),
    _topup(
        "registered-later",
        "564",
        "IP补登记",
        "refused once because our address isn't registered, taken a minute later",
        behaviour=Behaviour(SUCCESS, faults={"create": (refused("0", "IP地址未登记"),)}),
        expect=replace(
            ACKNOWLEDGED,
            requests=2,
            alerts=("supplier_refuses_us",),
            says="The same number is sent again once the account's pause of a minute is over.",
        ),
        shows=(6,),
        lapse=90,
    ),
    _topup(
        "too-frequent",
        "565",
        "请求频繁",
        "refused once: too many requests",
        behaviour=Behaviour(SUCCESS, faults={"create": (refused("0", "请求过于频繁，请稍后再试"),)}),
        expect=replace(ACKNOWLEDGED, requests=2),
        shows=(6,),
    ),
    _topup(
        "rate-limited",
        "566",
        "限流",
        "HTTP 429 once",
        behaviour=Behaviour(SUCCESS, faults={"create": (rate_limited(),)}),
        expect=replace(ACKNOWLEDGED, requests=2),
        shows=(6,),
        codes=("HTTP 429",),
    ),
)

_MONEY_AND_FIELDS: Final = (
    _topup(
        "limit-in-fen",
        "570",
        "限价按分",
        "`money=4950` with `money_type=1` says the same as `money=49.50` with 2",
        shows=(8, 9),
        account={"money_type": "1"},
    ),
    _topup(
        "limit-of-one",
        "571",
        "单价限价",
        "`money` is compared with the price of one instead of all",
        behaviour=Behaviour(SUCCESS, extra={"money_scope": "unit"}),
        shows=(8,),
        account={"money_scope": "unit"},
        quantity=2,
    ),
    _topup(
        "limit-misread",
        "572",
        "限价误读",
        "the limit of one is sent where the supplier reads the limit of two: refused",
        expect=replace(REFUSED, failure="price_above_limit", alerts=("supplier_price",)),
        shows=(8,),
        account={"money_scope": "unit"},
        quantity=2,
    ),
    _topup(
        "overcharged",
        "573",
        "超价",
        "takes the order in spite of `money` and charges 60 yuan",
        behaviour=Behaviour(SUCCESS, price=Decimal("60.00"), extra={"ignores_limit": True}),
        expect=replace(ACKNOWLEDGED, alerts=("overcharged",), reviews=("overcharged",)),
        shows=(8,),
    ),
    _topup(
        "limit-without-unit",
        "574",
        "限价无单位",
        "a proxy writes `money=4950` without `money_type` for `money=49.50` with 2: the same limit",
        behaviour=Behaviour(SUCCESS, extra={"rewritten": "fen"}),
        shows=(8,),
    ),
    _topup(
        "twelve-fen",
        "575",
        "限价十二分",
        "a proxy writes `money=12` without `money_type`: twelve fen, below the platform's price",
        behaviour=Behaviour(SUCCESS, extra={"rewritten": "twelve"}),
        expect=replace(REFUSED, failure="price_above_limit", alerts=("supplier_price",)),
        shows=(8,),
    ),
    _topup(
        "nothing-optional",
        "576",
        "无可选字段",
        "a proxy leaves out `money`, `money_type`, `notify_url` and `check`, signs the rest: taken, no callback",
        behaviour=Behaviour(SUCCESS, extra={"rewritten": "bare"}),
        expect=Expect(),
        shows=(2, 9),
        account={"check_stock": True},
    ),
    _topup(
        "both-numbers",
        "604",
        "两个单号",
        "a proxy puts the supplier's number into every look, and in place of ours one that nobody gave: theirs wins",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, DONE), extra={"both_numbers": True}),
        shows=(14,),
    ),
)

NAME: Final = "张三 a+b@例.example"
"""An account in which every other way of encoding shows."""
EVERY_VALUE: Final = Control("mode", {"sign_mode": "encode-all"})

_SIGNING: Final = (
    _topup(
        "account-name",
        "580",
        "特殊账号",
        "an account with `@`, `+`, a space and Chinese, signed as it is",
        shows=(10,),
        recipient="account",
        account_name=NAME,
    ),
    _topup(
        "account-name-encoded",
        "581",
        "特殊账号编码",
        "such an account, every value URL-encoded in the signed text; callbacks are signed so too",
        behaviour=Behaviour((MATCHING, RECHARGING, _sending("evidence", GENUINE))),
        expect=Expect(callbacks=(True, True)),
        shows=(10,),
        recipient="account",
        account_name=NAME,
        account={"sign_value_encoding": "encode-all"},
        controls=(EVERY_VALUE,),
    ),
    _topup(
        "account-name-pre-encoded",
        "582",
        "预编码地址",
        "as before, and `notify_url` URL-encoded once more on the wire",
        shows=(10,),
        recipient="account",
        account_name=NAME,
        account={"sign_value_encoding": "encode-all", "notify_url_wire": "pre-encoded"},
        controls=(EVERY_VALUE,),
    ),
    _topup(
        "account-name-either",
        "583",
        "宽松验签",
        "such an account, every value URL-encoded; the supplier takes either reading",
        shows=(10,),
        recipient="account",
        account_name=NAME,
        account={"sign_value_encoding": "encode-all"},
        controls=(Control("mode", {"sign_mode": "lenient"}),),
    ),
    _topup(
        "account-name-misread",
        "584",
        "编码不符",
        "such an account, every value URL-encoded; the supplier signs it as it is and refuses",
        expect=REFUSES_US,
        shows=(10,),
        recipient="account",
        account_name=NAME,
        account={"sign_value_encoding": "encode-all", **SHORT},
    ),
)

_REPEATED: Final = (
    _topup(
        "asked-twice",
        "590",
        "重复请求",
        "a proxy hands the order over twice; the second time its number is refused as used",
        behaviour=Behaviour(SUCCESS, repeated_request=True),
        shows=(11,),
    ),
    _topup(
        "replayed",
        "591",
        "重复返回",
        "a proxy hands the order over twice; both get the same answer",
        behaviour=Behaviour(SUCCESS, repeated_request=True, modes={"duplicates": "replay"}),
        shows=(11,),
    ),
    _topup(
        "doubled",
        "592",
        "重复扣款",
        "a proxy hands the order over twice and it is booked twice, under two numbers of the supplier",
        behaviour=Behaviour((MATCHING,), repeated_request=True, modes={"duplicates": "double"}),
        expect=replace(
            IN_DOUBT,
            charges=2,
            says="The order found isn't the order that was answered: a person sees both in the books.",
        ),
        shows=(11, 14),
    ),
    _topup(
        "never-doubled",
        "593",
        "不重发",
        "booked, the connection ends without an answer; the same number would be booked a second time",
        behaviour=Behaviour(SUCCESS, faults={"create": (dropped(),)}, modes={"duplicates": "double"}),
        shows=(11, 12),
    ),
    _topup(
        "silent",
        "524",
        "超时",
        "accepted and charged, the answer never comes; query and callback tell",
        behaviour=Behaviour(SUCCESS, faults={"create": (never(),)}),
        shows=(12, 14),
    ),
    _topup(
        "silent-no-callback",
        "594",
        "超时无回调",
        "accepted and charged, neither answer nor callback comes; the query tells",
        behaviour=Behaviour(SUCCESS, faults={"create": (never(),)}),
        expect=Expect(),
        shows=(2, 12, 14),
        calls_back=False,
    ),
    _topup(
        "late",
        "595",
        "迟到",
        "the callback comes before the answer, the answer after the client's time-out",
        behaviour=Behaviour(SUCCESS, faults={"create": (late(),)}),
        shows=(12,),
    ),
    _topup(
        "late-no-callback",
        "596",
        "迟到无回调",
        "the answer comes after the client's time-out, when a query has told already",
        behaviour=Behaviour(SUCCESS, faults={"create": (late(),)}),
        expect=Expect(),
        shows=(12,),
        calls_back=False,
    ),
    _topup(
        "lost",
        "597",
        "丢失",
        "the connection ends before the order is taken; queries know no such number",
        behaviour=Behaviour(SUCCESS, faults={"create": (dropped().unbooked(),)}),
        expect=Expect(state="failed", failure="never_received", charges=0),
        shows=(13,),
    ),
    _topup(
        "lost-in-silence",
        "598",
        "静默丢失",
        "no order is taken and no answer comes; queries know no such number",
        behaviour=Behaviour(SUCCESS, faults={"create": (never().unbooked(),)}),
        expect=Expect(state="failed", failure="never_received", charges=0),
        shows=(13,),
    ),
    _topup(
        "found-later",
        "599",
        "稍后可查",
        "booked without an answer; the first query knows no such number yet",
        behaviour=Behaviour(SUCCESS, faults={"create": (dropped(),), "query": (refused("0", "订单不存在"),)}),
        shows=(13,),
    ),
    _topup(
        "forgets",
        "600",
        "一时查无",
        "accepted; then two queries know no such number, later ones do",
        behaviour=Behaviour(
            (_seen(MATCHING, looks=4), RECHARGING, DONE),
            faults={"query": (proper(), refused("0", "订单不存在").for_times(2))},
        ),
        expect=replace(
            ACKNOWLEDGED, alerts=("contradiction",), says="What was accepted isn't given up because a query forgets it."
        ),
        shows=(13,),
    ),
    _topup(
        "other-order",
        "601",
        "他单",
        "queries tell of another order of the supplier under our number",
        behaviour=Behaviour((_having(MATCHING, order_id="API2022040699999999999"),)),
        expect=IN_DOUBT,
        shows=(14,),
    ),
    _topup(
        "other-number-told",
        "602",
        "他号",
        "queries tell of another number than the one that was asked for",
        behaviour=Behaviour((_having(MATCHING, out_order_id="0000000000000000000000000A"),)),
        expect=IN_DOUBT,
        shows=(14,),
    ),
    _topup(
        "other-product-told",
        "603",
        "他品",
        "queries tell of another product",
        behaviour=Behaviour((replace(MATCHING, entry=lambda entry: {**entry, "card_id": f"{entry['card_id']}9"}),)),
        expect=IN_DOUBT,
        shows=(14,),
    ),
)

_FORGED: Final = (
    "wrong-secret",
    "missing-sign",
    "empty-sign",
    "partial-sign",
    "tampered",
    "other-number",
    "twice",
)

_CALLBACKS: Final = (
    _topup(
        "unheard",
        "610",
        "回调重复",
        "our first three answers to the callback are lost: it is repeated until one arrives",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, _sending("unheard"))),
        expect=Expect(callbacks=(False, False, False, True)),
        shows=(15, 19),
    ),
    _topup(
        "answers-altered",
        "623",
        "回执被改",
        "our answer `success` arrives as ` success` with a line end, as `SUCCESS`, as JSON, and then as it is",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, _sending("altered"))),
        expect=Expect(callbacks=(False, False, False, True)),
        shows=(15, 19),
    ),
    _topup(
        "never-heard",
        "611",
        "回调放弃",
        "none of our answers arrives: ten repeats at 1, 5, 15, 20, 25, 30, 35, 40, 45 and 50 s, then no more",
        behaviour=Behaviour((MATCHING, WAITING, RECHARGING, _sending("never-heard"))),
        expect=Expect(callbacks=(False,) * 11),
        shows=(15,),
        lapse=330,
    ),
    _topup(
        "repeated-callback",
        "612",
        "多余回调",
        "the same callback three times although the first was answered well",
        behaviour=Behaviour((MATCHING, RECHARGING, _sending(GENUINE, GENUINE, GENUINE))),
        expect=Expect(callbacks=(True, True, True)),
        shows=(15,),
    ),
    _topup(
        "stale-callback",
        "613",
        "过期回调",
        "the callback for 3, then late ones for 2, 1 and 7",
        behaviour=Behaviour((MATCHING, RECHARGING, _sending(GENUINE, "stale-2", "stale-1", "stale-7"))),
        expect=Expect(callbacks=(True, True, True, True)),
        shows=(16,),
    ),
    _topup(
        "stale-callback-confirmed",
        "614",
        "确认后旧回调",
        "the callback for 4, then a late one for 3",
        behaviour=Behaviour((RECHARGING, _seen(DONE), replace(CONFIRMED, callbacks=(GENUINE, "stale-3")))),
        expect=Expect(callbacks=(True, True, True)),
        shows=(16,),
    ),
    _topup(
        "state-goes-back",
        "615",
        "状态回退",
        "queries tell 3, then 2, then 4, then 3 again",
        behaviour=Behaviour(
            (
                _seen(DONE),
                _seen(RECHARGING, genuine=True),
                _seen(CONFIRMED, genuine=True),
                _seen(DONE, genuine=True),
                _quiet(DONE),
            )
        ),
        expect=Expect(callbacks=(True, True, True, True)),
        shows=(16,),
    ),
    _topup(
        "premature-callback",
        "616",
        "提前回调",
        "a callback for 3 while queries still tell 2, and no success for some time",
        behaviour=Behaviour((replace(RECHARGING, looks=4, callbacks=("stale-3",)), DONE)),
        expect=Expect(callbacks=(True, True), says="A callback is a reason to look, not a proof."),
        shows=(16,),
    ),
    _topup(
        "false-callback",
        "617",
        "虚假回调",
        "a callback for 3, and queries tell 2 for ever",
        behaviour=Behaviour((replace(RECHARGING, callbacks=("stale-3",)),)),
        expect=Expect(state="processing", callbacks=(True,)),
        shows=(16,),
    ),
    _topup(
        "forged",
        "618",
        "伪造回调",
        f"in 2, with callbacks for it that are forged: {', '.join(_FORGED)}",
        behaviour=Behaviour((replace(RECHARGING, callbacks=_FORGED),)),
        expect=Expect(state="processing", callbacks=(False,) * len(_FORGED)),
        shows=(17,),
    ),
    _topup(
        "forged-then-genuine",
        "619",
        "伪造后真实",
        "forged callbacks as before, then the genuine one",
        behaviour=Behaviour((MATCHING, RECHARGING, _sending(*_FORGED, GENUINE))),
        expect=Expect(callbacks=(*(False,) * len(_FORGED), True)),
        shows=(17,),
    ),
    _topup(
        "unknown-number",
        "620",
        "未知单号",
        "a well-signed callback for a number that nobody gave, then the genuine one",
        behaviour=Behaviour((MATCHING, RECHARGING, _sending("unknown-number", GENUINE))),
        expect=Expect(alerts=("unexpected_answer",), callbacks=(False, True), says="It is kept for the operator."),
        shows=(17,),
    ),
    _topup(
        "other-reference",
        "621",
        "他单回调",
        "a well-signed callback with another supplier's number, while queries tell 2 for ever",
        behaviour=Behaviour((replace(RECHARGING, callbacks=("other-reference",)),)),
        expect=Expect(
            state="processing", callbacks=(True,), says="Recorded; the look that follows tells of our order."
        ),
        shows=(17,),
    ),
    _topup(
        "odd-callbacks",
        "622",
        "多字段回调",
        "fields that no page names, a recharge proof signed in either reading, a digest in lower case, a JSON body",
        behaviour=Behaviour(
            (
                MATCHING,
                RECHARGING,
                _sending("extra-field", "evidence", "evidence-encoded", "lower-case-sign", "json", GENUINE),
            )
        ),
        expect=Expect(callbacks=(True,) * 6),
        shows=(18,),
    ),
)

_CANCELLED: Final = replace(ACKNOWLEDGED, state="cancelled", refunds=1)

_CANCELS: Final = (
    _topup(
        "cancelled",
        "630",
        "撤单",
        "in 1; taken down at our wish, the answer tells 4900 fen; a callback for 6",
        behaviour=Behaviour((WAITING,)),
        expect=_CANCELLED,
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-unanswered",
        "631",
        "撤单无应答",
        "taken down at our wish, but the connection ends without an answer; the query tells 6",
        behaviour=Behaviour((WAITING,), faults={"cancel": (dropped(),)}),
        expect=_CANCELLED,
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-html",
        "638",
        "撤单网关错误",
        "taken down at our wish, but answered by HTTP 502 with a page of HTML; the query tells 6",
        behaviour=Behaviour((WAITING,), faults={"cancel": (html(),)}),
        expect=_CANCELLED,
        shows=(20, 21),
        cancel=True,
    ),
    _topup(
        "cancel-too-frequent",
        "632",
        "撤单频繁",
        "the first wish to cancel is refused: too many requests; the second is granted",
        behaviour=Behaviour((WAITING,), faults={"cancel": (refused("0", "请求过于频繁，请稍后再试"),)}),
        expect=_CANCELLED,
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-busy",
        "636",
        "撤单繁忙",
        "the wish to cancel meets a busy system and nothing is done",
        behaviour=Behaviour((WAITING,), faults={"cancel": (refused("0", "系统繁忙，请稍后再试"),)}),
        expect=Expect(state="processing", says="The order goes on as it was; what became of the wish isn't clear."),
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-elsewhere",
        "637",
        "撤单他单",
        "in 2; the answer to the wish to cancel tells of another number as taken down",
        behaviour=Behaviour(
            (_seen(RECHARGING, looks=8), DONE),
            faults={
                "cancel": (
                    raw(
                        '{"code":1,"msg":"下架成功","result":{"out_order_id":"0","price":4900}}'.encode(), name="other"
                    ),
                )
            },
        ),
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-short",
        "633",
        "撤单少退",
        "taken down at our wish, but the answer tells 1000 of 4900 fen",
        behaviour=Behaviour(
            (WAITING,), faults={"cancel": (_result("less back", lambda result: {**result, "price": 1000}),)}
        ),
        expect=Expect(state="needs_review", refunds=1, reviews=("partial_refund",), alerts=("review",)),
        shows=(20,),
        cancel=True,
        calls_back=False,
        # No look may come before the answer to the cancel.
        account={"poll_plan": [60.0]},
    ),
    _topup(
        "cancel-in-work",
        "634",
        "充值中撤单",
        "in 2; the wish to cancel is refused with code 0, and the order succeeds",
        behaviour=Behaviour((_seen(RECHARGING, looks=8), DONE)),
        shows=(20,),
        cancel=True,
    ),
    _topup(
        "cancel-unmatched",
        "635",
        "匹配中撤单",
        "in 7; the wish to cancel is refused with code 0, and the order fails",
        behaviour=Behaviour((_seen(MATCHING, looks=8), RECHARGING, FAILED)),
        expect=_CANCELLED,
        shows=(20,),
        cancel=True,
    ),
)

_ODD_ANSWERS: Final = (
    _answered("html", "640", "网关错误", "HTTP 502 with a page of HTML; booked", html()),
    _answered("html-200", "641", "网页", "HTTP 200 with a page of HTML; booked", html(200)),
    _answered("server-error", "642", "服务错误", "HTTP 500 with a proper answer; booked", SERVER_ERROR),
    _topup(
        "wrong-label",
        "662",
        "类型标错",
        "every answer is proper JSON in UTF-8 under Content-Type text/html; charset=gbk",
        behaviour=Behaviour(SUCCESS, faults={"create": (mislabelled().always(),), "query": (mislabelled().always(),)}),
        shows=(21,),
    ),
    _answered("empty", "643", "空应答", "an empty body; booked", empty()),
    _answered("half", "644", "半截", "JSON that ends in the middle; booked", half()),
    _answered("broken-off", "645", "断开", "the connection breaks in the middle of the body; booked", cut(20)),
    _answered("invalid-utf8", "646", "乱码", "a byte that no UTF-8 has; booked", bad_utf8()),
    _answered("slow-bytes", "647", "慢字节", "the body comes byte by byte, over more than the time-out", drip(0.02)),
    _answered("no-object", "648", "数组", "a JSON array instead of an object; booked", raw(b"[]")),
    _answered("deep-json", "649", "深层", "a hundred thousand opening brackets; booked", raw(b"[" * 100_000)),
    _answered("code-as-text", "650", "文本码", '`code` is "1", a text', _answer("code as text", code="1")),
    _answered("unknown-code", "651", "未知码", "`code` is 2, which no page names; booked", _answer("code 2", code=2)),
    _answered("no-result", "652", "空结果", "`code` 1 with `result` null", _answer("no result", result=None)),
    _answered(
        "no-other", "653", "缺other", "`other` is missing", edited("no other", lambda told: _without(told, "other"))
    ),
    _answered("odd-other", "654", "怪other", "`other` is a list", _answer("odd other", other=[{"price": "49.0"}])),
    _answered(
        "odd-price", "655", "怪价格", "`other.price` is no amount", _answer("odd price", other={"price": "约49元"})
    ),
    _topup(
        "number-as-number",
        "656",
        "数字单号",
        "`result` is a number of 19 digits instead of a text; queries tell it as text",
        behaviour=Behaviour(
            SUCCESS,
            faults={"create": (edited("number", lambda told: {**told, "result": int(told["result"])}),)},
            extra={"digits": True},
        ),
        shows=(21,),
    ),
    _topup(
        "redirected",
        "657",
        "重定向",
        "HTTP 302 to another address; nothing is booked",
        behaviour=Behaviour(SUCCESS, faults={"create": (redirected("http://127.0.0.1:9/dcapi/pay"),)}),
        expect=Expect(state="failed", failure="never_received", charges=0, says="No redirect is followed."),
        shows=(21,),
    ),
    _topup(
        "junk-looks",
        "658",
        "查询异常",
        "queries are answered by HTML, nothing, half a body, HTTP 302, 429 and 500, cut and silent calls; then well",
        behaviour=Behaviour(
            (_seen(RECHARGING, looks=14), DONE),
            faults={
                "query": (
                    html(),
                    html(200),
                    empty(),
                    half(),
                    bad_utf8(),
                    raw(b"[]"),
                    rate_limited(),
                    SERVER_ERROR,
                    redirected("http://127.0.0.1:9/"),
                    dropped(),
                    cut(30),
                    never(),
                    refused("0", "系统繁忙，请稍后再试"),
                )
            },
        ),
        shows=(21,),
        account=PROMPT,
    ),
    _topup(
        "odd-looks",
        "659",
        "查询怪异",
        "queries tell an unknown code, no order, a list, no state, state 9 and state true; then the truth",
        behaviour=Behaviour(
            (_seen(RECHARGING, looks=9), DONE),
            faults={
                "query": (
                    _answer("code 7", code=7),
                    _answer("no order", result=None),
                    edited("list", lambda told: {**told, "result": [told["result"]]}),
                    _answer("text", result="充值中"),
                    _result("no number", lambda order: _without(order, "out_order_id")),
                    _result("no state", lambda order: _without(order, "status")),
                    _result("state 9", lambda order: {**order, "status": 9}),
                    _result("state true", lambda order: {**order, "status": True}),
                )
            },
        ),
        shows=(21,),
        account=PROMPT,
    ),
    _topup(
        "loose-looks",
        "660",
        "查询宽松",
        "`code` and `status` as texts, the price as a number, no order_id, a member that no page names",
        behaviour=Behaviour(
            (
                MATCHING,
                replace(
                    DONE,
                    entry=lambda entry: {**_without(entry, "order_id"), "status": "3", "price": 49.0, "worker": None},
                ),
            ),
            faults={"query": (_answer("code as text", code="1").always(),)},
        ),
        shows=(21,),
    ),
    _topup(
        "unknown-state",
        "661",
        "未知状态",
        "queries tell state 9 for ever, which no page names",
        behaviour=Behaviour((Stage(9),)),
        expect=Expect(state="needs_review", reviews=("deadline",), alerts=("review",)),
        shows=(21,),
        account={"settle_by_seconds": 1.0},
    ),
)

SCENARIOS: Final = (
    *_COURSES,
    *_AFTER_SALE,
    *_REFUSALS,
    *_MONEY_AND_FIELDS,
    *_SIGNING,
    *_REPEATED,
    *_CALLBACKS,
    *_CANCELS,
    *_ODD_ANSWERS,
)

BEHAVIOURS: Final[Mapping[int, str]] = {
    1: "A worker takes the order and does it (7, 1, 2, 3), a callback tells, and after a day 4 follows: one success.",
    2: "An order without `notify_url` gets no callback: looks alone bring the end.",
    3: "The recharge fails (6), told by callback or query: failed, the money is back.",
    4: "Nobody takes the order: after seven days it is taken down (6) and paid back. What isn't settled an hour later "
    "goes to a person, and looks go on.",
    5: "A dispute follows a success (5) and ends in 4 or in 6: the order stays fulfilled, `after_sale` tells, and a "
    "review item stands beside it while the matter is open or lost.",
    6: "Refusals come as `code` 0 with a text. One look confirms them; those about us (signature, appid, address) "
    "pause the account with an alert, and too many requests make it wait.",
    7: "Without `check=1` an order is taken although nothing is in stock, and waits.",
    8: "`money` counts in fen unless `money_type` is 2, and limits the whole order: the limit arrives as it was meant, "
    "and a charge above it is shown to a person.",
    9: "`money`, `money_type`, `notify_url` and `check` may be left out; what is sent is signed, but for `check`.",
    10: "Two readings of the signing rule differ for values with special characters: the configured one passes, the "
    "other is refused by a supplier that checks strictly.",
    11: "A number that arrives again is refused, answered again or booked twice: the service never sends it twice.",
    12: "The order is taken and its answer doesn't come in time, the callback perhaps first: unknown, then found.",
    13: "The order isn't taken and queries don't know it: dead after two looks and a grace period. What a query merely "
    "doesn't know yet, or forgets, isn't given up.",
    14: "A query takes our number or theirs, and theirs wins: ours alone is sent, and an answer about another order, "
    "number or product is for a person to settle.",
    15: "A callback is repeated ten times within minutes until it is answered: one change of state.",
    16: "Callbacks and queries come out of order: nothing goes back, and no callback is believed without a look.",
    17: "Callbacks with a wrong, partial or missing signature or changed fields are refused; a well-signed one for a "
    "number that isn't ours is not acknowledged.",
    18: "Callbacks carry fields that no page names, signed like all others: they are taken.",
    19: "Only exactly `success` ends the repeats; ` success`, `SUCCESS` and JSON don't.",
    20: "An order is taken down at our wish while it waits (1), in other states not; the answer to that, and it alone, "
    "counts in whole fen.",
    21: "Answers are malformed or odd: what is clear is taken, all else leaves the order unknown until a look tells.",
    22: "Cards that come later than the answer.",
}

OPEN: Final[Mapping[int, str]] = {
    22: "A recharge has no cards; see the cards of 91 Kaquan.",
}

CODES: Final[Mapping[str, str]] = {
    "code 1": "success",
    "code 0": "failure; the text says why",
    "HTTP 401": "we are refused",
    "HTTP 429": "too many requests",
    "status 1": "待充值: waits for a worker, can be taken down",
    "status 2": "充值中: in work",
    "status 3": "充值成功-待确认: done, may be disputed for 24 hours",
    "status 4": "充值成功-已完成: done and confirmed",
    "status 5": "充值成功-纠纷中: done and disputed",
    "status 6": "充值失败-订单关闭: failed and paid back",
    "status 7": "充值匹配中: looks for a worker",
}

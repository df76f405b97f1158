"""What the Kasushou site sells: cards and virtual goods, each with a course of its own."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from reward_sandbox.faults import (
    bad_utf8,
    cut,
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
    raw,
    redirected,
    refused,
)
from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import GENUINE, Behaviour, Card, Control, Expect, Scenario, Stage

Members = dict[str, Any]

ATTACH: Final[tuple[Mapping[str, object], ...]] = (
    {"type": "text", "name": "充值账号", "key": "recharge_account", "vali": "phone", "tip": "手机号", "options": ""},
)
"""Order template of virtual goods (template page); card goods have none."""

_GAME: Final = (
    *ATTACH,
    {
        "type": "select",
        "name": "区服",
        "key": "lblName1",
        "vali": "required",
        "tip": "",
        "options": '["双线一区","双线二区"]',
    },
    {"type": "text", "name": "角色名", "key": "zone_role", "vali": "required", "tip": "游戏内角色名", "options": ""},
)
"""A template with fields of the product's own; `zone_role` sorts behind `recharge_account`."""
_GAME_FORM: Final = {"lblName1": "双线一区", "zone_role": "玩家/一号"}

# --- Cards ------------------------------------------------------------------------------------------------------------


def _card(press: Press) -> Card:
    return {"card_no": f"{CANARY}{press.digits(12)}", "card_password": press.groups(4)}


def _password_only(press: Press) -> Card:
    return {"card_no": "", "card_password": press.groups(4)}


# --- Stages -----------------------------------------------------------------------------------------------------------

WAITING: Final = Stage(1)
WORKING: Final = Stage(2)
CANCELLED: Final = Stage(4, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed")

_DONE: Final = Stage(3, callbacks=(GENUINE,), outcome="delivered")
_LISTED: Final = Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered")
_QUIETLY_LISTED: Final = Stage(3, cards=True, outcome="delivered")
_REFUNDED: Final = Stage(5, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed")

_CARDS: Final = (WAITING, WORKING, _LISTED)
_TOPUP: Final = (WAITING, WORKING, _DONE)
_STEADY: Final = Stage(2, looks=1000)
"""Stays until it is cancelled."""

_FORGED: Final = (
    "wrong-secret",
    "missing-sign",
    "empty-sign",
    "list-sign",
    "extra-field",
    "partial-sign",
    "changed-status",
    "changed-refund",
    "other-number",
    "other-time",
    "no-number",
)
"""Callbacks that nobody should believe."""

# --- How entries of the detail call differ ----------------------------------------------------------------------------


def _with(**changed: object) -> Any:
    """An entry with other members."""
    return lambda entry: {**entry, **changed}


def _left_out(_: Members) -> Members:
    return {}


def _as_texts(entry: Members) -> Members:
    """Cards as plain texts, the parameters as one text, as compatible sites have them."""
    cards = [f"卡号:{card['card_no']} 卡密:{card['card_password']}" for card in entry["card_list"]]
    return {**entry, "card_list": cards, "recharge_info": "充值账号:***"}


def _parameters_as_text(entry: Members) -> Members:
    return {**entry, "recharge_info": f"充值账号:{entry['recharge_info'][0]['v']}"}


def _bare_card(entry: Members) -> Members:
    return {**entry, "card_list": entry["card_list"][0]}


def _amounts_as_numbers(entry: Members) -> Members:
    return {**entry, "total_price": float(entry["total_price"]), "has_back_money": 0}


def _four_decimals(entry: Members) -> Members:
    return {**entry, **{key: f"{Decimal(entry[key]):.4f}" for key in ("total_price", "has_back_money")}}


def _without_amounts(entry: Members) -> Members:
    return {key: value for key, value in entry.items() if key not in ("total_price", "has_back_money")}


def _one_card_too_many(entry: Members) -> Members:
    return {**entry, "card_list": [*entry["card_list"], {"card_no": f"{CANARY}000", "card_password": f"{CANARY}-MORE"}]}


def _first_card_changed(entry: Members) -> Members:
    first, *rest = entry["card_list"]
    return {**entry, "card_list": [{**first, "card_password": f"{CANARY}-CHANGED"}, *rest]}


def _unreadable_cards(entry: Members) -> Members:
    return {**entry, "card_list": [{"card_no": ["?"], "card_password": None} for _ in entry["card_list"]]}


def _small_one_left_out(entry: Members) -> Members:
    """Of two purchases of one order the smaller."""
    return {} if Decimal(entry["total_price"]) < 500 else entry


# --- How answers differ -----------------------------------------------------------------------------------------------


def _data(value: object) -> Any:
    """The envelope with other data."""
    return lambda answer: {**answer, "data": value}


def _bought(**changed: object) -> Any:
    """The answer to buying with other members in its data."""
    return lambda answer: {**answer, "data": {**answer["data"], **changed}}


def _clone(answer: Members) -> Members:
    """The envelope of compatible sites: the code as text, its words under `message`."""
    return {"code": str(answer["code"]), "message": answer["msg"], "data": answer["data"]}


def _object(answer: Members) -> Members:
    """The only order itself instead of a list of one."""
    return {**answer, "data": answer["data"][0]}


def _with_a_stranger(answer: Members) -> Members:
    """Somebody else's order in front of ours."""
    stranger = {"ordersn": "API09000", "external_orderno": "SOMEBODY0ELSES0ORDER000000", "status": 5}
    amounts = {"total_price": "1.00", "has_back_money": "1.00", "recharge_hints": "", "card_list": []}
    return {**answer, "data": [{**stranger, **amounts}, *answer["data"]]}


def _backwards(answer: Members) -> Members:
    return {**answer, "data": answer["data"][::-1]}


_CLONES: Final = edited("clone's envelope", _clone).always()

# --- What the service makes of it -------------------------------------------------------------------------------------

_DELIVERED: Final = Expect(cards=1, callbacks=(True,))
_TOPPED_UP: Final = Expect(callbacks=(True,))
_NEVER_RECEIVED: Final = Expect(state="failed", failure="never_received", charges=0)
_FOR_A_PERSON: Final = "Two readings are possible, so nothing is handed over and a person looks."


def _rejected(failure: str, **more: Any) -> Expect:
    """Refused, looked up once, and not bought."""
    return Expect(state="failed", failure=failure, charges=0, **more)


_WE_ARE_REFUSED: Final = Expect(
    state="failed",
    failure="not_sent_in_time",
    charges=0,
    alerts=("supplier_refuses_us",),
    says="Our own fault, so the account is paused and the order waits, until its sending deadline.",
)
_SOON: Final = {"send_by_seconds": 2.5}
"""Deadlines that a test can wait for."""
_ONLY_CALLBACKS: Final = {"poll_plan": [60]}
"""Nobody asks for a minute: what is found is found because of a callback."""


def _card_product(
    name: str, product: str, words: str, description: str, behaviour: Behaviour, *, expect: Expect, **more: Any
) -> Scenario:
    """A gift card of 100 yuan."""
    return Scenario(
        name=name,
        product=product,
        title=f"卡速售 京东E卡 100元（{words}）",
        description=description,
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=behaviour,
        expect=expect,
        **more,
    )


def _topup_product(
    name: str, product: str, words: str, description: str, behaviour: Behaviour, *, expect: Expect, **more: Any
) -> Scenario:
    """Phone credit of 50 yuan."""
    return Scenario(
        name=name,
        product=product,
        title=f"卡速售 话费直充 50元（{words}）",
        description=description,
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.50"),
        recipient="phone",
        behaviour=behaviour,
        expect=expect,
        **more,
    )


def _create(*faults: Any, **more: Any) -> Behaviour:
    """A card whose buy call goes wrong."""
    return Behaviour(_CARDS, _card, faults={"create": faults}, **more)


def _query(*faults: Any, stages: tuple[Stage, ...] = _CARDS) -> Behaviour:
    """A card whose detail calls go wrong, in this sequence."""
    return Behaviour(stages, _card, faults={"query": faults})


_DELIVERIES: Final = (
    Scenario(
        name="card",
        product="2909",
        title="卡速售 京东E卡 100元",
        description="1, 2, 3 one step each; the cards are in the detail call with 3",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(_CARDS, _card),
        expect=_DELIVERED,
        shows=(1, 19),
        codes=("code 200", "callback 3"),
    ),
    Scenario(
        name="card-delayed",
        product="2910",
        title="卡速售 京东E卡 50元（延迟出卡）",
        description="3 with an empty card list for three looks, then the full list",
        kind="card",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.25"),
        recipient="none",
        behaviour=Behaviour((WAITING, WORKING, Stage(3, looks=3, callbacks=(GENUINE,)), _QUIETLY_LISTED), _card),
        expect=_DELIVERED,
        shows=(2,),
    ),
    Scenario(
        name="topup",
        product="2911",
        title="卡速售 话费直充 50元",
        description="virtual goods: attach.recharge_account must be a phone number; no cards",
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.50"),
        recipient="phone",
        behaviour=Behaviour(_TOPUP),
        expect=_TOPPED_UP,
        shows=(4,),
    ),
    _card_product(
        "card-polled",
        "2915",
        "无回调",
        "no callback; each of 1, 2, 3 stays until a detail call has seen it",
        Behaviour((Stage(1, looks=1), Stage(2, looks=1), _QUIETLY_LISTED), _card),
        expect=Expect(cards=1),
        shows=(1,),
        codes=("status 1", "status 2", "status 3"),
        calls_back=False,
    ),
    _card_product(
        "card-progress",
        "2916",
        "进度回调",
        "a callback with 2 and a second one with 3",
        Behaviour((WAITING, Stage(2, steps=10, callbacks=(GENUINE,)), _LISTED), _card),
        expect=Expect(cards=1, callbacks=(True, True)),
        shows=(1, 19),
        codes=("callback 2",),
    ),
    _card_product(
        "card-short",
        "2917",
        "分批出卡",
        "3 with one card of three for three looks, then all three",
        Behaviour((WORKING, Stage(3, cards=True, shown=1, looks=3), _LISTED), _card),
        expect=Expect(cards=3, callbacks=(True,), says="Each card is handed over as soon as it is listed."),
        shows=(3,),
        quantity=3,
    ),
    _card_product(
        "card-short-for-good",
        "2918",
        "少发卡",
        "3 with two cards of three, and it stays so",
        Behaviour((WORKING, Stage(3, cards=True, shown=2, callbacks=(GENUINE,), outcome="delivered")), _card),
        expect=Expect(state="needs_review", cards=2, alerts=("review",), reviews=("deadline",), callbacks=(True,)),
        shows=(3,),
        quantity=3,
        account={"settle_by_seconds": 1.5},
    ),
    _card_product(
        "card-never-listed",
        "2919",
        "成功无卡",
        "3 with an empty card list, and it stays so",
        Behaviour((WORKING, Stage(3, callbacks=(GENUINE,), outcome="delivered")), _card),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("deadline",), callbacks=(True,)),
        shows=(2, 3),
        account={"settle_by_seconds": 1.5},
    ),
    _card_product(
        "card-after-deadline",
        "2920",
        "超时出卡",
        "3 with an empty card list until after the settling deadline, then the full list",
        Behaviour((WORKING, Stage(3, seconds=1.5, looks=8), _LISTED), _card),
        expect=Expect(
            cards=1, alerts=("review",), callbacks=(True,), says="The cards end the review without a person."
        ),
        shows=(2,),
        account={"settle_by_seconds": 0.6},
    ),
    _topup_product(
        "topup-form",
        "2921",
        "游戏直充",
        "the template asks for a server (select) and a role besides the account; all three are sent in attach",
        Behaviour(_TOPUP, extra={"template": _GAME}),
        expect=_TOPPED_UP,
        shows=(4,),
        form=_GAME_FORM,
    ),
    _card_product(
        "card-passwords",
        "2922",
        "仅卡密",
        'three cards with `"card_no": ""`',
        Behaviour(_CARDS, _password_only),
        expect=Expect(cards=3, callbacks=(True,)),
        shows=(5,),
        quantity=3,
    ),
    _card_product(
        "card-texts",
        "2923",
        "文本卡",
        "a compatible site: card_list holds plain texts, recharge_info is one text",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_as_texts)), _card),
        expect=Expect(cards=2, callbacks=(True,)),
        shows=(6,),
        quantity=2,
    ),
    _card_product(
        "card-bare",
        "2924",
        "单张卡",
        "a compatible site: card_list is the one card itself",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_bare_card)), _card),
        expect=_DELIVERED,
        shows=(6,),
    ),
    _topup_product(
        "topup-texts",
        "2925",
        "文本参数",
        "a compatible site: recharge_info is one text",
        Behaviour((WORKING, Stage(3, callbacks=(GENUINE,), outcome="delivered", entry=_parameters_as_text))),
        expect=_TOPPED_UP,
        shows=(6,),
    ),
    _card_product(
        "clone-envelope",
        "2926",
        "兼容站点",
        'a compatible site: `"code": "200"` as text, `message` instead of `msg`, amounts as numbers',
        Behaviour(
            (
                Stage(2, entry=_amounts_as_numbers, looks=1),
                Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_amounts_as_numbers),
            ),
            _card,
            faults={"create": (_CLONES,), "query": (_CLONES,)},
        ),
        expect=_DELIVERED,
        shows=(6, 27),
    ),
)

_REFUSALS: Final = (
    Scenario(
        name="out-of-stock",
        product="2912",
        title="卡速售 京东E卡 200元（缺货）",
        description="refused with code 400, nothing is booked; the detail call answers with an empty list",
        kind="card",
        face_value=Decimal("200.00"),
        unit_price=Decimal("197.00"),
        recipient="none",
        behaviour=Behaviour(_CARDS, _card, stock=0),
        expect=_rejected("out_of_stock"),
        shows=(7,),
        codes=("code 400",),
    ),
    _card_product(
        "out-of-stock-text",
        "2930",
        "缺货，无此订单",
        "refused with code 400; the detail call answers 400 订单不存在, both with HTTP 400",
        Behaviour(_CARDS, _card, stock=0),
        expect=_rejected("out_of_stock"),
        shows=(7,),
        codes=("HTTP 400",),
        controls=(Control("mode", {"not_found": "refused", "http_status": "mirror"}),),
    ),
    _card_product(
        "product-unknown",
        "2931",
        "商品不存在",
        "400 商品不存在",
        Behaviour(_CARDS, _card, extra={"goods_status": 0}),
        expect=_rejected("product_unavailable"),
        shows=(7,),
    ),
    _card_product(
        "product-paused",
        "2932",
        "暂停销售",
        "400 商品已暂停销售",
        Behaviour(_CARDS, _card, extra={"goods_status": 2}),
        expect=_rejected("product_unavailable"),
        shows=(7,),
    ),
    _card_product(
        "product-forbidden",
        "2933",
        "禁止销售",
        "400 商品已禁止销售",
        Behaviour(_CARDS, _card, extra={"goods_status": 3}),
        expect=_rejected("product_unavailable"),
        shows=(7,),
    ),
    _card_product(
        "deposit-empty",
        "2934",
        "余额不足",
        "400 账户余额不足",
        Behaviour(_CARDS, _card),
        expect=_rejected("supplier_balance", alerts=("supplier_balance",)),
        shows=(7,),
        controls=(Control("balance", {"balance": "98.49"}),),
    ),
    _card_product(
        "price-risen",
        "2935",
        "涨价",
        "the price is above safe_price: 400 商品售价高于安全价格safe_price",
        Behaviour(_CARDS, _card, price=Decimal("99.01")),
        expect=_rejected("price_above_limit", alerts=("supplier_price",)),
        shows=(7,),
    ),
    _card_product(
        "price-protected",
        "2936",
        "保护价",
        "400 低于商品保护价",
        _create(refused("400", "低于商品保护价")),
        expect=_rejected("price_above_limit", alerts=("supplier_price",)),
        shows=(7,),
    ),
    _card_product(
        "quantity-too-small",
        "2937",
        "起购数量",
        "one is fewer than start_count: 400 购买数量错误",
        Behaviour(_CARDS, _card, minimum=5),
        expect=_rejected("refused"),
        shows=(7,),
    ),
    _card_product(
        "quantity-too-large",
        "2938",
        "限购数量",
        "six are more than end_count: 400 购买数量错误",
        Behaviour(_CARDS, _card, maximum=5),
        expect=_rejected("refused"),
        shows=(7,),
        quantity=6,
    ),
    _topup_product(
        "form-incomplete",
        "2939",
        "缺少参数",
        "buying asks for a key that the template doesn't list: 400 缺少下单参数",
        Behaviour(_TOPUP, extra={"needs": ("lblName9",)}),
        expect=_rejected("refused"),
        shows=(4, 7),
    ),
    _topup_product(
        "account-refused",
        "2940",
        "账号错误",
        "numbers of this carrier can't be topped up: 400 充值账号错误",
        Behaviour(_TOPUP, extra={"account": "170[0-9]{8}"}),
        expect=_rejected("recipient_refused"),
        shows=(7,),
    ),
    _card_product(
        "refused-yet-taken",
        "2941",
        "误报失败",
        "400 系统繁忙 although the order is taken; the detail call finds it in 2, then 3",
        Behaviour((Stage(2, looks=1), _LISTED), _card, faults={"create": (refused("400", "系统繁忙", booked=True),)}),
        expect=_DELIVERED,
        shows=(8,),
    ),
    _card_product(
        "out-of-stock-yet-taken",
        "2942",
        "误报缺货",
        "400 商品库存不足 although the order is taken; the detail call finds it in 2, then 3",
        Behaviour(
            (Stage(2, looks=1), _LISTED), _card, faults={"create": (refused("400", "商品库存不足", booked=True),)}
        ),
        expect=_DELIVERED,
        shows=(8,),
    ),
    _card_product(
        "unpaid",
        "2943",
        "未支付",
        "taken, then -1: our deposit doesn't pay for it, nothing is ever charged",
        Behaviour((Stage(-1, outcome="failed"),), _card, extra={"unpaid": True}),
        expect=Expect(state="failed", failure="supplier_balance", charges=0, alerts=("supplier_balance",)),
        shows=(9,),
        codes=("status -1",),
    ),
)

_REFUSALS_OF_US: Final = (
    _card_product(
        "key-wrong",
        "2950",
        "密钥错误",
        "signed with another apikey: 400 签名错误",
        Behaviour(_CARDS, _card),
        expect=_WE_ARE_REFUSED,
        shows=(7, 18),
        account={**_SOON, "apikey": "not-the-sandbox-kasushou-apikey"},
    ),
    _card_product(
        "unauthorised",
        "3072",
        "未授权",
        "HTTP 401 without a body every time",
        _create(empty(401).unbooked().always()),
        expect=_WE_ARE_REFUSED,
        shows=(7,),
        codes=("HTTP 401",),
        account=_SOON,
    ),
    _card_product(
        "user-wrong",
        "2951",
        "用户不存在",
        "UserId of nobody: 400 用户不存在",
        Behaviour(_CARDS, _card),
        expect=_WE_ARE_REFUSED,
        shows=(7,),
        account={**_SOON, "user_id": "00000000000000000000000000000000"},
    ),
    _card_product(
        "clock-wrong",
        "2952",
        "时间戳错误",
        "the site's clock is ten minutes ahead of ours: 400 时间戳错误",
        Behaviour(_CARDS, _card),
        expect=_WE_ARE_REFUSED,
        shows=(7, 18),
        controls=(Control("mode", {"site_clock": "fast"}),),
        account=_SOON,
    ),
    _card_product(
        "address-refused",
        "2953",
        "白名单",
        "a compatible site with an allow-list that we aren't on: 400 ip not allowed",
        Behaviour(_CARDS, _card),
        expect=_WE_ARE_REFUSED,
        shows=(7,),
        controls=(Control("mode", {"allow_list": "others"}),),
        account=_SOON,
    ),
    _card_product(
        "address-allowed-later",
        "2954",
        "白名单生效",
        "400 ip not allowed once; a minute later the site takes us",
        _create(refused("400", "ip not allowed")),
        expect=Expect(
            cards=1,
            requests=2,
            alerts=("supplier_refuses_us",),
            callbacks=(True,),
            says="The account is paused for a minute, then the same number is sent.",
        ),
        shows=(7,),
        lapse=120,
    ),
    _card_product(
        "body-spaced",
        "2955",
        "重新编码",
        "a proxy encodes our body anew, with blanks: 400 签名错误",
        Behaviour(_CARDS, _card, extra={"rewritten": "spaced"}),
        expect=_WE_ARE_REFUSED,
        shows=(18,),
        account=_SOON,
    ),
    _card_product(
        "body-unsorted",
        "2956",
        "乱序",
        "a proxy turns the order of the keys around: 400 签名错误",
        Behaviour(_CARDS, _card, extra={"rewritten": "unsorted"}),
        expect=_WE_ARE_REFUSED,
        shows=(18,),
        account=_SOON,
    ),
    _card_product(
        "body-slashes",
        "2957",
        "斜杠转义",
        r"a proxy escapes the slashes of the callback URL: 400 签名错误",
        Behaviour(_CARDS, _card, extra={"rewritten": "slashes"}),
        expect=_WE_ARE_REFUSED,
        shows=(18,),
        account=_SOON,
    ),
    _topup_product(
        "body-escaped",
        "2958",
        "转义中文",
        r"we write Chinese as \uXXXX, which the manual's rule doesn't: 400 签名错误",
        Behaviour(_TOPUP, extra={"template": _GAME}),
        expect=_WE_ARE_REFUSED,
        shows=(18,),
        form=_GAME_FORM,
        account={**_SOON, "json_escape_unicode": True},
    ),
    _topup_product(
        "clone-escaped",
        "2959",
        "转义站点",
        r"a compatible site that signs Chinese as \uXXXX, and so do we",
        Behaviour(_TOPUP, extra={"template": _GAME}),
        expect=_TOPPED_UP,
        shows=(18,),
        form=_GAME_FORM,
        controls=(Control("mode", {"signed_form": "ascii"}),),
        account={"json_escape_unicode": True},
    ),
    _topup_product(
        "clone-sorted",
        "2960",
        "全排序站点",
        "a compatible site that sorts the keys of inner objects, too, as we do",
        Behaviour(_TOPUP, extra={"template": _GAME}),
        expect=_TOPPED_UP,
        shows=(18,),
        form=_GAME_FORM,
        controls=(Control("mode", {"signed_form": "recursive"}),),
    ),
    _topup_product(
        "clone-sorted-wrong",
        "2961",
        "内层乱序",
        "a compatible site that sorts the keys of inner objects, which we are told not to do: 400 签名错误",
        Behaviour(_TOPUP, extra={"template": _GAME}),
        expect=_WE_ARE_REFUSED,
        shows=(18,),
        form=_GAME_FORM,
        controls=(Control("mode", {"signed_form": "recursive"}),),
        account={**_SOON, "sort_nested": False},
    ),
    _card_product(
        "limit-text",
        "2962",
        "限流",
        "400 rate limit exceeded once",
        _create(refused("400", "rate limit exceeded")),
        expect=Expect(cards=1, requests=2, callbacks=(True,)),
        shows=(30,),
    ),
    _card_product(
        "limit-daily",
        "2963",
        "日限额",
        "400 daily limit exceeded once",
        _create(refused("400", "daily limit exceeded")),
        expect=Expect(cards=1, requests=2, callbacks=(True,)),
        shows=(30,),
    ),
    _card_product(
        "limit-http",
        "2964",
        "限流429",
        "HTTP 429 with Retry-After 1, once",
        _create(rate_limited(1)),
        expect=Expect(cards=1, requests=2, callbacks=(True,)),
        shows=(30,),
        codes=("HTTP 429",),
    ),
    _card_product(
        "limit-too-long",
        "2965",
        "长时间限流",
        "HTTP 429 with Retry-After 60, longer than the order may wait",
        _create(rate_limited(60).always()),
        expect=Expect(state="failed", failure="not_sent_in_time", charges=0),
        shows=(30,),
        account=_SOON,
    ),
    _card_product(
        "limit-looks",
        "2966",
        "查询限流",
        "detail calls: 400 rate limit exceeded, 400 请求过于频繁, HTTP 429; then the order in 3",
        _query(refused("400", "rate limit exceeded"), refused("400", "请求过于频繁"), rate_limited()),
        expect=_DELIVERED,
        shows=(30,),
    ),
    _card_product(
        "limit-yet-taken",
        "2967",
        "误报限流",
        "400 rate limit exceeded although the order is taken; the same number again: 400 外部订单号重复",
        _create(refused("400", "rate limit exceeded", booked=True)),
        expect=Expect(cards=1, requests=2),
        shows=(17, 30),
        calls_back=False,
    ),
    _card_product(
        "limit-yet-taken-told",
        "3073",
        "误报限流有回调",
        "400 rate limit exceeded although the order is taken; the callback tells before the number is sent again",
        _create(refused("400", "rate limit exceeded", booked=True)),
        expect=Expect(cards=1, callbacks=(True,), says="A callback outweighs the refusal: looked up, not sent again."),
        shows=(30,),
    ),
)

_REFUNDS: Final = (
    Scenario(
        name="refunded",
        product="2914",
        title="卡速售 京东E卡 100元（退款）",
        description="1, 2, then 5 with everything paid back",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour((WAITING, WORKING, _REFUNDED), _card),
        expect=Expect(state="failed", failure="refunded", refunds=1, callbacks=(True,)),
        shows=(10,),
        codes=("status 5", "callback 5"),
    ),
    _card_product(
        "cancelled",
        "2970",
        "取消",
        "1, then 4 with everything paid back",
        Behaviour((WAITING, CANCELLED), _card),
        expect=Expect(state="failed", failure="refunded", refunds=1, callbacks=(True,)),
        shows=(10,),
        codes=("status 4", "callback 4"),
    ),
    _topup_product(
        "topup-refunded",
        "2971",
        "直充退款",
        "1, 2, then 5 with everything paid back, amounts with four decimals",
        Behaviour(
            (
                WAITING,
                WORKING,
                Stage(5, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed", entry=_four_decimals),
            )
        ),
        expect=Expect(state="failed", failure="refunded", refunds=1, callbacks=(True,)),
        shows=(10, 27),
    ),
    _card_product(
        "refunded-in-part",
        "2972",
        "部分退款",
        "5 with half of the money paid back",
        Behaviour((WORKING, Stage(5, refund=Decimal("0.5"), callbacks=(GENUINE,), outcome="failed")), _card),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("partial_refund",), callbacks=(True,)),
        shows=(11,),
    ),
    _card_product(
        "cancelled-unrefunded",
        "2973",
        "取消未退款",
        "4 with nothing paid back",
        Behaviour((WORKING, Stage(4, callbacks=(GENUINE,), outcome="failed")), _card),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("partial_refund",), callbacks=(True,)),
        shows=(11,),
    ),
    _card_product(
        "refunded-unsaid",
        "2974",
        "退款无金额",
        "an old site: 5 without total_price and has_back_money",
        Behaviour(
            (
                WORKING,
                Stage(5, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed", entry=_without_amounts),
            ),
            _card,
        ),
        expect=Expect(state="failed", failure="refunded", refunds=1, callbacks=(True,)),
        shows=(10,),
    ),
    _card_product(
        "refunded-with-cards",
        "2975",
        "退款含卡",
        "5 with everything paid back and the cards listed all the same",
        Behaviour((WORKING, Stage(5, cards=True, refund=Decimal(1), callbacks=(GENUINE,), outcome="failed")), _card),
        expect=Expect(
            state="failed", failure="refunded", refunds=1, callbacks=(True,), says="The cards are not handed over."
        ),
        shows=(13,),
    ),
    _card_product(
        "reversed",
        "2976",
        "成功后退款",
        "3 with cards; after the delivery 5 with everything paid back, and a callback",
        Behaviour(_CARDS, _card),
        expect=Expect(
            cards=1,
            refunds=1,
            alerts=("reversed",),
            reviews=("reversed",),
            after_sale="reversed",
            callbacks=(True, True),
            says="The card was handed over already: it stays with the order and is marked.",
        ),
        shows=(12,),
        after=(Control("state", {"state": 5, "refund": "1", "callback": True}),),
        after_state="fulfilled",
    ),
    _topup_product(
        "topup-reversed",
        "2977",
        "直充成功后退款",
        "3; after that 5 with everything paid back, and a callback",
        Behaviour(_TOPUP),
        expect=Expect(
            refunds=1, alerts=("reversed",), reviews=("reversed",), after_sale="reversed", callbacks=(True, True)
        ),
        shows=(12,),
        after=(Control("state", {"state": 5, "refund": "1", "callback": True}),),
        after_state="fulfilled",
    ),
    _card_product(
        "reversed-in-part",
        "2978",
        "成功后部分退款",
        "3 with cards; after the delivery 5 with half of the money paid back, and a callback",
        Behaviour(_CARDS, _card),
        expect=Expect(
            cards=1,
            alerts=("contradiction",),
            reviews=("partial_refund",),
            callbacks=(True, True),
            says="No card is marked: nobody says which one the money is for.",
        ),
        shows=(12,),
        after=(Control("state", {"state": 5, "refund": "0.5", "callback": True}),),
        after_state="fulfilled",
    ),
    _card_product(
        "reversed-quietly",
        "2979",
        "成功后静默退款",
        "3 with cards; two days later 5 with everything paid back, without a callback",
        Behaviour(
            (
                WORKING,
                Stage(3, cards=True, seconds=2 * 86400, callbacks=(GENUINE,), outcome="delivered"),
                Stage(5, cards=True, refund=Decimal(1), outcome="delivered"),
            ),
            _card,
        ),
        expect=Expect(
            cards=1,
            refunds=1,
            alerts=("reversed",),
            reviews=("reversed",),
            after_sale="reversed",
            callbacks=(True,),
            says="Delivered orders are looked at twice a day for a week.",
        ),
        shows=(12,),
        lapse=3 * 86400,
    ),
    _card_product(
        "reversed-after-a-week",
        "2980",
        "一周后退款",
        "3 with cards; nine days later 5 with everything paid back, and a callback",
        Behaviour(
            (
                WORKING,
                Stage(3, cards=True, seconds=9 * 86400, callbacks=(GENUINE,), outcome="delivered"),
                Stage(5, cards=True, refund=Decimal(1), callbacks=(GENUINE,), outcome="delivered"),
            ),
            _card,
        ),
        expect=Expect(
            cards=1,
            refunds=1,
            alerts=("reversed",),
            reviews=("reversed",),
            after_sale="reversed",
            callbacks=(True, True),
            says="Nobody watches it any more, but a callback is followed up.",
        ),
        shows=(12,),
        lapse=10 * 86400,
    ),
)

_SILENCES: Final = (
    Scenario(
        name="silent",
        product="2913",
        title="卡速售 京东E卡 100元（超时）",
        description="accepted and charged, the answer never comes; detail and callback tell",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(_CARDS, _card, faults={"create": (never(),)}),
        expect=_DELIVERED,
        shows=(15,),
    ),
    _card_product(
        "late",
        "2981",
        "迟到的答复",
        "accepted and charged, the answer comes after the time-out",
        _create(late()),
        expect=_DELIVERED,
        shows=(15,),
    ),
    _card_product(
        "silent-for-callback",
        "2982",
        "超时后回调",
        "the answer never comes, nor do answers to detail calls; the callback makes us ask once more",
        Behaviour((Stage(2, seconds=1.5), _LISTED), _card, faults={"create": (never(),), "query": (dropped(),)}),
        expect=_DELIVERED,
        shows=(15,),
        account=_ONLY_CALLBACKS,
    ),
    _card_product(
        "dropped-after",
        "2983",
        "断开（已下单）",
        "the connection closes after the order was taken",
        _create(dropped()),
        expect=_DELIVERED,
        shows=(15,),
    ),
    _card_product(
        "cut-after",
        "2984",
        "半途断开",
        "the connection closes in the middle of the answer",
        _create(cut(20)),
        expect=_DELIVERED,
        shows=(15,),
    ),
    _card_product(
        "silent-before",
        "2985",
        "超时（未下单）",
        "nothing is taken and no answer ever comes",
        _create(never().unbooked()),
        expect=_NEVER_RECEIVED,
        shows=(16,),
    ),
    _card_product(
        "dropped-before",
        "2986",
        "断开（未下单）",
        "the connection closes before the order is taken",
        _create(dropped().unbooked()),
        expect=_NEVER_RECEIVED,
        shows=(16,),
    ),
    _card_product(
        "error-taken",
        "2987",
        "未知错误（已下单）",
        "code 500 although the order is taken",
        _create(refused("500", "未知错误", booked=True)),
        expect=_DELIVERED,
        shows=(14,),
        codes=("code 500",),
    ),
    _card_product(
        "error-untaken",
        "2988",
        "未知错误（未下单）",
        "code 500, nothing is taken",
        _create(refused("500", "未知错误")),
        expect=_NEVER_RECEIVED,
        shows=(14,),
    ),
    _card_product(
        "error-mirrored",
        "2989",
        "HTTP 500",
        "code 500 with HTTP 500 although the order is taken",
        _create(refused("500", "未知错误", booked=True)),
        expect=_DELIVERED,
        shows=(14,),
        codes=("HTTP 500",),
        controls=(Control("mode", {"http_status": "mirror"}),),
    ),
    _card_product(
        "duplicate-refused",
        "2990",
        "重复单号（拒绝）",
        "a proxy hands our call over twice; the second answer is 400 外部订单号重复",
        Behaviour(_CARDS, _card, repeated_request=True),
        expect=_DELIVERED,
        shows=(17,),
    ),
    _card_product(
        "duplicate-replayed",
        "2991",
        "重复单号（原单）",
        "a proxy hands our call over twice; the second answer is the first order",
        Behaviour(_CARDS, _card, repeated_request=True, modes={"duplicates": "replay"}),
        expect=_DELIVERED,
        shows=(17,),
    ),
    _card_product(
        "duplicate-bought",
        "2992",
        "重复单号（两单）",
        "a proxy hands our call over twice, and the site sells twice under one number",
        Behaviour(_CARDS, _card, repeated_request=True, modes={"duplicates": "double"}),
        expect=Expect(
            state="needs_review",
            charges=2,
            alerts=("review",),
            reviews=("contradiction",),
            callbacks=(True, True),
            says=_FOR_A_PERSON,
        ),
        shows=(17,),
    ),
)

_CALLBACKS: Final = (
    _card_product(
        "callback-form",
        "3001",
        "表单回调",
        "the callback is a form, its card_list JSON text in one field",
        Behaviour(_CARDS, _card, modes={"callback_format": "form"}),
        expect=_DELIVERED,
        shows=(19,),
        account=_ONLY_CALLBACKS,
    ),
    _topup_product(
        "callback-numeric",
        "3002",
        "数字状态",
        "the callback's status is the number 3, and signed so",
        Behaviour((WORKING, Stage(3, callbacks=("numeric-status",), outcome="delivered"))),
        expect=_TOPPED_UP,
        shows=(19,),
        account=_ONLY_CALLBACKS,
    ),
    _topup_product(
        "callback-slashes",
        "3003",
        "斜杠不转义",
        "a compatible site signs its callback with raw slashes; its signature is in capitals in a second one",
        Behaviour((WORKING, Stage(3, callbacks=("raw-slashes", "upper-case-sign", "express"), outcome="delivered"))),
        expect=Expect(callbacks=(True, True, True)),
        shows=(19,),
        account=_ONLY_CALLBACKS,
    ),
    _card_product(
        "callback-unheard",
        "3004",
        "回调重发",
        "our first two answers to the callback get lost: it comes again after 5 and after 10 minutes",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=("unheard-twice",), outcome="delivered")), _card),
        expect=Expect(cards=1, callbacks=(False, False, True)),
        shows=(20,),
        lapse=1200,
    ),
    _card_product(
        "callback-refused",
        "3005",
        "回调不被接受",
        "we know raw slashes only and refuse every callback: it comes six times in 75 minutes",
        Behaviour(_CARDS, _card),
        expect=Expect(cards=1, callbacks=(False,) * 6, says="Looks deliver it all the same."),
        shows=(20,),
        account={"callback_slash_modes": ["raw"]},
        lapse=6000,
    ),
    _card_product(
        "callback-out-of-order",
        "3006",
        "回调乱序",
        "a callback with 3, then an older one with 2",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE, "stale-2"), outcome="delivered")), _card),
        expect=Expect(cards=1, callbacks=(True, True)),
        shows=(21,),
    ),
    _card_product(
        "callback-first",
        "3007",
        "回调先到",
        "the callback arrives while the answer to buying is still on its way",
        _create(late(0.7)),
        expect=_DELIVERED,
        shows=(22,),
        account=_ONLY_CALLBACKS,
    ),
    _card_product(
        "callback-forged",
        "3008",
        "伪造回调",
        "while the order is in 2: callbacks signed with another key, not at all, in part, or changed after signing",
        Behaviour((Stage(2, steps=4, callbacks=_FORGED), _QUIETLY_LISTED), _card),
        expect=Expect(cards=1, callbacks=(False,) * len(_FORGED), says="None is acknowledged, none moves anything."),
        shows=(23,),
    ),
    _card_product(
        "callback-forged-after",
        "3009",
        "成功后伪造回调",
        "the same after the delivery",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE, *_FORGED), outcome="delivered")), _card),
        expect=Expect(cards=1, callbacks=(True, *(False,) * len(_FORGED))),
        shows=(23,),
        account=_ONLY_CALLBACKS,
    ),
    _card_product(
        "callback-claims",
        "3010",
        "虚假状态",
        "signed well, but not true by the detail call: 3 while it is in 2, then 5 although it is in 3",
        Behaviour(
            (
                Stage(2, steps=10, callbacks=("stale-3",)),
                Stage(3, cards=True, callbacks=(GENUINE, "stale-5"), outcome="delivered"),
            ),
            _card,
        ),
        expect=Expect(cards=1, callbacks=(True, True, True), says="The detail call counts, not the callback."),
        shows=(21, 25),
    ),
    _card_product(
        "callback-cards-replaced",
        "3011",
        "替换卡密",
        "signed well, but with other cards in the unsigned card_list",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=("replaced-cards",), outcome="delivered")), _card),
        expect=Expect(cards=2, callbacks=(True,), says="The cards of the detail call are delivered."),
        shows=(24,),
        quantity=2,
        account=_ONLY_CALLBACKS,
    ),
    _card_product(
        "callback-replayed",
        "3012",
        "重放回调",
        "the callback with 3 comes twice more, byte for byte, with its old time",
        Behaviour(
            (WORKING, Stage(3, cards=True, callbacks=(GENUINE, "replayed", "replayed"), outcome="delivered")), _card
        ),
        expect=Expect(cards=1, callbacks=(True, True, True)),
        shows=(25,),
    ),
    _card_product(
        "callback-unknown",
        "3013",
        "未知单号",
        "signed well, about a number that nobody ordered",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE, "unknown-number"), outcome="delivered")), _card),
        expect=Expect(
            cards=1,
            alerts=("unexpected_answer",),
            callbacks=(True, True),
            says="Acknowledged, so that it isn't repeated, and kept for the operator.",
        ),
        shows=(23,),
    ),
    _card_product(
        "callback-unknown-refused",
        "3014",
        "未知单号不应答",
        "the same, with an account that doesn't acknowledge such callbacks",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE, "unknown-number"), outcome="delivered")), _card),
        expect=Expect(cards=1, alerts=("unexpected_answer",), callbacks=(True, False)),
        shows=(23,),
        account={"ack_unknown_order": False},
    ),
    _card_product(
        "callback-other-reference",
        "3015",
        "另一站点单号",
        "signed well, about our number with another ordersn",
        Behaviour((WORKING, Stage(3, cards=True, callbacks=(GENUINE, "other-reference"), outcome="delivered")), _card),
        expect=Expect(
            cards=1, callbacks=(True, True), says="A reason to look, and the look finds the order as it was."
        ),
        shows=(23,),
    ),
)

_ODD_BUYS: Final = (
    _card_product(
        "buy-html",
        "3020",
        "下单HTML",
        "buying answers a proxy's HTML page",
        _create(html()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-empty", "3021", "下单空白", "buying answers nothing", _create(empty()), expect=_DELIVERED, shows=(27,)
    ),
    _card_product(
        "buy-half",
        "3022",
        "下单残缺",
        "buying answers JSON that ends in the middle",
        _create(half()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-utf8",
        "3023",
        "下单乱码",
        "buying answers what is no UTF-8",
        _create(bad_utf8()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-list",
        "3024",
        "下单数组",
        "buying answers a JSON array",
        _create(raw(b"[]")),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-data-null",
        "3025",
        "data为空",
        "buying answers code 200 with data null",
        _create(edited("data null", _data(None))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-data-list",
        "3026",
        "data为数组",
        "buying answers code 200 with data []",
        _create(edited("data []", _data([]))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-no-ordersn",
        "3027",
        "无站点单号",
        "buying answers code 200 with an empty ordersn",
        _create(edited("no ordersn", _bought(ordersn=""))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-amount-number",
        "3028",
        "数字金额",
        "total_price is the number 98.5 in the answer to buying",
        _create(edited("number", _bought(total_price=98.5))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-amount-empty",
        "3029",
        "空金额",
        'total_price is "" in the answer to buying',
        _create(edited("empty amount", _bought(total_price=""))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-with-status",
        "3030",
        "下单含状态",
        "the answer to buying carries status 2, as later editions of the manual have it",
        _create(edited("with status", _bought(status=2))),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-other-number",
        "3031",
        "他人单号",
        "the answer to buying is about another external_orderno",
        _create(edited("other number", _bought(external_orderno="SOMEBODY0ELSES0ORDER000000"))),
        expect=Expect(
            state="needs_review",
            alerts=("review",),
            reviews=("contradiction",),
            callbacks=(True,),
            says=_FOR_A_PERSON,
        ),
        shows=(27,),
    ),
    _card_product(
        "buy-huge",
        "3032",
        "超大答复",
        "the answer to buying has 100 MB",
        _create(huge()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "buy-redirect",
        "3033",
        "下单重定向",
        "buying answers HTTP 302 to another path; nothing is taken",
        _create(redirected("/kasushou/api/v1/order/info")),
        expect=_NEVER_RECEIVED,
        shows=(27,),
    ),
)

_ODD_DETAILS: Final = (
    _card_product(
        "wrong-label",
        "3057",
        "类型标错",
        "buying and detail calls answer proper JSON in UTF-8 under Content-Type text/html; charset=gbk",
        Behaviour(_CARDS, _card, faults={"create": (mislabelled().always(),), "query": (mislabelled().always(),)}),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-malformed",
        "3040",
        "查询异常",
        "detail calls: HTML, an empty body, half of the JSON, null, [], data null, data {}, no UTF-8, code 500; "
        "then the order in 3",
        _query(
            html(),
            html(200),
            empty(),
            half(),
            raw(b"null"),
            raw(b"[]"),
            edited("data null", _data(None)),
            edited("data {}", _data({})),
            bad_utf8(),
            refused("500", "未知错误"),
        ),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-broken",
        "3041",
        "查询断开",
        "detail calls: dropped, cut, HTTP 302, too late; then the order in 3",
        _query(dropped(), cut(20), redirected("/"), late()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-object",
        "3042",
        "查询对象",
        "detail calls answer with the order itself instead of a list",
        _query(edited("object", _object).always()),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-status-text",
        "3043",
        "文本状态",
        'the status is text: "2", "9", "3"',
        Behaviour(
            (
                Stage(2, looks=1, entry=_with(status="2")),
                Stage(2, looks=2, entry=_with(status="9")),
                Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_with(status="3")),
            ),
            _card,
        ),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-amounts",
        "3044",
        "金额写法",
        'amounts with four decimals, then as numbers, then ""',
        Behaviour(
            (
                Stage(2, looks=1, entry=_four_decimals),
                Stage(2, looks=1, entry=_amounts_as_numbers),
                Stage(
                    3,
                    cards=True,
                    callbacks=(GENUINE,),
                    outcome="delivered",
                    entry=_with(total_price="", has_back_money=""),
                ),
            ),
            _card,
        ),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-unreadable-cards",
        "3045",
        "卡密不可读",
        "3 with cards whose numbers are lists and whose passwords are null for two looks, then with real ones",
        Behaviour((WORKING, Stage(3, cards=True, looks=2, entry=_unreadable_cards), _LISTED), _card),
        expect=_DELIVERED,
        shows=(27,),
    ),
    _card_product(
        "detail-other-ordersn",
        "3046",
        "站点单号变化",
        "the detail call shows another ordersn than buying did",
        Behaviour(
            (
                Stage(
                    3,
                    cards=True,
                    callbacks=(GENUINE,),
                    outcome="delivered",
                    entry=_with(ordersn="API090000000000000000000"),
                ),
            ),
            _card,
        ),
        expect=Expect(
            state="needs_review",
            alerts=("review",),
            reviews=("contradiction",),
            callbacks=(True,),
            says=_FOR_A_PERSON,
        ),
        shows=(27,),
    ),
    _card_product(
        "detail-cards-changed",
        "3047",
        "卡密变化",
        "3 with one card of two, then with both, the first one changed",
        Behaviour(
            (
                Stage(3, cards=True, shown=1, looks=2),
                Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_first_card_changed),
            ),
            _card,
        ),
        expect=Expect(
            state="needs_review",
            cards=1,
            alerts=("review",),
            reviews=("cards_changed",),
            callbacks=(True,),
            says="The card that was handed over stays as it was.",
        ),
        shows=(3, 27),
        quantity=2,
    ),
    _card_product(
        "detail-cards-many",
        "3048",
        "多发卡",
        "3 with two cards for one",
        Behaviour(
            (WORKING, Stage(3, cards=True, callbacks=(GENUINE,), outcome="delivered", entry=_one_card_too_many)), _card
        ),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("too_many_cards",), callbacks=(True,)),
        shows=(27,),
    ),
    _topup_product(
        "detail-topup-cards",
        "3049",
        "直充出卡",
        "3 with a card for virtual goods, which have none",
        Behaviour(
            (
                WORKING,
                Stage(
                    3,
                    callbacks=(GENUINE,),
                    outcome="delivered",
                    entry=_with(card_list=[{"card_no": f"{CANARY}1", "card_password": f"{CANARY}-1"}]),
                ),
            )
        ),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("contradiction",), callbacks=(True,)),
        shows=(4, 27),
    ),
    _card_product(
        "detail-forgotten",
        "3050",
        "订单消失",
        "taken, then an empty list for two looks, then the order in 3",
        Behaviour((Stage(2, looks=1), Stage(2, looks=2, entry=_left_out), _LISTED), _card),
        expect=Expect(
            cards=1,
            alerts=("contradiction",),
            callbacks=(True,),
            says="An order that was taken isn't given up because a look doesn't find it.",
        ),
        shows=(28,),
    ),
    _card_product(
        "batch",
        "3051",
        "批量查询",
        "two orders asked for at once; the list is turned around and holds somebody else's refunded order, too",
        Behaviour(
            (Stage(1, seconds=6), _LISTED),
            _card,
            faults={
                "query": (
                    edited("a stranger's order", _with_a_stranger).for_times(4),
                    edited("backwards", _backwards).always(),
                )
            },
        ),
        expect=Expect(cards=12, charges=2, requests=2, callbacks=(True, True)),
        shows=(28,),
        quantity=12,
        lapse=30,
    ),
    _card_product(
        "batch-incomplete",
        "3052",
        "批量缺单",
        "two orders asked for at once; the list leaves the second one out for a while",
        Behaviour((Stage(1, seconds=30, entry=_small_one_left_out), _LISTED), _card),
        expect=Expect(cards=12, charges=2, requests=2, alerts=("contradiction",), callbacks=(True, True)),
        shows=(28,),
        quantity=12,
        lapse=60,
    ),
    _card_product(
        "look-back",
        "3053",
        "一个月后",
        "2 for 31 days, then 3; without day = 0 the order would not be found any more",
        Behaviour((Stage(2, seconds=31 * 86400), _LISTED), _card),
        expect=Expect(
            cards=1,
            alerts=("review",),
            callbacks=(True,),
            says="After the settling deadline a person is called, and looks go on; the cards end the review.",
        ),
        shows=(29,),
        lapse=32 * 86400,
    ),
    _card_product(
        "look-back-short",
        "3054",
        "一个月后（查询30天）",
        "the same with an account that asks for the last 30 days only: the order is not found any more",
        Behaviour((Stage(2, seconds=31 * 86400), _LISTED), _card),
        expect=Expect(
            state="needs_review",
            alerts=("review",),
            reviews=("deadline",),
            callbacks=(True,),
            says="That it isn't found any more proves nothing: its deadline calls a person.",
        ),
        shows=(29,),
        account={"query_day": "30"},
        lapse=32 * 86400,
    ),
)

_CANCELS: Final = (
    _card_product(
        "cancel",
        "3060",
        "取消订单",
        "close answers 200; the order goes to 4 with everything paid back, and a callback",
        Behaviour((_STEADY,), _card),
        expect=Expect(state="cancelled", refunds=1, callbacks=(True,)),
        shows=(31,),
        cancel=True,
    ),
    _topup_product(
        "cancel-topup",
        "3061",
        "取消直充",
        "the same for virtual goods, without a callback",
        Behaviour((_STEADY,), extra={"closed": Stage(4, refund=Decimal(1), outcome="failed")}),
        expect=Expect(state="cancelled", refunds=1),
        shows=(31,),
        cancel=True,
    ),
    _card_product(
        "cancel-forgotten",
        "3062",
        "取消未处理",
        "close answers 200 and nothing comes of it: the order goes on to 3",
        Behaviour((Stage(2, looks=8), _LISTED), _card, extra={"closed": None}),
        expect=Expect(cards=1, callbacks=(True,), says="The wish alone cancels nothing."),
        shows=(31,),
        cancel=True,
    ),
    _card_product(
        "cancel-refused",
        "3063",
        "取消被拒",
        "close answers 400 订单状态不允许取消: the order goes on to 3",
        Behaviour((Stage(2, looks=8), _LISTED), _card, faults={"cancel": (refused("400", "订单状态不允许取消"),)}),
        expect=Expect(cards=1, callbacks=(True,)),
        shows=(31,),
        cancel=True,
    ),
    _card_product(
        "cancel-unclear",
        "3064",
        "取消无答复",
        "close is taken, but answered with an HTML page; the order goes to 4",
        Behaviour((_STEADY,), _card, faults={"cancel": (html(),)}),
        expect=Expect(state="cancelled", refunds=1, callbacks=(True,)),
        shows=(31,),
        cancel=True,
    ),
    _card_product(
        "cancel-half-refunded",
        "3065",
        "取消部分退款",
        "close answers 200; the order goes to 4 with half of the money paid back",
        Behaviour(
            (_STEADY,),
            _card,
            extra={"closed": Stage(4, refund=Decimal("0.5"), callbacks=(GENUINE,), outcome="failed")},
        ),
        expect=Expect(state="needs_review", alerts=("review",), reviews=("partial_refund",), callbacks=(True,)),
        shows=(11, 31),
        cancel=True,
    ),
)

_GUARDS: Final = (
    _card_product(
        "guard-total",
        "3070",
        "总价保护",
        "a site that compares safe_price with the price of all, and we send the limit for all",
        Behaviour(_CARDS, _card, modes={"safe_price": "total"}),
        expect=Expect(cards=3, callbacks=(True,)),
        shows=(1,),
        quantity=3,
        account={"safe_price_mode": "total"},
    ),
    _card_product(
        "guard-mistaken",
        "3071",
        "保护价口径",
        "a site that compares safe_price with the price of all, and we send the limit for one",
        Behaviour(_CARDS, _card, modes={"safe_price": "total"}),
        expect=_rejected(
            "price_above_limit", alerts=("supplier_price",), says="A wrong guess is refused, never overpaid."
        ),
        shows=(7,),
        quantity=3,
    ),
)

SCENARIOS: Final = (
    *_DELIVERIES,
    *_REFUSALS,
    *_REFUSALS_OF_US,
    *_REFUNDS,
    *_SILENCES,
    *_CALLBACKS,
    *_ODD_BUYS,
    *_ODD_DETAILS,
    *_CANCELS,
    *_GUARDS,
)

BEHAVIOURS: Final[Mapping[int, str]] = {
    1: "A card order is taken and goes 1, 2, 3; its cards are delivered once, with or without a callback.",
    2: "3 without cards yet: the order waits for them, past its settling deadline with a person called.",
    3: "3 with fewer cards than ordered: what is listed is delivered, the rest awaited until the settling deadline.",
    4: "Virtual goods: the fields of the product's form are sent in attach and checked; delivered without cards.",
    5: "Cards that are a password without a number are delivered.",
    6: "Compatible sites: cards and parameters as plain texts, one card without its list, codes as text; all are read.",
    7: "Buying is refused, each reason with its own words: looked up once, and failed when the site doesn't know it; "
    "refusals of us pause the account instead.",
    8: "Buying is refused although the order was taken: the look finds it, and it is delivered.",
    9: "-1: the deposit doesn't pay for the order: failed, and the operator is told of the balance.",
    10: "4 or 5 with all the money back: failed.",
    11: "4 or 5 with less money back than was charged: a person looks.",
    12: "5 after the delivery, by callback or found in the week of watching: marked as taken back, a person looks. "
    "With a part of the money back nothing is marked, and a person looks.",
    13: "5 with cards listed: failed, the cards are not delivered.",
    14: "Code 500, taken or not: looked up until that is settled.",
    15: "Taken, but the answer is lost or late: found by a look or because of the callback, and delivered.",
    16: "Lost before it was taken: two looks after the grace period find nothing, and it is failed; never sent again.",
    17: "The number comes twice: refused, answered again, or bought twice; one delivery, or a person looks.",
    18: "The signature covers bytes in one spelling: another key, spelling or clock is refused, and that pauses the "
    "account.",
    19: "Callbacks as JSON or form, the status as text or number: answered ok and confirmed by a look.",
    20: "Callbacks are repeated after 5, 10, 15, 20 and 25 minutes until ok: the order changes once.",
    21: "An older callback comes after a newer one: the look counts, the order stays delivered.",
    22: "The callback comes before the answer to buying: one delivered order.",
    23: "Callbacks with a wrong signature, or about another order: not acknowledged or without effect.",
    24: "A genuine callback with other cards, which aren't signed: the cards of the detail call are delivered.",
    25: "An old callback once more: no second effect.",
    26: "A notice that a product changed, whose price isn't signed.",
    27: "Answers that can't be read or are written otherwise: tolerated, or unknown and asked again.",
    28: "One detail call for several orders, some missing, others' among them: matched by number.",
    29: "Orders older than 30 days are only shown for day = 0.",
    30: "Too many requests, by text or HTTP 429: slower, with nothing lost or bought twice.",
    31: "A cancel is only taken note of: what becomes of the order is told by a callback or a look.",
}

OPEN: Final[Mapping[int, str]] = {
    26: "The service takes no notices about products: prices are read when somebody asks for them.",
}

CODES: Final[Mapping[str, str]] = {
    "code 200": "success",
    "code 400": "failure; the reason is in the text",
    "code 500": "unknown error; proves nothing",
    "status -1": "not paid: the deposit is too small",
    "status 1": "waiting",
    "status 2": "in progress",
    "status 3": "success",
    "status 4": "cancelled",
    "status 5": "refunded",
    "callback 2": "callback: in progress",
    "callback 3": "callback: success",
    "callback 4": "callback: cancelled",
    "callback 5": "callback: refunded",
    "HTTP 400": "sites that repeat the code as HTTP status: failure",
    "HTTP 401": "we are refused",
    "HTTP 429": "too many requests",
    "HTTP 500": "sites that repeat the code as HTTP status: unknown error",
}

"""91 Kaquan, cards: one genuine answer for everything that it can say."""

from typing import Any

from reward_adapters.contract import Absent, Accepted, Delivered, NotSent, ProductKind, Refunded, Refused, Unclear
from reward_adapters.kaquan91_card import ADAPTER

from .laws import Specimen, example_purchase, json_reply

CARD = example_purchase(ProductKind.CARD, parameters={"card_type": "1", "auto_confirm_hour": "10"})
OTHER = {
    "pay_order_id": "2023082621250118187",
    "card_id": 1001,
    "create_time": "2026-03-01 21:25:00",
    "update_time": "2026-03-01 21:25:00",
    "remark": "",
}
ENTRY = {"order_id": "2023082621250118188", "card_num": "KQ00000001", "card_pass": "8F2K-0000", "money": "9.80"}


def answer(*entries: dict[str, Any], code: int = 1, **more: Any) -> dict[str, Any]:
    """An answer with these cards."""
    return {"code": code, "msg": "操作成功", "result": list(entries), **more}


NOT_FOUND = {"code": 0, "msg": "订单不存在", "result": None}
NO_STOCK = {"code": 0, "msg": "库存不足", "result": None}
BAD_SIGN = {"code": 0, "msg": "签名错误", "result": None}

SPECIMEN = Specimen(
    adapter=ADAPTER,
    config={"base_url": "https://supplier.example/", "appid": "19190091", "appsecret": "specimen-secret-91"},
    purchases=(CARD, example_purchase(ProductKind.COUPON, parameters={"card_type": "0", "auto_confirm_hour": "48"})),
    placed=[
        (Delivered, json_reply(answer({**ENTRY, "status": 2}, other=OTHER))),
        (Accepted, json_reply(answer(other=OTHER))),
        (Refused, json_reply(NO_STOCK)),
        (NotSent, json_reply(BAD_SIGN)),
        (Unclear, json_reply({"code": 7, "msg": "", "result": None})),
    ],
    found=[
        (Delivered, json_reply(answer({**ENTRY, **OTHER, "status": 3}))),
        (Delivered, json_reply(answer({**ENTRY, **OTHER, "status": 4}))),
        (Delivered, json_reply(answer({**ENTRY, **OTHER, "status": 5}))),
        (Refunded, json_reply(answer({**ENTRY, **OTHER, "status": 6}))),
        (Absent, json_reply(NOT_FOUND)),
        (NotSent, json_reply(BAD_SIGN)),
        (Unclear, json_reply({"code": 0, "msg": "系统繁忙", "result": None})),
    ],
    balance=json_reply({"code": 1, "msg": "操作成功", "result": "348.70"}),
    products=json_reply(
        answer({"id": 1001, "name": "卡", "num": 5, "type": 1, "priceList": [{"price": "9.80", "num": 5}]})
    ),
    product=json_reply(
        {
            "code": 1,
            "msg": "",
            "result": {"id": 1001, "name": "卡", "num": 5, "priceList": [], "auto_confirm_hour": [10, 48]},
        }
    ),
)

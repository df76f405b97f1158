"""Kasushou: one genuine answer for everything that it can say."""

import json
from typing import Any

from reward_adapters.contract import (
    Absent,
    Accepted,
    Callback,
    Delivered,
    HttpReply,
    NotSent,
    ProductKind,
    Recipient,
    RecipientKind,
    Refunded,
    Refused,
    Unclear,
)
from reward_adapters.kasushou import ADAPTER
from reward_sandbox._kasushou_wire import callback_signature

from .laws import Specimen, example_purchase, json_reply

APIKEY = "specimen-apikey-0123456789"
CARD = example_purchase(ProductKind.CARD)
PHONE = Recipient(RecipientKind.PHONE, "13812345678", "+86")
ORDER = {
    "ordersn": "API091952652791532879872",
    "external_orderno": CARD.number,
    "total_price": "9.80",
    "has_back_money": "0.00",
    "recharge_hints": "",
    "recharge_info": [],
    "card_list": [],
}
CARDS = [{"card_no": "KS0000000001", "card_password": "8F2K-0000"}]
NOTICE: dict[str, object] = {
    "external_orderno": CARD.number,
    "ordersn": "API091952652791532879872",
    "status": "3",
    "has_back_money": "0.00",
    "total_price": "9.80",
    "recharge_hints": "订单处理完成",
    "time": "1704067210789",
}


def found(status: int, **changes: Any) -> HttpReply:
    """The order in that state."""
    return json_reply({"code": 200, "msg": "操作成功", "data": [{**ORDER, "status": status, **changes}]})


def failed(text: str) -> HttpReply:
    """A failure with that text."""
    return json_reply({"code": 400, "msg": text})


GOODS = {
    "id": 1001,
    "goods_name": "卡",
    "goods_type": 1,
    "face_value": "10.00",
    "goods_price": "9.80",
    "status": 1,
    "stock_num": 5,
}

SPECIMEN = Specimen(
    adapter=ADAPTER,
    config={"base_url": "https://supplier.example", "user_id": "7f6f4a9d0e2b4c518a3d", "apikey": APIKEY},
    purchases=(
        CARD,
        example_purchase(ProductKind.TOPUP, recipient=PHONE),
        example_purchase(ProductKind.MEMBERSHIP, recipient=PHONE),
        example_purchase(ProductKind.COUPON),
    ),
    placed=[
        (
            Accepted,
            json_reply(
                {
                    "code": 200,
                    "msg": "下单成功",
                    "data": {"ordersn": ORDER["ordersn"], "external_orderno": CARD.number, "total_price": "9.80"},
                }
            ),
        ),
        (Refused, failed("商品库存不足")),
        (NotSent, failed("签名错误")),
        (Unclear, json_reply({"code": 500, "msg": "未知错误"})),
    ],
    found=[
        (Accepted, found(1)),
        (Accepted, found(2)),
        (Delivered, found(3, card_list=CARDS)),
        (Refunded, found(4, has_back_money="9.80")),
        (Refunded, found(5, has_back_money="9.80", card_list=CARDS)),
        (Refused, found(-1)),
        (Absent, json_reply({"code": 200, "msg": "操作成功", "data": []})),
        (Absent, failed("订单不存在")),
        (NotSent, failed("签名错误")),
        (Unclear, found(99)),
    ],
    callback=Callback(
        json.dumps({**NOTICE, "sign": callback_signature(NOTICE, APIKEY)}, ensure_ascii=False).encode(),
        "application/json",
    ),
    unsigned=frozenset({"card_list", "express_list"}),
    cancelled=json_reply({"code": 200, "msg": "操作成功"}),
    balance=json_reply({"code": 200, "msg": "操作成功", "data": {"balance": "8888.88"}}),
    products=json_reply({"code": 200, "msg": "操作成功", "data": {"list": [GOODS], "total": 1}}),
    product=json_reply({"code": 200, "msg": "操作成功", "data": {**GOODS, "start_count": 1, "end_count": 10}}),
    order_form=json_reply(
        {
            "code": 200,
            "msg": "操作成功",
            "data": [
                {
                    "type": "text",
                    "name": "充值账号",
                    "key": "recharge_account",
                    "vali": "phone",
                    "tip": "",
                    "options": "",
                }
            ],
        }
    ),
)

"""91 Kaquan, recharges: one genuine answer for everything that it can say."""

from typing import Any
from urllib.parse import urlencode

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
from reward_adapters.kaquan91_recharge import ADAPTER
from reward_sandbox._kaquan91 import signature

from .laws import Specimen, example_purchase, json_reply

SECRET = "specimen-secret-91"
PHONE = Recipient(RecipientKind.PHONE, "13812345678", "+86")
TOPUP = example_purchase(ProductKind.TOPUP, recipient=PHONE)
ORDER = {
    "order_id": "API2022040622185551647",
    "out_order_id": TOPUP.number,
    "price": "10.00",
    "account": PHONE.value,
    "card_id": "1001",
    "create_time": "2026-03-01 21:25:00",
}
NOTICE = {
    "order_id": "API2022040622185551647",
    "out_order_id": TOPUP.number,
    "status": "3",
    "account": PHONE.value,
    "card_id": "1001",
}


def found(status: int | str) -> HttpReply:
    """An order in that state."""
    return json_reply({"code": 1, "msg": "操作成功", "result": {**ORDER, "status": status}})


def failed(text: str) -> HttpReply:
    """A failure with that text."""
    return json_reply({"code": 0, "msg": text, "result": None})


ANSWER: dict[str, Any] = {
    "code": 1,
    "msg": "下单成功",
    "result": "API2022040622185551647",
    "other": {"price": "10.0"},
}
PRODUCT = {"id": 1001, "pid": 1, "name": "话费", "card_name": "话费", "account_type": "手机号", "price": "9.80"}

SPECIMEN = Specimen(
    adapter=ADAPTER,
    config={"base_url": "https://supplier.example/", "appid": "19190092", "appsecret": SECRET},
    purchases=(TOPUP, example_purchase(ProductKind.MEMBERSHIP, recipient=PHONE)),
    placed=[
        (Accepted, json_reply(ANSWER)),
        (Refused, failed("产品已下架")),
        (NotSent, failed("签名错误")),
        (Unclear, json_reply({"code": 1, "msg": "下单成功", "result": None})),
    ],
    found=[
        *((Accepted, found(status)) for status in (1, "2", 7)),
        *((Delivered, found(status)) for status in (3, "4", 5)),
        (Refunded, found(6)),
        (Absent, failed("订单不存在")),
        (NotSent, failed("签名错误")),
        (Unclear, found(99)),
    ],
    callback=Callback(
        urlencode({**NOTICE, "sign": signature(NOTICE, SECRET)}).encode(), "application/x-www-form-urlencoded"
    ),
    reference=ORDER["order_id"],
    cancelled=json_reply(
        {
            "code": 1,
            "msg": "下架成功",
            "result": {"order_id": ORDER["order_id"], "out_order_id": TOPUP.number, "productId": "1001", "price": 1000},
        }
    ),
    balance=json_reply({"code": 1, "msg": "操作成功", "result": "348.70"}),
    products=json_reply({"code": 1, "msg": "", "result": [PRODUCT]}),
    product=json_reply({"code": 1, "msg": "", "result": PRODUCT}),
)

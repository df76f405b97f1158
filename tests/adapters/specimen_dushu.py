"""Dushu: one genuine answer for everything that it can say."""

from typing import Any

from reward_adapters.contract import (
    Absent,
    Accepted,
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
from reward_adapters.dushu import ADAPTER

from .laws import Specimen, example_purchase, json_reply

MEMBERSHIP = example_purchase(ProductKind.MEMBERSHIP, recipient=Recipient(RecipientKind.PHONE, "13812345678", "+86"))
DETAIL = {
    "orderNumber": 1717000000000000001,
    "tradeNo": MEMBERSHIP.number,
    "totalFee": 10.0,
    "productId": 1001,
    "userId": 10_000_001,
    "payType": "test",
}


def success(data: object) -> HttpReply:
    """The envelope of a success."""
    return json_reply(
        {"data": data, "msg": "操作成功！", "status": "0000", "systemMsg": "服务调用成功！", "systemTime": 1}
    )


def failure(status: str, http: int = 200) -> HttpReply:
    """The envelope of a failure, with the platform's own spelling."""
    members: dict[str, Any] = {"msg": "失败", "status": status, "suceess": False, "systemMsg": "失败", "systemTime": 1}
    return json_reply(members, http)


SPECIMEN = Specimen(
    adapter=ADAPTER,
    config={
        "base_url": "https://supplier.example/",
        "appid": "fd0cac7cd6726d5a4d",
        "appsecret": "specimen-secret-0123456789abcdef",
        "pay_type": "test",
    },
    purchases=(MEMBERSHIP,),
    placed=[
        (Delivered, success({"orderNumber": 1717000000000000001, "tradeNo": MEMBERSHIP.number})),
        (Refused, failure("2001")),
        (NotSent, failure("100003", 401)),
        (Unclear, failure("200001")),
    ],
    found=[
        (Accepted, success({**DETAIL, "orderStatus": "NEW"})),
        (Delivered, success({**DETAIL, "orderStatus": "COMPLETE"})),
        (Absent, failure("0006")),
        (NotSent, failure("100012", 403)),
        (Unclear, success({**DETAIL, "orderStatus": "PAUSED"})),
    ],
    unreachable={Refunded: "settled by agreement: no answer tells of money that came back"},
    token=json_reply({"value": "header.payload.sign", "expiresIn": 7199, "expired": False, "tokenType": "bearer"}),
    products=success([{"productNo": 1001, "productName": "年卡", "price": 10, "vipValue": 1, "vipUnit": 1}]),
    product=success([{"productNo": 1001, "productName": "年卡", "price": 10, "vipValue": 1, "vipUnit": 1}]),
)

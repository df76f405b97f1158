"""Kuaiduibao: one genuine answer for everything that it can say."""

from urllib.parse import urlencode

from reward_adapters.contract import (
    Absent,
    Accepted,
    Callback,
    Delivered,
    NotSent,
    ProductKind,
    Recipient,
    RecipientKind,
    Refunded,
    Refused,
    Unclear,
)
from reward_adapters.kuaiduibao import ADAPTER
from reward_sandbox.kuaiduibao import signature

from .laws import Specimen, example_purchase, json_reply

SECRET = "specimen-secret-0123456789abcdef"
CARD = example_purchase(ProductKind.CARD)
TOPUP = example_purchase(ProductKind.TOPUP, recipient=Recipient(RecipientKind.PHONE, "13812345678", "+86"))
NOTICE = {"status_code": "1", "order_no": "TO01150000066", "out_trade_no": CARD.number}

SPECIMEN = Specimen(
    adapter=ADAPTER,
    config={"base_url": "https://supplier.example/", "app_id": 20160711, "app_secret": SECRET},
    purchases=(CARD, TOPUP, example_purchase(ProductKind.COUPON)),
    placed=[
        (Accepted, json_reply({"code": 0, "data": {"order_no": "TO01150000066"}, "extra": None})),
        (
            Delivered,
            json_reply(
                {
                    "code": 0,
                    "data": {
                        "order_no": "TO01150000066",
                        "cards": [{"card_no": "JDV0000001", "card_pws": "61D0-E24F", "expire_time": "04/28/2029"}],
                    },
                    "extra": None,
                }
            ),
        ),
        (Refused, json_reply({"code": 1, "msg": "商品库存不足", "data": None, "extra": None})),
        (NotSent, json_reply({"error": "invalid_token", "error_description": "expired"}, 401)),
        (Unclear, json_reply({"code": 987654, "msg": "未知错误", "data": None, "extra": None})),
    ],
    unreachable={
        Refunded: "no answer or callback tells of money that came back",
        Absent: "nothing can be asked",
    },
    token=json_reply({"access_token": "a" * 40, "expires_in": 7200, "token_type": "Bearer", "scope": True}),
    callback=Callback(
        urlencode({**NOTICE, "_sign": signature(NOTICE, SECRET)}).encode(), "application/x-www-form-urlencoded"
    ),
)

"""What the Kasushou site sells."""

from decimal import Decimal
from typing import Final

from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import Answer, Behaviour, Card, Scenario, Stage

KIND: Final = "kasushou"

ATTACH: Final[list[dict[str, object]]] = [
    {"type": "text", "name": "充值账号", "key": "recharge_account", "vali": "phone", "tip": "手机号", "options": ""}
]
"""Order template of virtual goods (template page); card goods have none."""


def _card(press: Press) -> Card:
    return {"card_no": f"{CANARY}{press.digits(12)}", "card_password": press.groups(4)}


WAITING: Final = Stage(1)
WORKING: Final = Stage(2)
CANCELLED: Final = Stage(4, refund=True, notify=True, outcome="failed")

_CARDS: Final = (WAITING, WORKING, Stage(3, cards=True, notify=True, outcome="delivered"))

SCENARIOS: Final = (
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
        behaviour=Behaviour(
            (WAITING, WORKING, Stage(3, looks=3, notify=True), Stage(3, cards=True, outcome="delivered")), _card
        ),
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
        behaviour=Behaviour((WAITING, WORKING, Stage(3, notify=True, outcome="delivered"))),
    ),
    Scenario(
        name="out-of-stock",
        product="2912",
        title="卡速售 京东E卡 200元（缺货）",
        description="refused with code 400, nothing is booked",
        kind="card",
        face_value=Decimal("200.00"),
        unit_price=Decimal("197.00"),
        recipient="none",
        behaviour=Behaviour(_CARDS, _card, stock=0),
    ),
    Scenario(
        name="silent",
        product="2913",
        title="卡速售 京东E卡 100元（超时）",
        description="accepted and charged, the answer never comes; detail and callback tell",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(_CARDS, _card, answer=Answer.NEVER),
    ),
    Scenario(
        name="refunded",
        product="2914",
        title="卡速售 京东E卡 100元（退款）",
        description="1, 2, then 5 with everything paid back",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(
            (WAITING, WORKING, Stage(5, refund=True, notify=True, outcome="failed")),
            _card,
        ),
    ),
)

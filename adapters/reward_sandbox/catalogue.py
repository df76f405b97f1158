"""The sandbox as the server's configuration: one supplier account per kind, one product per scenario, as TOML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from reward_sandbox import (
    _kasushou_goods,
    dushu,
    kaquan91_card,
    kaquan91_recharge,
    kasushou,
    kuaiduibao,
)
from reward_sandbox.scenario import Scenario
from reward_sandbox.wire import yuan

_HEADROOM = Decimal("0.50")
"""How far above its present cost an offer may be bought."""


@dataclass(frozen=True, slots=True)
class _Account:
    kind: str
    credentials: Mapping[str, str]
    scenarios: Sequence[Scenario]
    max_units: int
    exact_cost: bool = False
    """The supplier takes its settlement price and nothing else."""
    unguarded: bool = False
    """The supplier's create call has no price guard, so the offer has to allow that."""


_ACCOUNTS = (
    _Account(
        kuaiduibao.KIND,
        {"app_id": kuaiduibao.APP_ID, "app_secret": kuaiduibao.APP_SECRET},
        kuaiduibao.SCENARIOS,
        kuaiduibao.MAX_UNITS,
        unguarded=True,
    ),
    _Account(
        kaquan91_card.KIND,
        {"appid": kaquan91_card.APPID, "appsecret": kaquan91_card.APPSECRET},
        kaquan91_card.SCENARIOS,
        kaquan91_card.MAX_UNITS,
    ),
    _Account(
        kaquan91_recharge.KIND,
        {"appid": kaquan91_recharge.APPID, "appsecret": kaquan91_recharge.APPSECRET},
        kaquan91_recharge.SCENARIOS,
        kaquan91_recharge.MAX_UNITS,
    ),
    _Account(
        _kasushou_goods.KIND,
        {"user_id": kasushou.USER_ID, "apikey": kasushou.APIKEY},
        _kasushou_goods.SCENARIOS,
        kasushou.MAX_UNITS,
    ),
    _Account(
        dushu.KIND,
        {"appid": dushu.APPID, "appsecret": dushu.APPSECRET, "pay_type": dushu.PAY_TYPE},
        dushu.SCENARIOS,
        dushu.MAX_UNITS,
        exact_cost=True,
    ),
)


def catalogue(sandbox_url: str) -> str:
    """TOML text for the server; money is quoted decimal yuan."""
    url = sandbox_url.rstrip("/")
    lines = [f"# Every supplier and scenario of the sandbox at {url}, written by `reward-sandbox products`."]
    for account in _ACCOUNTS:
        lines += ["", f"[suppliers.{account.kind}]"]
        lines += _pairs({"adapter": account.kind, "base_url": f"{url}/{account.kind}/", **account.credentials})
    for account in _ACCOUNTS:
        for scenario in account.scenarios:
            lines += _product(account, scenario)
    return "\n".join(lines) + "\n"


def _product(account: _Account, scenario: Scenario) -> list[str]:
    limit = scenario.unit_cost if account.exact_cost else scenario.unit_cost + _HEADROOM
    lines = [
        "",
        f"# {scenario.description}",
        "[[products]]",
        *_pairs(
            {
                "id": f"{account.kind}/{scenario.name}",
                "kind": scenario.kind,
                "name": scenario.title,
                "face_value": yuan(scenario.face_value),
                "recipient": scenario.recipient,
            }
        ),
        "[[products.offers]]",
        *_pairs(
            {
                "supplier": account.kind,
                "supplier_product": scenario.product,
                "unit_cost": yuan(scenario.unit_cost),
                "max_unit_cost": yuan(limit),
            }
        ),
        f"max_units_per_purchase = {account.max_units}",
    ]
    if account.unguarded:
        lines.append("allow_unguarded = true")
    if scenario.parameters:
        lines.append(f"parameters = {{ {', '.join(_pairs(scenario.parameters))} }}")
    return lines


def _pairs(values: Mapping[str, str]) -> list[str]:
    """`key = "value"`; a JSON string is a TOML basic string as long as it holds no DEL."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

"""The sandbox as the server's configuration: one supplier account per kind, one product per scenario, as TOML."""

import json
from collections.abc import Collection, Mapping
from decimal import Decimal

from reward_sandbox.scenario import Scenario
from reward_sandbox.shops import Shop, shops
from reward_sandbox.wire import yuan

_HEADROOM = Decimal("0.50")
"""How far above its present cost an offer may be bought."""


def catalogue(sandbox_url: str, kinds: Collection[str] = (), products: Collection[str] = ()) -> str:
    """TOML text for the server, of these suppliers and products or of all; money is quoted decimal yuan."""
    url = sandbox_url.rstrip("/")
    chosen = {kind: shop for kind, shop in shops().items() if not kinds or kind in kinds}
    lines = [f"# Every supplier and scenario of the sandbox at {url}, written by `reward-sandbox products`."]
    for kind, shop in chosen.items():
        lines += ["", f"[suppliers.{kind}]"]
        lines += _pairs({"adapter": kind, "base_url": f"{url}/{kind}/", **shop.account})
    for kind, shop in chosen.items():
        for scenario in shop.scenarios:
            if not products or f"{kind}/{scenario.name}" in products:
                lines += _product(kind, shop, scenario)
    return "\n".join(lines) + "\n"


def _product(kind: str, shop: Shop, scenario: Scenario) -> list[str]:
    limit = scenario.unit_cost if shop.exact_cost else scenario.unit_cost + _HEADROOM
    lines = [
        "",
        f"# {scenario.description}",
        "[[products]]",
        *_pairs(
            {
                "id": f"{kind}/{scenario.name}",
                "kind": scenario.kind,
                "name": scenario.title,
                "face_value": yuan(scenario.face_value),
                "recipient": scenario.recipient,
            }
        ),
        "[[products.offers]]",
        *_pairs(
            {
                "supplier": kind,
                "supplier_product": scenario.product,
                "unit_cost": yuan(scenario.unit_cost),
                "max_unit_cost": yuan(limit),
            }
        ),
        f"max_units_per_purchase = {scenario.max_units or shop.max_units}",
    ]
    if shop.unguarded:
        lines.append("allow_unguarded = true")
    if scenario.parameters:
        lines.append(f"parameters = {{ {', '.join(_pairs(scenario.parameters))} }}")
    return lines


def _pairs(values: Mapping[str, str]) -> list[str]:
    """`key = "value"`; a JSON string is a TOML basic string as long as it holds no DEL."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

"""The sample configuration: every key with what it means, its range and its default, made from the settings' classes.

What a key means is the text below its field; so a key that is added there is here without anything to be done.
"""

import ast
import dataclasses
import enum
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from reward_adapters import load_adapter
from reward_adapters.contract import Adapter
from reward_server.config import MASTER_KEY, TABLES
from reward_server.config.accounts import EngineKeys, config_fields, secret_keys
from reward_server.config.products import FormEntry, OfferEntry, ProductEntry
from reward_server.config.sections import Address, ClientEntry, Section

WIDTH = 120

HEAD = """\
A complete configuration of reward-server, printed by `reward-server sample-config`. What is commented out shows the
default, or "= …" where there is none. docs/configuration.md says more about each key, and how to set it by environment.
Check a change with `reward-server check-config --config FILE`, and everything around it with `reward-server doctor`.
"""

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "grpc": {"bind": "127.0.0.1:50051"},
    "http": {"bind": "127.0.0.1:8080"},
    "callbacks": {"public_url": "https://rewards.example.com"},
    "store": {"url": "sqlite:///reward.db"},
}
"""What isn't commented out."""

PLACEHOLDER = "sha256:replace-this-by-the-output-of-new-key"
CLIENTS: tuple[Mapping[str, Any], ...] = (
    {"id": "campaigns", "keys": [PLACEHOLDER], "permissions": ["order", "read", "read_cards"]},
    {"id": "operations-desk", "keys": [PLACEHOLDER], "permissions": ["operate", "read"]},
)

ACCOUNTS: Mapping[str, Mapping[str, Any]] = {
    "kss_a": {"adapter": "kasushou", "base_url": "https://shop.example.com", "user_id": "10001"},
    "cards_91": {"adapter": "kaquan91_card", "base_url": "https://91.example.com", "appid": "19190091"},
    "recharge_91": {"adapter": "kaquan91_recharge", "base_url": "https://91.example.com", "appid": "19190091"},
    "kdb": {"adapter": "kuaiduibao", "base_url": "https://api.open.kuaiduibao.com/", "app_id": 20160711},
    "reading": {
        "adapter": "dushu",
        "base_url": "https://open-platform.dushu.io",
        "appid": "fd0cac7cd6726d5a4d",
        "pay_type": "2",
    },
}

PRODUCTS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (
        "A card that two suppliers sell: the second is tried when the first refuses for product, stock or price.",
        {
            "id": "jd-100",
            "kind": "card",
            "name": "JD gift card 100",
            "face_value": "100.00",
            "offers": (
                {"supplier": "kss_a", "supplier_product": "2909", "unit_cost": "98.50", "max_unit_cost": "99.00"},
                {
                    "supplier": "cards_91",
                    "supplier_product": "184",
                    "unit_cost": "98.80",
                    "max_unit_cost": "99.20",
                    "max_units_per_purchase": 10,
                    "parameters": {"card_type": "1", "auto_confirm_hour": "10"},
                },
            ),
        },
    ),
    (
        "Kuaiduibao has no price guard: what it charges is known only afterwards.",
        {
            "id": "coffee-30",
            "kind": "coupon",
            "name": "Coffee coupon 30",
            "face_value": "30.00",
            "offers": (
                {"supplier": "kdb", "supplier_product": "10001", "unit_cost": "27.00", "allow_unguarded": True},
            ),
        },
    ),
    (
        "",
        {
            "id": "mobile-50",
            "kind": "topup",
            "name": "Mobile top-up 50",
            "face_value": "50.00",
            "recipient": "phone",
            "offers": (
                {
                    "supplier": "recharge_91",
                    "supplier_product": "731",
                    "unit_cost": "49.80",
                    "max_unit_cost": "50.00",
                },
            ),
        },
    ),
    (
        "A product with a field that clients fill in.",
        {
            "id": "game-10",
            "kind": "topup",
            "name": "Game points 10",
            "face_value": "10.00",
            "recipient": "account",
            "form": ({"key": "zone", "label": "Zone", "options": ["east", "west"]},),
            "offers": ({"supplier": "kss_a", "supplier_product": "3001", "unit_cost": "9.80"},),
        },
    ),
    (
        "Dushu takes exactly the price that was agreed on.",
        {
            "id": "reading-year",
            "kind": "membership",
            "name": "Reading club, one year",
            "face_value": "365.00",
            "offers": ({"supplier": "reading", "supplier_product": "188", "unit_cost": "188.00"},),
        },
    ),
)


def sample() -> str:
    """The file."""
    lines = [*_comment(HEAD)]
    for name, model in TABLES.items():
        lines += ["", *_comment(_first(model)), f"[{name}]", *_fields(model, EXAMPLES.get(name, {}))]
    lines += ["", *_secrets(), "", *_clients(), "", *_accounts(), *_products()]
    return "\n".join(lines) + "\n"


def attribute_docs(owner: type[Any]) -> dict[str, str]:
    """The texts below the fields of a class, which Python itself doesn't keep."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class
    found: dict[str, str] = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = inspect.cleandoc(below.value.value)
    return found


# --- Parts ------------------------------------------------------------------------------------------------------------


def _secrets() -> list[str]:
    told = (
        "Made by `reward-server new-master-key FILE`; only its owner may read it. It protects every stored card."
        f" Or give the content by the environment, REWARD_SECRETS__{MASTER_KEY.upper()}: it is refused here."
    )
    return ["[secrets]", *_comment(told), f'{MASTER_KEY}_file = "/run/secrets/reward-master.key"']


def _clients() -> list[str]:
    told = (
        "One entry per client. Replace the placeholders by the output of `reward-server new-key`: the key goes to the"
        " client, its hash here."
    )
    first, *others = CLIENTS
    lines = [*_comment(told), "[[clients]]", *_fields(ClientEntry, first)]
    for client in others:
        lines += ["", "[[clients]]", *_given(client)]
    return lines


def _accounts() -> list[str]:
    told = (
        "Supplier accounts, [suppliers.NAME]. A secret stands in a file of its own (`<key>_file`) or in the"
        " environment, as in REWARD_SUPPLIERS__KSS_A__APIKEY."
    )
    lines = _comment(told)
    for number, (name, given) in enumerate(ACCOUNTS.items()):
        adapter = load_adapter(given["adapter"])
        lines += [f"[suppliers.{name}]", f"adapter = {_toml(given['adapter'])}", *_own_keys(name, adapter, given)]
        if number == 0:
            lines += [
                *_comment("Keys that every account has; what isn't set is as its adapter has it, here Kasushou's.")
            ]
            lines += _engine_keys(adapter, given)
        lines.append("")
    return lines


def _own_keys(name: str, adapter: Adapter[Any], given: Mapping[str, Any]) -> Iterator[str]:
    docs, hidden = attribute_docs(adapter.config), secret_keys(adapter)
    for key, item in config_fields(adapter).items():
        yield from _comment(docs.get(key, ""))
        if key in hidden:
            yield f'{key}_file = "/run/secrets/{name}"'
        elif key in given:
            yield f"{key} = {_toml(given[key])}"
        else:
            default = item.default if item.default is not dataclasses.MISSING else None
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            yield from _commented(key, default)


def _engine_keys(adapter: Adapter[Any], given: Mapping[str, Any]) -> Iterator[str]:
    values = {key: value for key, value in given.items() if key in config_fields(adapter)}
    values |= dict.fromkeys(secret_keys(adapter), "1")
    traits = adapter.supplier(adapter.config(**values)).traits
    overridden = {
        "connect_timeout": traits.connect_timeout,
        "read_timeout": traits.read_timeout,
        "not_found_grace_seconds": traits.not_found_grace,
        "query_horizon_seconds": traits.query_horizon,
        "poll_plan": traits.look_delays,
        "token_renew_margin_seconds": traits.token_margin,
        "send_by_seconds": _same(traits.send_by.values()),
        "settle_by_seconds": _same(traits.settle_by.values()),
        "aftersale_watch": traits.aftersale_watch,
        "aftersale_every": traits.aftersale_every,
    }
    return _fields(EngineKeys, {}, shown=overridden)


def _same(values: Iterable[float]) -> float | None:
    """The value that all have; None where each kind has its own."""
    different = set(values)
    return different.pop() if len(different) == 1 else None


def _products() -> list[str]:
    lines: list[str] = []
    for number, (told, product) in enumerate(PRODUCTS):
        if number == 0:
            lines += [*_comment(told), "[[products]]", *_fields(ProductEntry, product, inner=("form", "offers"))]
        else:
            bare = {key: value for key, value in product.items() if key not in ("form", "offers")}
            lines += [*_comment(told), "[[products]]", *_given(bare)]
        for at, entry in enumerate(product.get("form", ())):
            lines += ["", "[[products.form]]", *(_fields(FormEntry, entry) if at == 0 else _given(entry))]
        for at, offer in enumerate(product["offers"]):
            every_key = number == 0 and at == 0
            lines += ["", "[[products.offers]]", *(_fields(OfferEntry, offer) if every_key else _given(offer))]
        lines.append("")
    return lines[:-1]


# --- Lines ------------------------------------------------------------------------------------------------------------


def _fields(
    model: type[Section],
    given: Mapping[str, Any],
    *,
    shown: Mapping[str, Any] | None = None,
    inner: tuple[str, ...] = (),
) -> Iterator[str]:
    """Every key of a section. `shown`: what stands for defaults that aren't in the class; `inner`: tables below."""
    docs = attribute_docs(model)
    for key, item in model.model_fields.items():
        if key in inner:
            continue
        yield from _comment(f"{docs.get(key, '')}{_range(item)}")
        if key in given:
            yield f"{key} = {_toml(given[key])}"
            continue
        default = None if item.is_required() else item.get_default(call_default_factory=True)
        yield from _commented(key, default if default is not None else (shown or {}).get(key))


def _commented(key: str, default: Any) -> list[str]:
    if default is None or default == math.inf:
        return [f"# {key} = …"]
    return [f"# {key} = {_toml(default)}"]


def _given(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items()]


def _range(item: FieldInfo) -> str:
    """ " (1 to 60)" and the like; what is said of the entries of a list isn't about the list."""
    limits = [item.metadata]
    if typing.get_origin(item.annotation) in (typing.Union, types.UnionType):
        limits += [list(getattr(part, "__metadata__", ())) for part in typing.get_args(item.annotation)]
    said = {
        name: value
        for metadata in limits
        for each in metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(each, name, None)) is not None
    }
    if "le" not in said:
        return ""
    low = _number(said["ge"]) if "ge" in said else f"above {_number(said.get('gt', 0))}"
    return f" ({low} to {_number(said['le'])})"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _comment(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += textwrap.wrap(paragraph, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]


def _first(model: type[Section]) -> str:
    return inspect.getdoc(model) or ""


def _toml(value: Any) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case float() | Decimal():
            return f"{value:g}"
        case int():
            return str(value)
        case enum.Enum():
            return _toml(value.value)
        case Address() | Path() | str():
            return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Mapping():
            inner = ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case _:
            return "[" + ", ".join(_toml(item) for item in value) + "]"


def _key(key: Any) -> str:
    text = str(key)
    return text if text and all(c.isascii() and (c.isalnum() or c in "_-") for c in text) else _toml(text)

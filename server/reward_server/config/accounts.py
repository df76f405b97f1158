"""`[suppliers.NAME]`: the adapter's own keys, and the engine's keys that every account has."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from reward_adapters import adapter_kinds, load_adapter
from reward_adapters.contract import SECRET, Adapter, ProductKind, Supplier, Traits
from reward_server.config.problems import Path, Problems, scrubbed, suggestion
from reward_server.config.sections import Section, url_problem
from reward_server.config.sources import UNUSABLE, Sources, decode, take_secret

NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
"""Single underscores inside only: two separate the levels of an environment variable."""
MAX_NAME_LENGTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One supplier account, ready to use. Durations in seconds."""

    name: str
    adapter: str
    """The adapter's kind."""
    config: Any = field(repr=False)
    """The adapter's own `Config`."""
    supplier: Supplier = field(repr=False)
    """Made of it; its own `traits` know nothing of the account's overrides."""
    traits: Traits
    """The adapter's traits with the account's overrides applied: what the engine goes by."""
    max_in_flight: int
    """Requests at the supplier at a time."""
    answer_patience: float
    """How long an exchange stays open for a late answer."""
    submit_window: float
    """How old an intention to send may be when the request is written."""


class EngineKeys(Section):
    """The keys that every account has, whatever its adapter. None: as the adapter's traits say."""

    max_in_flight: int = Field(16, ge=1, le=10_000)
    connect_timeout: float | None = Field(None, gt=0, le=120)
    read_timeout: float | None = Field(None, gt=0, le=600)
    answer_patience: float = Field(600.0, gt=0, le=3_600)
    submit_window: float = Field(5.0, gt=0, le=60)
    not_found_grace_seconds: float | None = Field(None, ge=0, le=86_400)
    poll_plan: tuple[typing.Annotated[float, Field(gt=0, le=86_400)], ...] | None = Field(None, min_length=1)
    token_renew_margin_seconds: float | None = Field(None, ge=0, le=86_400)
    send_by_seconds: float | None = Field(None, gt=0, le=2_592_000)
    settle_by_seconds: float | None = Field(None, gt=0, le=2_592_000)

    def applied_to(self, traits: Traits) -> Traits:
        """The traits with the overrides that were given."""
        changed: dict[str, Any] = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "not_found_grace": self.not_found_grace_seconds,
            "look_delays": self.poll_plan,
            "token_margin": self.token_renew_margin_seconds,
            "send_by": _for_all(traits.send_by, self.send_by_seconds),
            "settle_by": _for_all(traits.settle_by, self.settle_by_seconds),
        }
        return dataclasses.replace(traits, **{name: value for name, value in changed.items() if value is not None})


def _for_all(kinds: Mapping[ProductKind, float], seconds: float | None) -> dict[ProductKind, float] | None:
    return None if seconds is None else dict.fromkeys(kinds, seconds)


def read_accounts(sources: Sources) -> dict[str, AccountSettings]:
    """All accounts that can be used; problems with the others are added to the list."""
    tables = sources.values.get("suppliers", {})
    if not isinstance(tables, dict):
        sources.problems.add(("suppliers",), "not a table", "write [suppliers.NAME]")
        return {}
    accounts = {}
    for name, table in tables.items():
        account = _account(sources, name, table, set(tables) - {name})
        if account is not None:
            accounts[name] = account
    return accounts


def _account(sources: Sources, name: str, table: object, others: set[str]) -> AccountSettings | None:
    problems, path = sources.problems, ("suppliers", name)
    before = len(problems.found)
    if len(name) > MAX_NAME_LENGTH or not NAME.fullmatch(name):
        mend = f"up to {MAX_NAME_LENGTH} of a-z, 0-9 and single underscores between them"
        problems.add(path, "not a name for an account", mend)
    if not isinstance(table, dict):
        problems.add(path, "not a table", f"write [suppliers.{name}]")
        return None
    raw = dict(table)
    kind = raw.pop("adapter", None)
    if kind is None:
        mend = f"one of: {', '.join(adapter_kinds())}"
        # A mistyped account name in an environment variable makes an account of its own.
        if others and raw and all(sources.from_environment((*path, key)) for key in raw):
            mend = suggestion(name, others)
        problems.add((*path, "adapter"), "missing", mend)
        return None
    if str(kind) not in adapter_kinds():
        problems.add((*path, "adapter"), "unknown adapter", suggestion(str(kind), adapter_kinds()))
        return None
    adapter = load_adapter(str(kind))
    own_keys = config_fields(adapter)
    engine = _engine_keys(problems, path, raw, own_keys)
    config = _adapter_config(sources, path, raw, adapter)
    if engine is None or config is None or len(problems.found) > before:
        return None
    try:
        # An adapter may refuse its configuration in any way it likes.
        supplier = adapter.supplier(config)
    except Exception as error:
        problems.add(path, "the adapter refuses these keys", scrubbed(str(error), _secrets(adapter, config)))
        return None
    return AccountSettings(
        name=name,
        adapter=str(kind),
        config=config,
        supplier=supplier,
        traits=engine.applied_to(supplier.traits),
        max_in_flight=engine.max_in_flight,
        answer_patience=engine.answer_patience,
        submit_window=engine.submit_window,
    )


def config_fields(adapter: Adapter[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The adapter's own keys."""
    return {item.name: item for item in dataclasses.fields(adapter.config)}


def secret_keys(adapter: Adapter[Any]) -> list[str]:
    """Those of them that are secret."""
    return [name for name, item in config_fields(adapter).items() if item.metadata.get(SECRET)]


def _engine_keys(problems: Problems, path: Path, raw: dict[str, Any], own_keys: Mapping[str, Any]) -> EngineKeys | None:
    fields = EngineKeys.model_fields
    # A key that an adapter has under the same name goes to both.
    taken = {key: raw[key] for key in fields if key in raw}
    for key in taken:
        if key not in own_keys:
            del raw[key]
    values = {key: decode(problems, (*path, key), value, fields[key].annotation) for key, value in taken.items()}
    try:
        return EngineKeys.model_validate({key: value for key, value in values.items() if value is not UNUSABLE})
    except ValidationError as error:
        problems.add_invalid(path, error)
        return None


def _adapter_config(sources: Sources, path: Path, raw: dict[str, Any], adapter: Adapter[Any]) -> Any:
    problems = sources.problems
    hints, fields = typing.get_type_hints(adapter.config), config_fields(adapter)
    values: dict[str, Any] = {}
    complete = True
    for key in secret_keys(adapter):
        value = take_secret(sources, path, raw, key)
        # A stand-in lets the other keys be checked too.
        values[key] = "x" if value is None else value
        complete = complete and value is not None
    known = [*fields, *EngineKeys.model_fields, "adapter", *(f"{key}_file" for key in secret_keys(adapter))]
    for key, given in raw.items():
        if key not in fields:
            problems.unknown_key((*path, key), known)
            continue
        value = decode(problems, (*path, key), given, hints[key])
        if value is not UNUSABLE:
            values[key] = value
        elif fields[key].default is dataclasses.MISSING:
            return None
    try:
        config = TypeAdapter(adapter.config).validate_python(values)
    except ValidationError as error:
        problems.add_invalid(path, error, known, hide=[values[key] for key in secret_keys(adapter)])
        return None
    if (problem := url_problem(getattr(config, "base_url", "http://unused"))) is not None:
        problems.add((*path, "base_url"), *problem)
    return config if complete else None


def _secrets(adapter: Adapter[Any], config: Any) -> list[str]:
    return [getattr(config, key) for key in secret_keys(adapter)]

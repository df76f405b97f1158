"""`[suppliers.NAME]`: the adapter's own keys, and the engine's keys that every account has."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from reward_adapters import adapter_kinds, load_adapter
from reward_adapters.contract import SECRET, Adapter, Dealer, ProductKind, Traits
from reward_server.config.problems import Path, Problems, scrubbed, suggestion
from reward_server.config.sections import Networks, Section, read_entry, url_problem
from reward_server.config.sources import UNUSABLE, Sources, decode, take_secret
from reward_server.guard import Network

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
    supplier: Dealer = field(repr=False)
    """Made of it; its own `traits` know nothing of the account's overrides."""
    traits: Traits
    """The adapter's traits with the account's overrides applied: what the engine goes by."""
    max_in_flight: int
    """Requests at the supplier at a time."""
    answer_patience: float
    """How long an exchange stays open for a late answer."""
    submit_window: float
    """How old an intention to send may be when the request is written."""
    max_calls_per_second: float | None = None
    """Requests to the supplier, of any sort; None: as many as there are."""
    callback_networks: tuple[Network, ...] = ()
    """Where its callbacks may come from; none named: from anywhere."""


class EngineKeys(Section):
    """The keys that every account has, whatever its adapter. None: as the adapter's traits say."""

    max_in_flight: int = Field(16, ge=1, le=10_000)
    """Requests at the supplier at a time."""
    max_calls_per_second: float | None = Field(None, ge=0.1, le=10_000)
    """Requests per second, purchases and questions together, over all replicas; unless set no limit."""
    connect_timeout: float | None = Field(None, gt=0, le=120)
    """Seconds for making a connection."""
    read_timeout: float | None = Field(None, gt=0, le=600)
    """Seconds after which the outcome counts as unknown; the exchange stays open."""
    answer_patience: float = Field(600.0, gt=0, le=3_600)
    """Seconds that an exchange stays open for a late answer."""
    submit_window: float = Field(5.0, gt=0, le=60)
    """How old the stored intention may be, in seconds, when a purchase is written."""
    not_found_grace_seconds: float | None = Field(None, ge=0, le=86_400)
    """How long after the last possible write "not found" may still be too early."""
    query_horizon_seconds: float | None = Field(None, ge=0, le=315_360_000)
    """How long the supplier shows a purchase; "not found" later than this proves nothing."""
    poll_plan: tuple[typing.Annotated[float, Field(gt=0, le=86_400)], ...] | None = Field(None, min_length=1)
    """Pauses in seconds between looks at a purchase; the last one repeats."""
    token_renew_margin_seconds: float | None = Field(None, ge=0, le=86_400)
    """Renew an access token so long before its end, or at 20 % of its lifetime if that is less."""
    send_by_seconds: float | None = Field(None, gt=0, le=2_592_000)
    """Not sent so long after its creation: never sent. Unless set by kind."""
    settle_by_seconds: float | None = Field(None, gt=0, le=2_592_000)
    """Not settled so long after the intention to send: a person looks. Unless set by kind."""
    aftersale_watch: float | None = Field(None, ge=0, le=7_776_000)
    """Seconds after a delivery in which something may still become of it; 0: nothing."""
    aftersale_every: float | None = Field(None, gt=0, le=604_800)
    """Pause in seconds between two looks at a delivery meanwhile."""
    callback_networks: Networks = ()
    """Where its callbacks may come from, as in ["203.0.113.0/24"]; empty: from anywhere."""

    def applied_to(self, traits: Traits) -> Traits:
        """The traits with the overrides that were given."""
        changed: dict[str, Any] = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "not_found_grace": self.not_found_grace_seconds,
            "query_horizon": self.query_horizon_seconds,
            "look_delays": self.poll_plan,
            "token_margin": self.token_renew_margin_seconds,
            "send_by": _for_all(traits.send_by, self.send_by_seconds),
            "settle_by": _for_all(traits.settle_by, self.settle_by_seconds),
            "aftersale_watch": self.aftersale_watch,
            "aftersale_every": self.aftersale_every,
        }
        return dataclasses.replace(traits, **{name: value for name, value in changed.items() if value is not None})


def _for_all(kinds: Mapping[ProductKind, float], seconds: float | None) -> dict[ProductKind, float] | None:
    return None if seconds is None else dict.fromkeys(kinds, seconds)


@dataclass(frozen=True, slots=True)
class Seller:
    """What offers are checked against; known of accounts that can't be used, too."""

    adapter: str
    supplier: Dealer


def read_accounts(sources: Sources) -> tuple[dict[str, AccountSettings], dict[str, Seller]]:
    """All accounts that can be used, and all whose adapter is known; problems are added to the list."""
    tables = sources.values.get("suppliers", {})
    accounts: dict[str, AccountSettings] = {}
    sellers: dict[str, Seller] = {}
    if not isinstance(tables, dict):
        sources.problems.add(("suppliers",), "not a table", "write [suppliers.NAME]")
        return accounts, sellers
    for name, table in tables.items():
        before = len(sources.problems.found)
        account = _account(sources, name, table, set(tables) - {name})
        if account is None:
            continue
        sellers[name] = Seller(account.adapter, account.supplier)
        if len(sources.problems.found) == before:
            accounts[name] = account
    return accounts, sellers


def _account(sources: Sources, name: str, table: object, others: set[str]) -> AccountSettings | None:
    """None when it isn't known what the account sells; stand-ins take the place of keys that are wrong."""
    problems, path = sources.problems, ("suppliers", name)
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
        _engine_keys(problems, path, raw, {})
        return None
    if str(kind) not in adapter_kinds():
        problems.add((*path, "adapter"), "unknown adapter", suggestion(str(kind), adapter_kinds()))
        _engine_keys(problems, path, raw, {})
        return None
    adapter = load_adapter(str(kind))
    own_keys = config_fields(adapter)
    engine = _engine_keys(problems, path, raw, own_keys)
    config, sure = _adapter_config(sources, path, raw, adapter)
    if config is None:
        return None
    try:
        # An adapter may refuse its configuration in any way it likes.
        supplier = adapter.supplier(config)
    except Exception as error:
        if sure:
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
        max_calls_per_second=engine.max_calls_per_second,
        callback_networks=engine.callback_networks,
    )


def config_fields(adapter: Adapter[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The adapter's own keys."""
    return {item.name: item for item in dataclasses.fields(adapter.config)}


def secret_keys(adapter: Adapter[Any]) -> list[str]:
    """Those of them that are secret."""
    return [name for name, item in config_fields(adapter).items() if item.metadata.get(SECRET)]


def _engine_keys(problems: Problems, path: Path, raw: dict[str, Any], own_keys: Mapping[str, Any]) -> EngineKeys:
    """Wrong ones have their defaults."""
    fields = EngineKeys.model_fields
    # A key that an adapter has under the same name goes to both.
    taken = {key: raw[key] for key in fields if key in raw}
    for key in taken:
        if key not in own_keys:
            del raw[key]
    values = {key: decode(problems, (*path, key), value, fields[key].annotation) for key, value in taken.items()}
    usable = {key: value for key, value in values.items() if value is not UNUSABLE}
    read = read_entry(EngineKeys, usable, {}, partial(problems.add_invalid, path))
    return EngineKeys.model_validate({}) if read is None else read.values


STAND_IN = "1"
"""For texts and numbers alike."""
UNUSED_URL = "http://unused"


def _adapter_config(sources: Sources, path: Path, raw: dict[str, Any], adapter: Adapter[Any]) -> tuple[Any, bool]:
    """The adapter's configuration with stand-ins for what is wrong (None when none fits), and whether a refusal of it
    would be about what was said.
    """
    problems = sources.problems
    hints, fields = typing.get_type_hints(adapter.config), config_fields(adapter)
    values: dict[str, Any] = {}
    # The keys that stand-ins replace, since their own values are missing or wrong.
    wrong: set[str] = set()
    for key in secret_keys(adapter):
        value = take_secret(sources, path, raw, key)
        values[key] = STAND_IN if value is None else value
        wrong |= {key} if value is None else set()
    known = [*fields, *EngineKeys.model_fields, "adapter", *(f"{key}_file" for key in secret_keys(adapter))]
    for key, given in raw.items():
        if key not in fields:
            problems.unknown_key((*path, key), known)
            continue
        value = decode(problems, (*path, key), given, hints[key])
        if value is not UNUSABLE:
            values[key] = value
        else:
            wrong.add(key)
    base_url = values.get("base_url", UNUSED_URL)
    if isinstance(base_url, str) and (problem := url_problem(base_url)) is not None:
        problems.add((*path, "base_url"), *problem)
        wrong.add("base_url")
        values["base_url"] = UNUSED_URL
    validate = TypeAdapter(adapter.config).validate_python
    # What was reported already isn't missing as well.
    values |= {key: STAND_IN for key in wrong if key not in values and _is_required(fields[key])}
    hide = [values[key] for key in secret_keys(adapter)]
    try:
        return validate(values), wrong <= {*secret_keys(adapter), "base_url"}
    except ValidationError as error:
        problems.add_invalid(path, error, known, hide)
        found = {str(part) for item in error.errors(include_url=False, include_input=False) for part in item["loc"][:1]}
    # Once more without what is wrong: required keys have stand-ins, the others their defaults.
    required = {key for key in found if _is_required(fields[key])}
    good = {key: value for key, value in values.items() if key not in found}
    try:
        return validate({**good, **dict.fromkeys(required, STAND_IN)}), False
    except ValidationError as error:
        if found and found == required:
            # How the other keys go together is checked only when each of them is fine.
            problems.add_invalid(path, error, known, hide)
        return None, False


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _secrets(adapter: Adapter[Any], config: Any) -> list[str]:
    return [getattr(config, key) for key in secret_keys(adapter)]

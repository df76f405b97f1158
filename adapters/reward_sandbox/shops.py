"""The suppliers of the sandbox: every file of this package that exports a `SHOP`; nothing else registers it."""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import reward_sandbox
from reward_sandbox.desk import Supplier
from reward_sandbox.scenario import Scenario
from reward_sandbox.settings import SandboxSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """One supplier: its wire, how an account of it is configured, and what it shows."""

    title: str
    open: Callable[[SandboxSettings], Supplier]
    account: Mapping[str, str]
    """The keys of an account at this sandbox beside `adapter` and `base_url`."""
    scenarios: Sequence[Scenario]
    behaviours: Mapping[int, str]
    """What the supplier does or may do, numbered; each is shown by a scenario, stands in `left_open`, or both."""
    codes: Mapping[str, str]
    """The codes and states that its pages document, and what they mean; a scenario brings each onto the wire."""
    left_open: Mapping[int, str] = field(default_factory=dict)
    """Behaviours that no scenario shows, or shows in part only: which part, and why."""
    callbacks: Collection[str] = ()
    """The names of all callbacks that the control API can send; they say how each differs from the genuine one."""
    max_units: int = 1
    """How many units one purchase of the catalogue's offers may ask for."""
    exact_cost: bool = False
    """The supplier takes its settlement price and nothing else."""
    unguarded: bool = False
    """The supplier's create call has no price guard, so the offers have to allow that."""


@cache
def shops() -> Mapping[str, Shop]:
    """All suppliers by adapter kind."""
    found = {}
    for module in pkgutil.iter_modules(reward_sandbox.__path__):
        if not module.name.startswith("_"):
            shop = getattr(importlib.import_module(f"reward_sandbox.{module.name}"), "SHOP", None)
            if isinstance(shop, Shop):
                found[module.name] = shop
    return found

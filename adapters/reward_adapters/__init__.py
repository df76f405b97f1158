"""One file per supplier. An adapter is a module of this package that exports `ADAPTER`; nothing else registers it."""

import importlib
import pkgutil
from functools import cache
from typing import Any

from reward_adapters.contract import Adapter

__all__ = ["adapter_kinds", "load_adapter"]


@cache
def _adapters() -> dict[str, Adapter[Any]]:
    found = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            adapter = getattr(importlib.import_module(f"{__name__}.{info.name}"), "ADAPTER", None)
            if isinstance(adapter, Adapter):
                found[info.name] = adapter
    return found


def adapter_kinds() -> tuple[str, ...]:
    """The names of all adapters, sorted."""
    return tuple(sorted(_adapters()))


def load_adapter(kind: str) -> Adapter[Any]:
    """The adapter of that name. Raises KeyError for an unknown one."""
    return _adapters()[kind]

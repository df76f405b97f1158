"""Nothing of ours prints a secret, however it is printed: whatever the service holds while it works, and each class."""

import dataclasses
import gc
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import reward_adapters
import reward_server
from reward_sandbox import shops
from reward_server import probes
from reward_server.logs import redact
from rewardservice.v1 import order_pb2

from .canaries import MARK, RECIPIENTS, Search, marked_cards, recipient, scenario_of
from .harness import QUICK, Service, service

PACKAGES = (reward_server, reward_adapters)

ORDERS = (
    "dushu/membership",
    "kaquan91_card/three-cards",
    "kaquan91_card/type-2",
    "kaquan91_recharge/account-name",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "kasushou/card-delayed",
    "kasushou/detail-cards-changed",
    "kuaiduibao/card",
    "kuaiduibao/half-json",
    "kuaiduibao/topup",
    "kuaiduibao/topup-qq",
)

# fmt: off
MET = {
    "Account", "AccountSettings", "App", "Call", "Callback", "CallbackRecord", "Card", "Change", "Client",
    "ClientSealer", "Context", "Delivered", "Evidence", "Happening", "HttpReply", "HttpRequest", "MasterKeys",
    "NewCard", "Notice", "Order", "OrderRequest", "Outlook", "Purchase", "PurchaseRecord", "Recipient", "Settings",
    "Token", "Tokens", "Vault",
}
# fmt: on
"""Types that must have been among what was printed, or the walk misses what matters."""

NO_SECRET = re.compile(r"(key_id|digest|hash|certificate|client_ca|place|after|newest|lost|trailing_metadata)$")
"""Names of bytes that anybody may read: ids of keys, hashes, public certificates, places."""
PLAIN_BYTES = {
    "Answer.body": "what we say to a callback",
}
"""Other fields of bytes that are printed, and what they hold."""

SECRET_NAME = re.compile(r"secret|password|api_?key|access_token|authorization|signature|plaintext")


def ours(value: object) -> bool:
    """Whether it is of a type of the program's own."""
    module = getattr(type(value), "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in {"reward_server", "reward_adapters"}


class Walk:
    """Prints values in every way in which one comes into a log, and looks for secrets."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self.met: set[str] = set()
        self.leaks: dict[str, set[str]] = {}

    def at(self, frame: FrameType | None) -> None:
        """Everything of ours that the functions under way hold."""
        while frame is not None:
            for value in frame.f_locals.values():
                for each in value if isinstance(value, list | tuple) else (value,):
                    self.look(each)
            frame = frame.f_back

    def look(self, value: Any) -> None:
        """One value; others than ours say what they say."""
        if ours(value):
            self.met.add(type(value).__name__)
            logged = redact(None, "info", {"event": "x", "thing": value, "things": [value], "by_name": {"it": value}})
            shown = f"{value!r} {value!s} {value} {[value]} {logged}"
            if found := self._search.found_in(shown.encode()):
                self.leaks.setdefault(type(value).__name__, set()).update(found)


async def test_nothing_that_the_service_holds_prints_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every named moment of orders at all suppliers what the functions under way hold is printed, and in the end
    every object of ours that lives.
    """
    accounts = {
        f"{kind}'s {key}": value
        for kind, shop in shops().items()
        for key, value in shop.account.items()
        if re.search("secret|apikey", key)
    }
    with marked_cards():
        async with service(tmp_path, account={**QUICK, "settle_by_seconds": 2.0}) as running:
            _, _, master_key = (tmp_path / "master.key").read_text().strip().partition(" ")
            walk = Walk(Search({"a card": MARK, "the master key": master_key, **RECIPIENTS, **accounts}))
            monkeypatch.setattr(probes, "probe", lambda _name: walk.at(sys._getframe(1)))
            await order_everything(running)
            desks = [running.sandbox.desk(kind) for kind in ("dushu", "kuaiduibao")]
            tokens = [token for desk in desks for token in desk.tokens._ends]
            late = Walk(Search({"an access token": tokens[0], "another": tokens[-1]}))
            for each in filter(ours, gc.get_objects()):
                walk.look(each)
                late.look(each)
    assert walk.leaks == {}
    assert late.leaks == {}
    assert MET - walk.met == set()


async def order_everything(running: Service) -> None:
    """Until nothing moves."""
    client = running.client
    orders = [await client.create(name, name, recipient=recipient(scenario_of(name))) for name in ORDERS]
    for created in orders:
        order = await client.until(created.order.order_id, lambda order: order.state not in UNDER_WAY)
        await client.get(order.order_id, "EXPLAINED")


UNDER_WAY = (order_pb2.ORDER_STATE_ACCEPTED, order_pb2.ORDER_STATE_PROCESSING, order_pb2.ORDER_STATE_OUTCOME_UNKNOWN)


def data_classes() -> Iterator[type]:
    """All of both packages."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"reward_server", "reward_adapters"}:
            for kind in vars(module).values():
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == name:
                    yield kind


def test_no_class_prints_bytes_or_what_is_named_like_a_secret() -> None:
    """Bytes are bodies, keys and sealed values: whoever adds a field of them hides it, or says here why not."""
    printed = {
        f"{kind.__name__}.{spec.name}"
        for kind in data_classes()
        for spec in dataclasses.fields(kind)
        if spec.repr
        if ("bytes" in str(spec.type) and not NO_SECRET.search(spec.name))
        or ("str" in str(spec.type) and SECRET_NAME.search(spec.name))
    }
    assert printed - set(PLAIN_BYTES) == set()

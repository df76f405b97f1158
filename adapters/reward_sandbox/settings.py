"""What can be set when the sandbox starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

KINDS = ("kuaiduibao", "kaquan91_card", "kaquan91_recharge", "kasushou", "dushu")

DuplicateMode = Literal["reject", "replay", "double"]
SignMode = Literal["notify-only", "encode-all", "lenient"]


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Start values of a sandbox; the defaults are those of the development set-up."""

    host: str = "127.0.0.1"
    port: int = 8090
    """0 takes any free port; read it back from `Sandbox.url`."""
    callback_url: str = "http://127.0.0.1:8080/callbacks/kuaiduibao"
    """Kuaiduibao takes its callback URL from the merchant console, not from the order."""
    step_seconds: float = 0.4
    """How long one stage of an asynchronous order lasts."""
    late_seconds: float = 65.0
    """How long a "slow" answer is kept back: longer than the 60 s clients of 91 wait for an order."""
    callback_scale: float = 1.0
    """Factor on the suppliers' documented gaps between callback attempts; 0 repeats without a pause."""
    token_seconds: float = 7200.0
    """Lifetime of an access token (Kuaiduibao, Dushu)."""
    old_token_dies: bool = False
    """Kuaiduibao only: whether a new token ends the older ones at once (undocumented, so both can be tried)."""
    seed: int = 1
    """Cards and supplier numbers follow from the seed and our order number alone."""
    balance: Decimal = Decimal("100000000.00")
    """Deposit at each supplier, yuan."""
    duplicates: DuplicateMode = "reject"
    """A number seen before: refused, answered again, or (the worst case) bought a second time."""
    sign_mode: SignMode = "notify-only"
    """Which of the two readings of 91's signing rule is checked, or either."""
    kasushou_callback_form: bool = False
    """Kasushou callbacks as form fields instead of JSON; the callback page does not say which."""
    state: Path | None = None
    """File that keeps books, tokens and orders in progress from run to run; it holds cards. None: nothing is kept."""
    clock: Callable[[], float] = time.time
    """Wall clock in Unix seconds: time stamps, clock windows, token expiry."""

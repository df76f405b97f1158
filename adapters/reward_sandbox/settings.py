"""What can be set when the sandbox starts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal

DuplicateMode = Literal["reject", "replay", "double"]
SignMode = Literal["notify-only", "encode-all", "lenient"]
OldTokens = Literal["live", "die"]
CallbackFormat = Literal["json", "form"]
NotFound = Literal["usual", "refused", "empty"]
HttpStatus = Literal["200", "mirror"]
SafePrice = Literal["unit", "total"]
SignedForm = Literal["manual", "recursive", "ascii"]
SiteClock = Literal["right", "fast"]
AllowList = Literal["open", "others"]
TokensLeft = Literal["usual", "none"]
Fee = Literal["unit", "total"]
ListProxy = Literal["none", "page-51", "signed-paging"]

MODES: Final[Mapping[str, tuple[str, ...]]] = {
    "duplicates": ("reject", "replay", "double"),
    "sign_mode": ("notify-only", "encode-all", "lenient"),
    "old_tokens": ("live", "die"),
    "callback_format": ("json", "form"),
    "not_found": ("usual", "refused", "empty"),
    "http_status": ("200", "mirror"),
    "safe_price": ("unit", "total"),
    "signed_form": ("manual", "recursive", "ascii"),
    "site_clock": ("right", "fast"),
    "allow_list": ("open", "others"),
    "tokens_left": ("usual", "none"),
    "fee": ("unit", "total"),
    "list_proxy": ("none", "page-51", "signed-paging"),
}
"""What the suppliers' pages leave open: settings of the same names, which scenarios and the control API change."""


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
    old_tokens: OldTokens = "live"
    """Kuaiduibao only: whether a new token ends the older ones at once (undocumented, so both can be tried)."""
    seed: int = 1
    """Cards and supplier numbers follow from the seed and our order number alone."""
    balance: Decimal = Decimal("100000000.00")
    """Deposit at each supplier, yuan."""
    duplicates: DuplicateMode = "reject"
    """A number seen before: refused, answered again, or (the worst case) bought a second time."""
    sign_mode: SignMode = "notify-only"
    """Which of the two readings of 91's signing rule is checked, or either."""
    callback_format: CallbackFormat = "json"
    """Kasushou callbacks as form fields or as JSON; the callback page does not say which."""
    not_found: NotFound = "usual"
    """91 and Kasushou: a look for an unknown number is refused with a text, or answered with nothing in the list."""
    http_status: HttpStatus = "200"
    """Kasushou: HTTP 200 whatever the envelope says, or a status equal to its code."""
    safe_price: SafePrice = "unit"
    """Kasushou: whether `safe_price` is compared with the price of one or of all."""
    signed_form: SignedForm = "manual"
    """Kasushou: whose spelling of a request the signature must cover; compatible sites sort inner keys, too, or escape
    everything beyond ASCII."""
    site_clock: SiteClock = "right"
    """Kasushou: whether the site's clock is right or ten minutes ahead."""
    allow_list: AllowList = "open"
    """Kasushou, 91 and Dushu: whether the supplier answers every address or only others than the client's."""
    tokens_left: TokensLeft = "usual"
    """Dushu: whether a day's tokens are used up only after many, or at once; the page names no number."""
    fee: Fee = "unit"
    """Dushu: whether `fee` is compared with the price of one or of all."""
    list_proxy: ListProxy = "none"
    """91: what a proxy on the way makes of questions for the product list: it asks for 51 products a page, or signs the
    paging along with the rest."""
    state: Path | None = None
    """File that keeps books, tokens and orders in progress from run to run; it holds cards. None: nothing is kept."""
    keepalive_seconds: float = 75.0
    """How long an idle connection stays open."""
    clock: Callable[[], float] = time.time
    """Wall clock in Unix seconds: time stamps, clock windows, token expiry."""

"""Asks every supplier account something that buys nothing: is it there, and does it know us?"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from reward_adapters.contract import (
    Call,
    Context,
    HttpReply,
    Listing,
    NotOffered,
    NotSent,
    NotSentCause,
    Token,
    Unclear,
)
from reward_adapters.money import Money, show_yuan
from reward_server.clock import Clock
from reward_server.config import AccountSettings, Settings
from reward_server.doctor.findings import Report
from reward_server.doctor.network import reach, say_until
from reward_server.doctor.store import Seen
from reward_server.engine.exchange import IDLE_SECONDS_LOOK, Broken, Exchanges
from reward_server.sealing import ClientSealer, SealError

SKEW_SECONDS = 30.0
"""Answers carry whole seconds and may come from a cache on the way."""

COMPARE = "compare its id and secret with the supplier's console, and have this machine's address put on its list"


async def look_at_suppliers(settings: Settings, seen: Seen, report: Report, *, clock: Clock) -> None:
    """Asks all of them at once."""
    reports = [Report() for _ in settings.accounts]
    work = [
        _look_at_account(settings, account, seen, own, clock)
        for account, own in zip(settings.accounts.values(), reports, strict=True)
    ]
    await asyncio.gather(*work)
    for own in reports:
        report.add(own.findings)
    if not settings.accounts:
        report.hint("suppliers", "no account is configured", "add [suppliers.NAME]: nothing can be bought without")


async def _look_at_account(
    settings: Settings, account: AccountSettings, seen: Seen, report: Report, clock: Clock
) -> None:
    area = f"supplier {account.name}"
    for hold in seen.holds:
        if hold.account == account.name:
            since = datetime.fromtimestamp(hold.at / 1000, UTC)
            what = f"paused by {hold.by} since {since:%Y-%m-%d %H:%M} UTC: {hold.reason}"
            report.hint(area, what, f"when that is over: `rewardctl suppliers resume {account.name}`")
    base_url = str(getattr(account.config, "base_url", ""))
    if base_url:
        reached = await reach(base_url, account.traits.connect_timeout)
        if reached.problem:
            report.problem(area, f"{base_url} can't be reached: {reached.problem}", reached.mend)
            return
        say_until(area, "its certificate", reached.certificate_end, report, clock)
        report.ok(area, f"{base_url} is reached")
    asking = _Asking(settings, account, seen, clock)
    try:
        await asking.ask(report, area)
    finally:
        await asking.close()


class _Asking:
    """The questions to one account, over the same code by which the server asks."""

    def __init__(self, settings: Settings, account: AccountSettings, seen: Seen, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._seen = seen
        self._settings = settings
        traits = account.traits
        self._exchanges = Exchanges(
            clock=clock,
            connect_timeout=traits.connect_timeout,
            read_timeout=traits.read_timeout,
            answer_patience=traits.read_timeout,
            idle_seconds=IDLE_SECONDS_LOOK,
            base_url=getattr(account.config, "base_url", None),
        )
        self._skew: float | None = None
        """How far the supplier's clock is ahead of ours, seconds."""

    async def ask(self, report: Report, area: str) -> None:
        """Its balance, else its products, else nothing but a token."""
        supplier, context = self._account.supplier, Context(self._clock.now())
        token, told = await self._token()
        if isinstance(token, NotSent):
            _say_refused(report, area, token)
            return
        if told:
            report.ok(area, told)
        questions: tuple[Callable[[Context], Call[Any] | NotOffered], ...] = (supplier.balance, supplier.products)
        for question in questions:
            if isinstance(question(context), NotOffered):
                continue
            answer = await self._exchange(question, token)
            if isinstance(answer, NotSent) and answer.cause is NotSentCause.TOKEN_REFUSED:
                # A stored one may have been replaced by the supplier; the server does the same.
                token, _ = await self._token(anew=True)
                answer = token if isinstance(token, NotSent) else await self._exchange(question, token)
            self._say(report, area, answer)
            break
        else:
            if token is None:
                report.hint(
                    area, "it can't be asked anything that buys nothing", "the first order shows whether it works"
                )
        self._say_skew(report, area)

    def _say(self, report: Report, area: str, answer: Any) -> None:
        match answer:
            case Listing(products=products):
                report.ok(area, f"knows us, and lists {len(products)} product{'s' * (len(products) != 1)}")
            case int():
                balance = Money(answer)
                dearest = max(self._costs(), default=0)
                if balance < dearest:
                    what = (
                        f"knows us; the balance, {show_yuan(balance)} yuan, doesn't pay for one unit of every product"
                    )
                    report.problem(area, what, "pay in")
                else:
                    report.ok(area, f"knows us; the balance is {show_yuan(balance)} yuan")
            case NotSent():
                _say_refused(report, area, answer)
            case Unclear(reason=reason):
                mend = "try again; does base_url lead to the right system?"
                report.problem(area, f"its answer isn't understood: {reason}", mend)

    def _costs(self) -> list[int]:
        return [
            offer.unit_cost
            for product in self._settings.products
            for offer in product.offers
            if offer.account == self._account.name
        ]

    def _say_skew(self, report: Report, area: str) -> None:
        if self._skew is not None and abs(self._skew) > SKEW_SECONDS:
            way = "ahead of" if self._skew > 0 else "behind"
            what = f"its clock is {abs(self._skew):.0f} s {way} this machine's"
            report.hint(area, what, "run NTP here; if several suppliers say the same it is this machine")

    async def _token(self, *, anew: bool = False) -> tuple[str | NotSent | None, str]:
        """A token that the supplier takes (None: it needs none), and what came of getting it.

        The server's own is used while it lives: a supplier may take a new one for the end of the old one.
        """
        if not self._account.traits.needs_token:
            return None, ""
        stored = None if anew else self._stored_token()
        if stored is not None:
            return stored
        call = self._account.supplier.fetch_token(Context(self._clock.now()))
        if isinstance(call, NotOffered):
            return None, ""
        reply = await self._reply(call)
        if not isinstance(reply, HttpReply):
            detail = reply.detail if isinstance(reply, NotSent) else reply.reason
            return NotSent(cause=NotSentCause.NO_TOKEN, detail=detail), ""
        token = call.read(reply)
        if not isinstance(token, Token):
            return token, ""
        return token.value, f"knows us: it gave an access token for {token.expires_in:.0f} s (which isn't kept)"

    def _stored_token(self) -> tuple[str, str] | None:
        token = self._seen.tokens.get(self._account.name)
        if token is None or token.expires_at <= self._clock.now_ms():
            return None
        try:
            keys = {
                key.key_id: self._settings.master_keys.unwrap(key) for key in self._seen.keys or () if not key.client_id
            }
            opener = ClientSealer("", keys, {}, b"")
            value = opener.open(token.sealed, "token", self._account.name).decode()
        except (SealError, IndexError):
            return None
        fetched, ends = (datetime.fromtimestamp(at / 1000, UTC) for at in (token.fetched_at, token.expires_at))
        return value, f"gave the server an access token at {fetched:%H:%M} UTC, good until {ends:%Y-%m-%d %H:%M}"

    async def _exchange(self, question: Callable[[Context], Call[Any] | NotOffered], token: str | None) -> Any:
        call = question(Context(self._clock.now(), token))
        if isinstance(call, NotOffered):
            return Unclear("it isn't offered any more")
        reply = await self._reply(call)
        if isinstance(reply, HttpReply):
            return call.read(reply)
        return reply if isinstance(reply, NotSent) else Unclear(reply.reason)

    async def _reply(self, call: Call[Any]) -> HttpReply | NotSent | Broken:
        before = self._clock.now_ms()
        reply = await self._exchanges.ask(call.request)
        after = self._clock.now_ms()
        if isinstance(reply, HttpReply) and (said := _date(reply)) is not None:
            self._skew = said - (before + after) / 2000
        return reply

    async def close(self) -> None:
        """Ends what is open."""
        await self._exchanges.close()


def _say_refused(report: Report, area: str, answer: NotSent) -> None:
    why = f": {answer.detail}" if answer.detail else ""
    match answer.cause:
        case NotSentCause.RATE_LIMITED:
            report.hint(area, f"it has been asked too often{why}", "try again later")
        case NotSentCause.UNREACHABLE:
            report.problem(area, f"it can't be reached{why}", "see whether its base_url is right")
        case NotSentCause.CONFIGURATION | NotSentCause.NO_TOKEN | NotSentCause.TOKEN_REFUSED:
            report.problem(area, f"it refuses us{why}", COMPARE)
        case _:
            report.problem(area, f"it wasn't asked ({answer.cause}){why}", "try again")


def _date(reply: HttpReply) -> float | None:
    try:
        return parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None

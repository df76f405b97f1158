"""Looks at what is reached over the network: a server that runs, the callbacks' public address, and any host's port."""

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from urllib.parse import urlsplit

import aiohttp
import structlog

from reward_server.clock import Clock
from reward_server.config import Address, Settings
from reward_server.doctor.findings import Report
from reward_server.doctor.keys import SOON, VERY_SOON

log = structlog.get_logger(__name__)

AREA = "server"
WHY_FEWER = (
    "`a process ended` and `no process follows yet` in the log say why, as docs/runbook/RewardServerDown.md does;"
    " was grpc.processes raised since the start, restart it when you can"
)

ANSWER_SECONDS = 3.0
CONNECT_SECONDS = 10.0

_VERSION = re.compile(r'^reward_build_info\{.*version="([^"]*)".*\}', re.MULTILINE)
_REVIEWS = re.compile(r'^reward_orders\{state="needs_review"\} ([0-9.e+]+)$', re.MULTILINE)
_PAUSED = re.compile(r'^reward_account_paused\{account="([^"]*)"\} 1\.0$', re.MULTILINE)


# --- A server that runs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a process says of itself, at the address of its metrics and probes."""

    url: str
    ready: bool = False
    why_not: str = ""
    metrics: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it was a server like this that answered."""
        return "reward_build_info" in self.metrics


async def look_at_server(settings: Settings, report: Report) -> bool:
    """Whether a server of this configuration runs, and how it does by its own word: each of its processes."""
    addresses = _ops_addresses(settings)
    limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=limit, trust_env=False) as session:
        answers = await asyncio.gather(*(_ask(session, address) for address in addresses))
    ours = [answer for answer in answers if answer.is_ours]
    if not ours:
        await _look_at_ports(settings, report)
        return False
    for answer in ours:
        if answer.ready:
            report.ok(AREA, f"runs and takes orders, says {answer.url}/readyz")
        else:
            what = f"runs and takes no orders: {answer.why_not or 'no answer'} ({answer.url}/readyz)"
            report.problem(AREA, what, "see docs/operations.md, and its log")
    if silent := [answer.url for answer in answers if not answer.is_ours]:
        what = f"{len(silent)} of {len(answers)} processes don't answer: {', '.join(silent)}"
        report.problem(AREA, what, f"the others serve: leave them; {WHY_FEWER}")
    _look_at_metrics([answer.metrics for answer in ours], report)
    return True


def _ops_addresses(settings: Settings) -> list[Address]:
    """Where each process has its metrics and probes."""
    if (count := settings.grpc.processes) == 1:
        return [settings.ops_address or settings.http.bind]
    each = (settings.of_process(number).ops_address for number in range(count))
    return [address for address in each if address is not None]


async def _ask(session: aiohttp.ClientSession, address: Address) -> _Answer:
    url = f"http://{_reachable(address)}"
    ready, why_not, metrics = False, "", ""
    try:
        async with session.get(f"{url}/readyz") as answer:
            ready, why_not = answer.status == 200, (await answer.text()).strip()[:200]
        async with session.get(f"{url}/metrics") as answer:
            metrics = await answer.text()
    except (aiohttp.ClientError, TimeoutError, OSError):
        log.debug("no server answers", url=url)
    return _Answer(url, ready, why_not, metrics)


def _look_at_metrics(metrics: list[str], report: Report) -> None:
    """What the processes count, each thing told once."""
    installed = version("reward-service")
    running = {found[1] for each in metrics if (found := _VERSION.search(each))}
    for other in sorted(running - {installed}):
        what = f"version {other} runs, and {installed} is installed here"
        report.hint(AREA, what, "restart it to have the installed one")
    if reviews := max((float(found[1]) for each in metrics if (found := _REVIEWS.search(each))), default=0):
        report.hint(AREA, f"{reviews:.0f} order(s) wait for a person", "see `rewardctl review list`")
    for account in sorted({account for each in metrics for account in _PAUSED.findall(each)}):
        report.hint(f"supplier {account}", "the running server buys nothing there", "see `rewardctl suppliers`")


async def _look_at_ports(settings: Settings, report: Report) -> None:
    """Nobody answers as our server would: then nobody else may have its ports."""
    wanted = {"grpc.bind": settings.grpc.bind, "http.bind": settings.http.bind}
    if settings.grpc.tls_client_bind is not None:
        wanted["grpc.tls_client_bind"] = settings.grpc.tls_client_bind
    if settings.ops_address is not None:
        for number, address in enumerate(_ops_addresses(settings)):
            wanted["ops.bind" + f" of process {number}" * (number > 0)] = address
    taken = []
    for key, address in wanted.items():
        here = _reachable(address)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                _, writer = await asyncio.open_connection(here.host, here.port)
            writer.close()
            taken.append(f"{key} ({address})")
    if taken:
        what = f"no server answers, but something listens on {', '.join(taken)}"
        report.problem(AREA, what, "stop it or take another port; `ss -ltnp` shows who it is")
    else:
        report.hint(AREA, "none runs with this configuration", "start it when there is no problem left")


def _reachable(address: Address) -> Address:
    """Where a program of this machine reaches what listens on an address."""
    if address.host in ("0.0.0.0", "::"):  # noqa: S104 - not listened on, only compared
        return Address("127.0.0.1" if address.host == "0.0.0.0" else "::1", address.port)  # noqa: S104
    return address


# --- Where suppliers call back ----------------------------------------------------------------------------------------


async def look_at_callbacks(settings: Settings, report: Report, *, clock: Clock) -> None:
    """Whether `callbacks.public_url` leads somewhere, with a certificate that suppliers believe."""
    area, url = "callbacks", settings.callbacks.public_url
    if not url:
        # The warnings have said so; on loopback nobody from outside could call anyway.
        return
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.path.rstrip("/").endswith("/callbacks"):
        mend = "leave it out: suppliers are told {public_url}/callbacks/{account}"
        report.problem(area, "callbacks.public_url ends with /callbacks already", mend)
    if parts.scheme == "http" and not _is_private(host):
        report.hint(area, "callbacks.public_url is http: callbacks cross the network in the clear", "put TLS in front")
    reached = await reach(url)
    if reached.problem:
        mend = (
            f"{reached.mend}; from inside of some networks the own public address can't be reached: then try it outside"
        )
        report.hint(area, f"{url} can't be reached from here: {reached.problem}", mend)
        return
    say_until(area, f"{host}'s certificate", reached.certificate_end, report, clock)
    report.ok(area, f"{parts.scheme}://{parts.netloc} is reached from here")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


# --- Any host ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of a connection."""

    problem: str = ""
    mend: str = ""
    certificate_end: datetime | None = None


async def reach(url: str, timeout: float = CONNECT_SECONDS) -> Reached:
    """Connects to a URL's host, with TLS if it is https, and writes nothing."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    except ValueError:
        return Reached("no port number", "mend the URL")
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if secure else None)
    except (OSError, TimeoutError) as error:
        return Reached(*_why(error, host, port, timeout))
    end = None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        # Empty without TLS.
        ends = writer.get_extra_info("peercert")["notAfter"]
        end = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    return Reached(certificate_end=end)


def _why(error: Exception, host: str, port: int, timeout: float) -> tuple[str, str]:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate isn't believed: {error.verify_message}",
                "is it the right host, is the clock right?",
            )
        case ssl.SSLError():
            return f"no TLS there: {error.reason or type(error).__name__}", "is it https, and the right port?"
        case socket.gaierror():
            return f"the name {host} isn't known", "mend the URL or the name service"
        case TimeoutError():
            return f"no connection within {timeout:g} s", f"let {host}:{port} out through the firewall"
        case ConnectionRefusedError():
            return f"{host}:{port} refuses connections", "is it the right port, does it run?"
        case _:
            reason = error.strerror if isinstance(error, OSError) else ""
            return reason or type(error).__name__, f"let {host}:{port} out through the firewall"


def say_until(area: str, what: str, end: datetime | None, report: Report, clock: Clock) -> None:
    """Says so if a certificate of somebody else ends soon."""
    left = None if end is None else end - clock.now()
    if end is not None and left is not None and left < SOON:
        say = report.problem if left < VERY_SOON else report.hint
        say(area, f"{what} ends on {end:%Y-%m-%d %H:%M} UTC", "have it renewed")

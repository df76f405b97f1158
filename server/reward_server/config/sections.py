"""The sections with fixed keys. `docs/configuration.md` describes every key for the people who set them."""

import ipaddress
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from reward_adapters.money import Money, yuan
from reward_server.access import Limits, Permission
from reward_server.config.problems import unusable
from reward_server.guard import Network
from reward_server.jwts import read_jwks

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]

LAST_PORT = 65_535


class Section(BaseModel):
    """A table with known keys only; errors never show the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Entry(Generic[S]):
    """One entry of a list, as far as it could be read."""

    values: S
    """Stand-ins where the entry is wrong."""
    wrong: frozenset[str]
    """The keys that are, and were reported."""

    def knows(self, *keys: str) -> bool:
        """Whether these keys were really said."""
        return self.wrong.isdisjoint(keys)


def read_entry(
    model: type[S], raw: object, stand_ins: dict[str, Any], report: Callable[[ValidationError], None]
) -> Entry[S] | None:
    """Reads what can be read, so that a fault in one key hides none in another. None for what is no table at all.

    `stand_ins`: a value that is fine for every required key.
    """
    try:
        return Entry(model.model_validate(raw), frozenset())
    except ValidationError as error:
        report(error)
        if not isinstance(raw, dict):
            return None
        wrong = frozenset(str(item["loc"][0]) for item in error.errors(include_url=False, include_input=False))
    good = {key: value for key, value in raw.items() if key not in wrong}
    return Entry(model.model_validate({**stand_ins, **good}), wrong)


def spelled(pattern: str, mend: str) -> AfterValidator:
    """Texts that match the pattern."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise unusable("not usable", mend)
        return value

    return AfterValidator(check)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def next(self, count: int) -> "Address":
        """The same host, `count` ports higher."""
        return Address(self.host, self.port + count)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """Reads "127.0.0.1:8080", "[::1]:8080", "localhost:8080"."""
    if isinstance(value, Address):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not colon or not port.isascii() or not port.isdigit() or int(port) > LAST_PORT:
        raise unusable("not an address", 'write host and port, as in "127.0.0.1:50051"')
    if (":" in host) != bracketed:
        raise unusable("not an address", 'IPv6 addresses stand in brackets, as in "[::1]:50051"')
    return Address(host, int(port))


def parse_network(value: Any) -> Network:
    """Reads "203.0.113.0/24", "203.0.113.7", "2001:db8::/32"."""
    if not isinstance(value, str):
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return value
        raise unusable("not a network", 'write it in quotes, as in "203.0.113.0/24"')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        mend = 'write an address or a whole network, as in "203.0.113.7" or "203.0.113.0/24"'
        raise unusable("not a network", mend) from None


Networks = tuple[Annotated[Network, BeforeValidator(parse_network)], ...]


def parse_optional_address(value: Any) -> Address | None:
    """The same, or none."""
    return None if value is None else parse_address(value)


Bind = Annotated[Address, BeforeValidator(parse_address)]

_SWITCH: dict[object, Literal["auto"] | bool] = {"auto": "auto", "true": True, "false": False}


def _switch(value: Any) -> Literal["auto"] | bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _SWITCH:
        raise unusable("not usable", 'it should be "auto", true or false')
    return _SWITCH[value.lower()]


Switch = Annotated[Literal["auto"] | bool, BeforeValidator(_switch)]
"""On, off, or as the situation asks for."""


class GrpcSettings(Section):
    """The gRPC server."""

    bind: Bind = Address("127.0.0.1", 50051)
    """Where clients connect. Any address but loopback needs TLS (or `behind_tls_proxy`) and `[[clients]]`."""
    tls_certificate_file: Path | None = None
    """The server's certificate followed by its issuers', PEM; with `tls_key_file`."""
    tls_key_file: Path | None = None
    """Its key, PEM, not encrypted."""
    tls_client_ca_file: Path | None = None
    """The authorities whose client certificates are accepted; every connection then has to show one."""
    tls_client_bind: Annotated[Address | None, BeforeValidator(parse_optional_address)] = None
    """A second address where a client certificate is asked for; `bind` then takes connections without."""
    behind_tls_proxy: bool = False
    """Serve in the clear off loopback, for a proxy elsewhere that ends TLS. Only it may reach the port."""
    reflection: Switch = "auto"
    """Let clients ask for the contract: true, false, or "auto": on loopback only."""
    max_message_bytes: int = Field(262_144, ge=4_096, le=4_194_304)
    """Larger requests are refused."""
    max_connection_age_seconds: float = Field(3_600.0, ge=60, le=604_800)
    """A connection takes no new calls after so long; its streams end with their last token."""
    drain_seconds: float = Field(25.0, ge=0, le=600)
    """How long a stopping server finishes what it began."""
    processes: int = Field(1, ge=1, le=64)
    """How many servers share the ports of this machine, each with a core of its own. More than 1 need PostgreSQL."""

    @property
    def serves_reflection(self) -> bool:
        """Whether reflection is on: by itself on loopback only."""
        return self.bind.is_loopback if self.reflection == "auto" else self.reflection

    @property
    def has_tls(self) -> bool:
        """Whether a certificate is configured."""
        return self.tls_certificate_file is not None and self.tls_key_file is not None


class HttpSettings(Section):
    """The HTTP server for the suppliers' callbacks."""

    bind: Bind = Address("127.0.0.1", 8080)
    """Plain HTTP: put a proxy with TLS in front. On loopback, metrics and probes are served here, too."""


class OpsSettings(Section):
    """The HTTP server for metrics and probes, when callbacks aren't on loopback or there are several processes."""

    bind: Bind = Address("127.0.0.1", 8081)
    """For your own network only. Each further process (`grpc.processes`) takes the next port."""
    channelz: Annotated[Address | None, BeforeValidator(parse_optional_address)] = None
    """Where gRPC tells about its connections and streams (channelz), to tools on this machine: loopback only."""

    @field_validator("channelz")
    @classmethod
    def _is_loopback(cls, value: Address | None) -> Address | None:
        if value is not None and not value.is_loopback:
            # It asks nobody for a key.
            raise ValueError("only a loopback address, as in 127.0.0.1:50061")
        return value


class CallbackSettings(Section):
    """How suppliers reach us."""

    public_url: str | None = None
    """Where suppliers reach `http.bind` from outside; they call {public_url}/callbacks/{account}.

    Unless set it is `http.bind` on loopback, else nobody calls back. "" = suppliers are not told where to call.
    """
    max_body_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    """Larger callbacks are refused, unread."""
    max_per_second_per_source: float = Field(1_000.0, ge=0.1, le=100_000)
    """How often one address may call, on average; five seconds' worth may come at once."""
    trusted_proxies: Networks | None = None
    """Your own proxies: behind them the last other address of X-Forwarded-For is the source."""

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value and (problem := url_problem(value)):
            raise unusable(*problem)
        return value and value.rstrip("/")


class StoreSettings(Section):
    """The database."""

    url: str = Field("sqlite:///reward.db", repr=False)
    """SQLite: "sqlite:///relative/path", "sqlite:////absolute/path". Many replicas: "postgresql://user@host/database"."""
    lease_seconds: float = Field(15.0, ge=1.0, le=300.0)
    """PostgreSQL: how long a replica that says nothing keeps its work; then others take it up."""
    poll_seconds: float = Field(1.0, ge=0.01, le=60.0)
    """PostgreSQL: how often a replica looks for others' updates when no notification comes."""
    connections: int = Field(10, ge=2, le=1000)
    """PostgreSQL: connections of one replica, besides two of its own."""
    behind_pooler: bool = False
    """PostgreSQL: whether a pooler that shares connections by transaction is in between."""

    @field_validator("url")
    @classmethod
    def _is_known(cls, value: str) -> str:
        mend = 'write "sqlite:///relative/path.db", "sqlite:////absolute/path.db" or "postgresql://user@host/database"'
        if value.startswith("postgresql://"):
            return value
        path = value.removeprefix("sqlite:///")
        if path == value or path in ("", ":memory:") or path.endswith("/") or "?" in path:
            raise unusable("not a database file", mend)
        return value


class LoggingSettings(Section):
    """The log."""

    level: LogLevel = "info"
    """debug, info, warning, error."""
    format: LogFormat = "auto"
    """text, json, or auto: text on a terminal, JSON otherwise."""


class StreamSettings(Section):
    """Order update streams."""

    retention_days: int = Field(90, ge=1, le=3_650)
    """How long order updates stay readable for resuming streams. Orders are kept for ever."""
    heartbeat_seconds: int = Field(15, ge=1, le=60)
    """Pause between heartbeats when the client asks for nothing else."""


class CardSettings(Section):
    """What is kept of cards."""

    erase_after_days: int | None = Field(None, ge=1, le=36_500)
    """How many days after its delivery a card's content is erased; unless set it is kept."""


_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_PLACEHOLDER = "replace-this"
"""Begins the hashes of the sample, so that nobody runs with keys that nobody has."""


def _key_hash(value: str) -> str:
    if value.removeprefix("sha256:").startswith(_PLACEHOLDER):
        raise unusable("the sample's placeholder", "replace this by the output of `reward-server new-key`")
    if not _HASH.fullmatch(value):
        mend = "`reward-server new-key` prints a key and its hash; the hash goes here, the key to the client"
        raise unusable('a key isn\'t written as "sha256:" and 64 hex digits', mend)
    return value


class KeyEntry(Section):
    """One of a client's keys."""

    hash: Annotated[str, AfterValidator(_key_hash)]
    expires: AwareDatetime | None = None


def _key_entry(value: Any) -> Any:
    return KeyEntry(hash=_key_hash(value)) if isinstance(value, str) else value


def _money(value: Any) -> Money | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        # Units are for the program alone: in a file a number without quotes is a mistake.
        raise unusable("not an amount", 'write yuan in quotes, as in "5000.00"')
    try:
        amount = yuan(str(value))
    except ValueError as error:
        raise unusable(str(error), 'write yuan in quotes, as in "5000.00"') from None
    if amount < 0:
        raise unusable("less than nothing", 'write yuan in quotes, as in "5000.00"')
    return amount


class ClientEntry(Section):
    """One `[[clients]]` entry."""

    id: Annotated[str, spelled(r"[A-Za-z0-9._-]{1,64}", "write 1 to 64 of A-Z a-z 0-9 . _ -")]
    """1 to 64 of A-Z a-z 0-9 . _ -; orders belong to it, so it never changes."""
    keys: tuple[Annotated[KeyEntry, BeforeValidator(_key_entry)], ...] = Field((), repr=False)
    """Hashes of its keys, or { hash = "sha256:…", expires = 2027-01-31T00:00:00Z }; two while one is replaced."""
    certificate_names: frozenset[Annotated[str, Field(min_length=1, max_length=1_024)]] = frozenset()
    """Names of its certificates (URI, DNS name or common name), with `grpc.tls_client_ca_file`."""
    permissions: frozenset[Permission] = Field(min_length=1)
    """order, read, read_cards; operate (with read) for the people who run the service."""
    calls_per_second: float | None = Field(None, gt=0, le=1_000_000)
    """At each replica; a second's worth may come at once."""
    open_streams: int | None = Field(None, ge=0, le=1_000_000)
    """At each replica."""
    orders_in_flight: int | None = Field(None, ge=0, le=1_000_000)
    """Orders that haven't ended, over all replicas."""
    spend_per_day: Annotated[Money | None, BeforeValidator(_money)] = None
    """Quoted yuan that the orders of one UTC day may cost at worst, over all replicas."""

    @property
    def limits(self) -> Limits:
        """How much it may do."""
        return Limits(self.calls_per_second, self.open_streams, self.orders_in_flight, self.spend_per_day)


CLIENT_STAND_INS: dict[str, Any] = {"id": "x", "permissions": ["read"]}


class JwtSettings(Section):
    """The issuer whose tokens clients may show."""

    issuer: str | None = Field(None, min_length=1, max_length=1_024)
    """The claim `iss` that tokens have to carry; without it no token is accepted."""
    audience: str | None = Field(None, min_length=1, max_length=1_024)
    """The claim `aud`, or one of its entries."""
    jwks_file: Path | None = None
    """The issuer's public keys, a JSON Web Key Set; this or `jwks_url`."""
    jwks_url: str | None = None
    """Where the issuer publishes them: https."""
    client_claim: str = Field("sub", min_length=1, max_length=200)
    """The claim that holds the client's `id`."""
    leeway_seconds: float = Field(30.0, ge=0, le=300)
    """By how much the issuer's clock may differ."""
    refresh_seconds: float = Field(300.0, ge=10, le=86_400)
    """How often the keys are read again."""

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is None:
            return value
        parts = urlsplit(value)
        host = parts.hostname or ""
        safe = parts.scheme == "https" or (parts.scheme == "http" and Address(host, 0).is_loopback)
        if not safe or not host or parts.username or parts.password or any(c in value for c in " \t\r\n"):
            raise unusable("not usable", "write an https URL; http is for 127.0.0.1 only")
        return value

    @property
    def is_set(self) -> bool:
        """Whether tokens are accepted."""
        return self.issuer is not None


class TracingSettings(Section):
    """Traces of orders, for OpenTelemetry."""

    endpoint: str | None = None
    """Where a collector takes them (OTLP over gRPC), as in http://127.0.0.1:4317; unless set nothing is traced."""
    sample_ratio: float = Field(1.0, ge=0, le=1)
    """The share of calls that is traced; of calls that say so themselves (`traceparent`) those that want it are."""

    @field_validator("endpoint")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        if value is None:
            return value
        mend = 'write it like "http://127.0.0.1:4317" or "https://collector.example.com:4317", without path or password'
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise unusable("not a collector's address", mend) from None
        whole = f"{parts.scheme}://{parts.netloc}"
        if parts.scheme not in ("http", "https") or not parts.hostname or not port or "@" in value or " " in value:
            raise unusable("not a collector's address", mend)
        if value.rstrip("/") != whole:
            raise unusable("not a collector's address", mend)
        return whole


def url_problem(value: str) -> tuple[str, str] | None:
    """What is wrong with an http(s) URL that gets paths appended, and how to mend it."""
    scheme, _, rest = value.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host or any(c in value for c in "?#@ \t\r\n"):
        return "not a URL", 'write it like "https://rewards.example.com", without query or password'
    return None


def tls_problems(certificate: Path, key: Path) -> list[tuple[str, str, str]]:
    """What is wrong with a certificate and its key: which key of [grpc], what, and how to mend it."""
    chain, chain_problem = _read_tls("tls_certificate_file", certificate, _public_key_of_chain)
    private, key_problem = _read_tls("tls_key_file", key, _public_key_of_key)
    if chain_problem or key_problem:
        return [problem for problem in (chain_problem, key_problem) if problem]
    if chain != private:
        what = f"{key.absolute()} isn't the key of the first certificate in {certificate.absolute()}"
        return [("tls_key_file", what, "the server's own certificate comes first, its issuers' after it")]
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "unknown reason"
        return [("tls_certificate_file", f"OpenSSL refuses {certificate.absolute()}: {reason}", "make another one")]
    return []


def _read_tls(
    name: str, file: Path, read: Callable[[bytes], bytes]
) -> tuple[bytes | None, tuple[str, str, str] | None]:
    """The public key that belongs to a file, or the problem with it."""
    try:
        return read(file.read_bytes()), None
    except OSError as error:
        what = f"can't read {file.absolute()}: {error.strerror or 'unknown reason'}"
        return None, (name, what, "create it or mend its rights")
    except TypeError:
        return None, (name, f"{file.absolute()} is encrypted", "write the key without a password: `openssl pkey` does")
    except Exception:
        # Whatever cryptography makes of a file that isn't one.
        what = "certificate chain" if name == "tls_certificate_file" else "private key"
        mend = "it is a text that begins with -----BEGIN"
        return None, (name, f"{file.absolute()} isn't a {what} in PEM form", mend)


def client_ca_problem(file: Path) -> tuple[str, str] | None:
    """What is wrong with the certificates that clients' certificates are checked against."""
    _, problem = _read_tls("tls_certificate_file", file, _public_key_of_chain)
    return problem and problem[1:]


def jwks_problem(file: Path) -> tuple[str, str] | None:
    """What is wrong with a file of an issuer's keys."""
    try:
        read_jwks(file.read_bytes())
    except OSError as error:
        return f"can't read {file.absolute()}: {error.strerror or 'unknown reason'}", "create it or mend its rights"
    except ValueError as error:
        return f"{file.absolute()}: {error}", "it is what the issuer publishes as its JSON Web Key Set"
    return None


def _public_key_of_chain(pem: bytes) -> bytes:
    return _spki(x509.load_pem_x509_certificates(pem)[0].public_key())


def _public_key_of_key(pem: bytes) -> bytes:
    return _spki(serialization.load_pem_private_key(pem, None).public_key())


def _spki(public_key: Any) -> bytes:
    encoded: bytes = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded

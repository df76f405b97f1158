"""The sections with fixed keys. `docs/configuration.md` describes every key for the people who set them."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from reward_server.access import Permission
from reward_server.config.problems import unusable

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


class Section(BaseModel):
    """A table with known keys only; errors never show the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


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

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """Reads "127.0.0.1:8080", "[::1]:8080", "localhost:8080"."""
    if isinstance(value, Address):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise unusable("not an address", 'write host and port, as in "127.0.0.1:50051"')
    if (":" in host) != bracketed:
        raise unusable("not an address", 'IPv6 addresses stand in brackets, as in "[::1]:50051"')
    return Address(host, int(port))


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
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    reflection: Switch = "auto"
    max_message_bytes: int = Field(262_144, ge=4_096, le=4_194_304)
    drain_seconds: float = Field(25.0, ge=0, le=600)

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


class OpsSettings(Section):
    """The HTTP server for metrics and probes, when callbacks aren't on loopback."""

    bind: Bind = Address("127.0.0.1", 8081)


class CallbackSettings(Section):
    """How suppliers reach us."""

    public_url: str | None = None
    max_body_bytes: int = Field(65_536, ge=1_024, le=16_777_216)

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and (problem := url_problem(value)):
            raise unusable(*problem)
        return value and value.rstrip("/")


class StoreSettings(Section):
    """The database."""

    url: str = Field("sqlite:///reward.db", repr=False)

    @field_validator("url")
    @classmethod
    def _is_known(cls, value: str) -> str:
        mend = 'write "sqlite:///relative/path.db" or "sqlite:////absolute/path.db"'
        if value.startswith(("postgresql:", "postgres:")):
            raise unusable("PostgreSQL isn't supported by this version", mend)
        path = value.removeprefix("sqlite:///")
        if path == value or path in ("", ":memory:") or path.endswith("/") or "?" in path:
            raise unusable("not a database file", mend)
        return value


class LoggingSettings(Section):
    """The log."""

    level: LogLevel = "info"
    format: LogFormat = "auto"


class StreamSettings(Section):
    """Order update streams."""

    retention_days: int = Field(90, ge=1, le=3_650)
    heartbeat_seconds: int = Field(15, ge=1, le=60)


CLIENT_ID = r"^[A-Za-z0-9._-]{1,64}$"
_HASH_LENGTH = 64


class ClientEntry(Section):
    """One `[[clients]]` entry."""

    id: str = Field(pattern=CLIENT_ID)
    keys: tuple[str, ...] = Field(min_length=1, repr=False)
    permissions: frozenset[Permission] = Field(min_length=1)

    @field_validator("keys")
    @classmethod
    def _are_hashes(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            scheme, _, digest = key.partition(":")
            if scheme != "sha256" or len(digest) != _HASH_LENGTH or set(digest) - set("0123456789abcdef"):
                mend = "`reward-server new-key` prints a key and its hash; the hash goes here, the key to the client"
                raise unusable('a key isn\'t written as "sha256:" and 64 hex digits', mend)
        return keys


def url_problem(value: str) -> tuple[str, str] | None:
    """What is wrong with an http(s) URL that gets paths appended, and how to mend it."""
    scheme, _, rest = value.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host or any(c in value for c in "?#@ \t\r\n"):
        return "not a URL", 'write it like "https://rewards.example.com", without query or password'
    return None


def tls_problem(certificate: Path, key: Path) -> str | None:
    """Why a certificate and its key can't be used; None when they can."""
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            return f"can't read {file.absolute()}: {error.strerror or 'unknown reason'}"
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        return "the certificate and the unencrypted PEM key don't belong together, or aren't PEM"
    return None

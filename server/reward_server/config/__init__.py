"""The configuration: one TOML file, environment variables over it, secrets beside it.

    settings = load_settings(Path("reward.toml"), os.environ)

Raises `ConfigError` with every problem at once, each with its key, its line and how to mend it. No secret and no value
of an unknown key ever stands in an error or a `repr`. Keys and defaults: `docs/configuration.md`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reward_server.access import DEV_CLIENTS, HASH_PREFIX, Client
from reward_server.catalogue import Product
from reward_server.config.accounts import AccountSettings, EngineKeys, read_accounts
from reward_server.config.problems import ConfigError, Problem
from reward_server.config.products import FormEntry, OfferEntry, ProductEntry, read_products
from reward_server.config.sections import (
    CLIENT_STAND_INS,
    LAST_PORT,
    Address,
    CallbackSettings,
    CardSettings,
    ClientEntry,
    GrpcSettings,
    HttpSettings,
    JwtSettings,
    LoggingSettings,
    OpsSettings,
    S,
    Section,
    StoreSettings,
    StreamSettings,
    TracingSettings,
    client_ca_problem,
    jwks_problem,
    read_entry,
    tls_problems,
)
from reward_server.config.sources import UNUSABLE, Sources, decode, take_secret, variable_name
from reward_server.sealing import MasterKeyRefused, MasterKeys

__all__ = [
    "AccountSettings",
    "Address",
    "CallbackSettings",
    "CardSettings",
    "ConfigError",
    "GrpcSettings",
    "HttpSettings",
    "JwtSettings",
    "LoggingSettings",
    "OpsSettings",
    "Problem",
    "Settings",
    "StoreSettings",
    "StreamSettings",
    "TracingSettings",
    "known_keys",
    "load_settings",
]

MASTER_KEY = "master_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was configured, checked and with its defaults filled in."""

    grpc: GrpcSettings
    http: HttpSettings
    ops: OpsSettings
    callbacks: CallbackSettings
    store: StoreSettings
    logging: LoggingSettings
    stream: StreamSettings
    cards: CardSettings
    tracing: TracingSettings
    jwt: JwtSettings
    master_keys: MasterKeys = field(repr=False)
    clients: tuple[Client, ...]
    """The configured clients, or the development clients."""
    uses_dev_keys: bool
    accounts: Mapping[str, AccountSettings]
    products: tuple[Product, ...]
    file: Path | None = None
    """Where it was read from; None: from the environment only."""
    read_again: "Callable[[], Settings] | None" = field(default=None, repr=False, compare=False)
    """Reads the same file and variables as they are then. Raises ConfigError."""
    process: int | None = None
    """Which of `grpc.processes` this is, from 0; None: the only one, or the parent of all."""

    def of_process(self, number: int) -> "Settings":
        """As one of several processes has them."""
        return replace(self, process=number)

    @property
    def shares_ports(self) -> bool:
        """Whether other processes listen where this one does."""
        return self.process is not None

    @property
    def shared_addresses(self) -> Mapping[str, Address]:
        """Where several processes would listen together, by key."""
        second = self.grpc.tls_client_bind
        more = {} if second is None else {"grpc.tls_client_bind": second}
        return {"grpc.bind": self.grpc.bind, **more, "http.bind": self.http.bind}

    @property
    def ops_address(self) -> Address | None:
        """Where metrics and probes are served, of several processes at this one or the first; None: beside the
        callbacks.
        """
        if self.http.bind.is_loopback and self.grpc.processes == 1 and not self.shares_ports:
            return None
        return self.ops.bind.next(self.process or 0)

    @property
    def channelz_address(self) -> Address | None:
        """Where channelz is served, at this process or the first; None: nowhere."""
        return self.ops.channelz and self.ops.channelz.next(self.process or 0)

    @property
    def callback_url(self) -> str | None:
        """What suppliers may call, without the account's name; None: nothing that they could reach is known."""
        base = self.callbacks.public_url
        if base is None and self.http.bind.is_loopback:
            base = f"http://{self.http.bind}"
        return f"{base}/callbacks" if base else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but should be known: for the log at start and for check-config."""
        found = []
        if self.uses_dev_keys:
            found.append("published development keys are accepted (loopback only); configure [[clients]] for real use")
        if self.callback_url is None:
            found.append("callbacks.public_url isn't set: suppliers can't call back, only queries bring news")
        if self.grpc.behind_tls_proxy and not self.grpc.has_tls and not self.grpc.bind.is_loopback:
            found.append(f"grpc.behind_tls_proxy: {self.grpc.bind} is served in the clear; only the proxy may reach it")
        found += [
            f"suppliers.{account.name}.base_url is http: secrets cross the network in the clear"
            for account in self.accounts.values()
            if _speaks_plainly(getattr(account.config, "base_url", ""))
        ]
        return tuple(found)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Reads the file (None: environment only) and the variables over it. Raises ConfigError with every problem."""
    sources = Sources(path, environ, known_keys())
    problems = sources.problems
    for name in sources.values:
        if name not in TABLES and name not in _OTHERS:
            problems.unknown_key((name,), [*TABLES, *_OTHERS])
    grpc = _section(sources, "grpc", GrpcSettings)
    http = _section(sources, "http", HttpSettings)
    ops = _section(sources, "ops", OpsSettings)
    callbacks = _section(sources, "callbacks", CallbackSettings)
    store = _section(sources, "store", StoreSettings)
    logging = _section(sources, "logging", LoggingSettings)
    stream = _section(sources, "stream", StreamSettings)
    cards = _section(sources, "cards", CardSettings)
    tracing = _section(sources, "tracing", TracingSettings)
    master_keys = _master_keys(sources)
    jwt = _section(sources, "jwt", JwtSettings)
    _check_jwt(sources, jwt)
    clients = _clients(sources, takes_tokens=bool(sources.values.get("jwt")))
    _check_exposure(sources, grpc)
    _check_processes(sources, grpc, http, ops, store)
    accounts, suppliers = read_accounts(sources)
    products = read_products(sources, suppliers)
    problems.finish()
    assert master_keys is not None  # noqa: S101 - else there were problems
    return Settings(
        grpc=grpc,
        http=http,
        ops=ops,
        callbacks=callbacks,
        store=store,
        logging=logging,
        stream=stream,
        cards=cards,
        tracing=tracing,
        jwt=jwt,
        master_keys=master_keys,
        clients=clients or DEV_CLIENTS,
        uses_dev_keys=not clients,
        accounts=accounts,
        products=products,
        file=path,
        read_again=partial(load_settings, path, environ),
    )


TABLES: dict[str, type[Section]] = {
    "grpc": GrpcSettings,
    "http": HttpSettings,
    "ops": OpsSettings,
    "callbacks": CallbackSettings,
    "store": StoreSettings,
    "logging": LoggingSettings,
    "stream": StreamSettings,
    "cards": CardSettings,
    "tracing": TracingSettings,
    "jwt": JwtSettings,
}
_OTHERS: dict[str, type[Section] | None] = {
    "secrets": None,
    "clients": ClientEntry,
    "suppliers": EngineKeys,
    "products": ProductEntry,
}


def known_keys() -> list[str]:
    """Every key whose name is fixed, as in "grpc.bind", "suppliers.NAME.read_timeout", "products.offers.unit_cost"."""
    keys = [f"{name}.{key}" for name, model in TABLES.items() for key in model.model_fields]
    keys += [f"secrets.{MASTER_KEY}", f"secrets.{MASTER_KEY}_file"]
    keys += [f"clients.{key}" for key in ClientEntry.model_fields]
    keys += [f"suppliers.NAME.{key}" for key in ("adapter", *EngineKeys.model_fields)]
    keys += [f"products.{key}" for key in ProductEntry.model_fields]
    keys += [f"products.offers.{key}" for key in OfferEntry.model_fields]
    keys += [f"products.form.{key}" for key in FormEntry.model_fields]
    return keys


def _section(sources: Sources, name: str, model: type[S]) -> S:
    """The section. Keys with problems, which are added to the list, get their defaults: the others are checked on."""
    problems, raw = sources.problems, sources.values.get(name, {})
    fields = model.model_fields
    if not isinstance(raw, dict):
        problems.add((name,), "not a table", f"write [{name}]")
        return model()
    values: dict[str, Any] = {}
    for key, value in raw.items():
        wanted = fields[key].annotation if key in fields else None
        if (decoded := decode(problems, (name, key), value, wanted)) is not UNUSABLE:
            values[key] = decoded
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems.add_invalid((name,), error, fields)
        wrong = {item["loc"][0] for item in error.errors(include_url=False, include_input=False)}
        return model.model_validate({key: value for key, value in values.items() if key not in wrong})


def _master_keys(sources: Sources) -> MasterKeys | None:
    raw = sources.values.get("secrets", {})
    if not isinstance(raw, dict):
        sources.problems.add(("secrets",), "not a table", "write [secrets]")
        return None
    rest = dict(raw)
    file = rest.get(f"{MASTER_KEY}_file")
    # Never in the configuration file: that is copied, mailed and committed more readily than a file of its own.
    text = take_secret(sources, ("secrets",), rest, MASTER_KEY, in_file=False)
    for unknown in rest:
        sources.problems.unknown_key(("secrets", unknown), [f"{MASTER_KEY}_file"])
    if text is None:
        return None
    try:
        if sources.from_environment(("secrets", MASTER_KEY)):
            return MasterKeys.parse(text, variable_name(("secrets", MASTER_KEY)))
        return MasterKeys.read(Path(str(file)))
    except MasterKeyRefused as error:
        mend = "`reward-server new-master-key FILE` writes one as it has to be"
        sources.problems.add(("secrets", f"{MASTER_KEY}_file"), str(error), mend)
        return None


def _clients(sources: Sources, *, takes_tokens: bool) -> tuple[Client, ...]:
    problems, raw = sources.problems, sources.values.get("clients", [])
    if not isinstance(raw, list):
        problems.add(("clients",), "not a list", "write [[clients]] with double brackets")
        return ()
    clients: dict[str, Client] = {}
    names: dict[str, int] = {}
    owners = {hash_: f"the development client {dev.client_id!r}" for dev in DEV_CLIENTS for hash_ in dev.key_hashes}
    for index, entry in enumerate(raw):
        report = partial(problems.add_invalid, ("clients", index), known=ClientEntry.model_fields)
        read = read_entry(ClientEntry, entry, CLIENT_STAND_INS, report)
        if read is None:
            continue
        checked = read.values
        if checked.id in clients and read.knows("id"):
            problems.add(("clients", index, "id"), f"a second client {checked.id!r}", "ids are unique")
        keys = checked.keys if read.knows("keys") else ()
        hashes = tuple(key.hash.removeprefix(HASH_PREFIX) for key in keys)
        if read.knows("keys", "certificate_names") and not (keys or checked.certificate_names or takes_tokens):
            mend = "the list is empty; write at least one, or certificate_names, or a [jwt] issuer"
            problems.add(("clients", index, "keys"), "nothing would show who this client is", mend)
        for name in checked.certificate_names:
            if names.setdefault(name, index) != index:
                what = f"{name!r} belongs to clients[{names[name]}] already"
                problems.add(("clients", index, "certificate_names"), what, "a name stands for one client")
        for hash_ in hashes:
            if hash_ in owners:
                what = f"this key belongs to {owners[hash_]}"
                problems.add(("clients", index, "keys"), what, "make another one with `reward-server new-key`")
            owners[hash_] = f"clients[{index}]"
        if read.knows("id"):
            clients[checked.id] = Client(
                checked.id,
                hashes,
                checked.permissions,
                key_ends={
                    hash_: int(key.expires.timestamp() * 1000)
                    for hash_, key in zip(hashes, keys, strict=True)
                    if key.expires is not None
                },
                certificate_names=checked.certificate_names,
                limits=checked.limits,
            )
    return tuple(clients.values())


def _check_jwt(sources: Sources, jwt: JwtSettings) -> None:
    problems, said = sources.problems, sources.values.get("jwt", {})
    if not said or not isinstance(said, dict):
        return
    for key in ("issuer", "audience"):
        if key not in said:
            problems.add(("jwt", key), "missing", "issuer and audience are set together: tokens have to carry both")
    if ("jwks_file" in said) == ("jwks_url" in said):
        problems.add(("jwt", "jwks_file"), "not set, or jwks_url too", "set one of jwt.jwks_file and jwt.jwks_url")
    if jwt.jwks_file is not None and (problem := jwks_problem(jwt.jwks_file)):
        problems.add(("jwt", "jwks_file"), *problem)


def _check_exposure(sources: Sources, grpc: GrpcSettings) -> None:
    problems, said = sources.problems, sources.values.get("grpc", {})
    certificate, key = grpc.tls_certificate_file, grpc.tls_key_file
    lacking = [name for name in ("tls_certificate_file", "tls_key_file") if name not in said]
    if len(lacking) == 1:
        problems.add(("grpc", lacking[0]), "missing", "certificate and key are set together")
    elif certificate is not None and key is not None:
        for name, what, mend in tls_problems(certificate, key):
            problems.add(("grpc", name), what, mend)
    if grpc.tls_client_ca_file is not None:
        if len(lacking) == 2:
            mend = "set grpc.tls_certificate_file and grpc.tls_key_file too"
            problems.add(("grpc", "tls_client_ca_file"), "clients' certificates are checked over TLS only", mend)
        if problem := client_ca_problem(grpc.tls_client_ca_file):
            problems.add(("grpc", "tls_client_ca_file"), *problem)
    elif grpc.tls_client_bind is not None:
        problems.add(
            ("grpc", "tls_client_bind"), "no grpc.tls_client_ca_file", "clients' certificates are checked there"
        )
    if grpc.bind.is_loopback and (grpc.tls_client_bind is None or grpc.tls_client_bind.is_loopback):
        return
    bind = grpc.tls_client_bind if grpc.bind.is_loopback else grpc.bind
    elsewhere = f"{bind} can be reached from other machines"
    if len(lacking) == 2 and not grpc.behind_tls_proxy:
        mend = (
            "set grpc.tls_certificate_file and grpc.tls_key_file, or bind to 127.0.0.1 behind a proxy that has TLS; "
            "grpc.behind_tls_proxy = true if that proxy is on another machine"
        )
        problems.add(("grpc", "bind"), f"{elsewhere}, but there is no TLS", mend)
    if not sources.values.get("clients"):
        mend = "add [[clients]] with a key of `reward-server new-key`; the development keys work on loopback only"
        problems.add(("grpc", "bind"), f"{elsewhere}, but no client is configured", mend)


def _check_processes(
    sources: Sources, grpc: GrpcSettings, http: HttpSettings, ops: OpsSettings, store: StoreSettings
) -> None:
    if grpc.processes == 1:
        return
    problems = sources.problems
    if sys.platform != "linux":
        mend = "set it to 1, and give each server a port of its own behind a balancer"
        problems.add(("grpc", "processes"), "only Linux deals connections out to several processes", mend)
    if not store.url.startswith("postgresql://"):
        mend = 'set store.url = "postgresql://user@host/database", or grpc.processes to 1'
        problems.add(("grpc", "processes"), f"{grpc.processes} processes, but a SQLite file belongs to one", mend)
    # Port 0 would be another one for each process.
    for section, key, address in (
        ("grpc", "bind", grpc.bind), ("grpc", "tls_client_bind", grpc.tls_client_bind), ("http", "bind", http.bind),
        ("ops", "bind", ops.bind), ("ops", "channelz", ops.channelz),
    ):  # fmt: skip
        if address is not None and address.port == 0:
            problems.add((section, key), "no port", "several processes (grpc.processes) need one that is known")
    for key, first in (("bind", ops.bind), ("channelz", ops.channelz)):
        if first is not None and first.port + grpc.processes - 1 > LAST_PORT:
            what = f"{grpc.processes} processes take a port each from here on, and the last one is {LAST_PORT}"
            problems.add(("ops", key), what, "begin lower")


def _speaks_plainly(base_url: str) -> bool:
    scheme, _, rest = base_url.partition("://")
    host, _, port = rest.partition("/")[0].partition(":")
    return scheme == "http" and not Address(host, int(port or 80)).is_loopback

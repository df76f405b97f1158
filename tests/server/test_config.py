"""The configuration: sources, secrets, rules, and that every problem is told at once without telling a secret."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reward_adapters import adapter_kinds, load_adapter
from reward_adapters.contract import ProductKind, RecipientKind
from reward_adapters.money import yuan
from reward_server.access import NO_LIMITS, Limits, Permission, new_key
from reward_server.config import ConfigError, Problem, Settings, known_keys, load_settings
from reward_server.config.sources import variable_name
from reward_server.sealing import create_master_key_file

DOCS = Path(__file__).parents[2] / "docs"
CANARY = "canary-7f3a91-secret"

ACCOUNT = f"""
[suppliers.kss_a]
adapter = "kasushou"
base_url = "https://shop.example.com"
user_id = "10001"
apikey = "{CANARY}"
"""

PRODUCT = """
[[products]]
id = "jd-100"
kind = "card"
name = "Card"
face_value = "100.00"
[[products.offers]]
supplier = "kss_a"
supplier_product = "2909"
unit_cost = "98.50"
max_unit_cost = "99.00"
"""


class Loader:
    """Loads configurations that have a master key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "reward.toml"
        self.master_key = folder / "master.key"
        create_master_key_file(self.master_key)

    def __call__(self, toml: str = "", environ: Mapping[str, str] | None = None) -> Settings:
        self.file.write_text(toml, "utf-8")
        return load_settings(self.file, {"REWARD_SECRETS__MASTER_KEY_FILE": str(self.master_key), **(environ or {})})

    def problems(self, toml: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            self(toml, environ)
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(caught.value)
        assert CANARY not in caught.value.report()
        return caught.value.problems

    def only_problem(self, toml: str, environ: Mapping[str, str] | None = None) -> Problem:
        problems = self.problems(toml, environ)
        assert len(problems) == 1, problems
        return problems[0]


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


# --- Defaults and sources ---------------------------------------------------------------------------------------------


def test_defaults(load: Loader) -> None:
    """Nothing but a master key is needed."""
    settings = load()
    assert str(settings.grpc.bind) == "127.0.0.1:50051"
    assert str(settings.http.bind) == "127.0.0.1:8080"
    assert settings.ops_address is None
    assert settings.callback_url == "http://127.0.0.1:8080/callbacks"
    assert settings.store.url == "sqlite:///reward.db"
    assert settings.grpc.serves_reflection
    assert settings.accounts == {}
    assert settings.products == ()


def test_environment_alone(load: Loader) -> None:
    """No file is needed either: lists, accounts and single keys can all come from variables."""
    settings = load_settings(
        None,
        {
            "REWARD_SECRETS__MASTER_KEY": load.master_key.read_text(),
            "REWARD_SUPPLIERS__KSS_A": json.dumps({"adapter": "kasushou", "base_url": "https://a.example"}),
            "REWARD_SUPPLIERS__KSS_A__USER_ID": "1",
            "REWARD_SUPPLIERS__KSS_A__APIKEY": "k",
            "REWARD_SUPPLIERS__KSS_A__POLL_PLAN": "[1, 5]",
            "REWARD_PRODUCTS": json.dumps(tomllib.loads(PRODUCT)["products"]),
            "PATH": "/bin",
        },
    )
    assert settings.accounts["kss_a"].traits.look_delays == (1.0, 5.0)
    assert settings.products[0].product_id == "jd-100"


def test_environment_wins_over_the_file(load: Loader) -> None:
    """A variable replaces what the file says, and a single key what a whole table says."""
    settings = load(
        "[http]\nbind = '127.0.0.1:1'\n[grpc]\ndrain_seconds = 1",
        {
            "REWARD_HTTP__BIND": "127.0.0.1:2",
            "REWARD_GRPC": '{"drain_seconds": 2, "max_message_bytes": 5000}',
            "REWARD_GRPC__MAX_MESSAGE_BYTES": "6000",
        },
    )
    assert settings.http.bind.port == 2
    assert settings.grpc.drain_seconds == 2
    assert settings.grpc.max_message_bytes == 6000


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("REWARD_GRPC_BIND", "did you mean REWARD_GRPC__BIND?"),
        ("REWARD_SUPPLIERS_KSS_A_APIKEY", "two underscores"),
    ],
)
def test_unknown_variable(load: Loader, name: str, hint: str) -> None:
    """A REWARD_ variable that is no key is a problem, one with single underscores too."""
    problem = load.only_problem("", {name: CANARY})
    assert problem.where == name
    assert problem.what == "unknown variable"
    assert hint in problem.mend


def test_service_links_are_ignored(load: Loader) -> None:
    """Kubernetes describes a Service named `reward` by variables that look like ours."""
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR")
    load("", {f"REWARD_{name}": "tcp://10.0.0.1:1" for name in links})
    load("", {f"REWARD_SERVER_{name}": "tcp://10.0.0.1:1" for name in links})


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("REWARD_CLIENTS", "[", "not a JSON list"),
        ("REWARD_GRPC", "[]", "not a JSON table"),
        ("REWARD_CLIENTS__0__ID", "x", "part of a list"),
        ("REWARD_STORE__URL__X", "x", "no such key"),
    ],
)
def test_variables_of_the_wrong_shape(load: Loader, name: str, value: str, what: str) -> None:
    """Lists and tables are JSON, and lists are set whole."""
    problem = load.only_problem("", {name: value})
    assert (problem.source, problem.what) == (name, what)


def test_not_toml(load: Loader) -> None:
    """A syntax error names its line and never what stands there."""
    problem = load.only_problem(f"[suppliers.a]\napikey = {CANARY}\n")
    assert problem.source.startswith("line 2")
    assert problem.where == str(load.file)


def test_missing_file(tmp_path: Path) -> None:
    """A file that isn't there is a problem like any other."""
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml", {})


# --- Problems ---------------------------------------------------------------------------------------------------------


def test_every_problem_at_once(load: Loader) -> None:
    """All problems of all sections are listed in one go, each with its line or variable."""
    toml = f"""surprise = 1
[grpc]
bind = "0.0.0.0:50051"
max-message = 4
drain_seconds = 9999
reflection = "sometimes"
[suppliers.kss_a]
adapter = "kasushu"
apikey = "{CANARY}"
[suppliers.Kss__B]
adapter = "kasushou"
base_url = "kss.example.com"
user_id = "u"
apikey = ""
pol_plan = [1]
[[clients]]
id = "a b"
keys = ["rk_{CANARY}"]
permissions = ["ordr"]
[[products]]
id = "jd 100"
kind = "card"
name = "x"
face_value = 100.0
[[products.offers]]
supplier = "nobody"
supplier_product = "1"
unit_cost = "9"
max_unit_cost = "8"
[[products.offers]]
supplier = "kss_a"
supplier_product = 1
unit_cost = "98.50555"
"""
    problems = load.problems(toml, {"REWARD_HTTP__BIND": "8080"})
    assert {(p.where, p.source) for p in problems} == {
        ("surprise", "reward.toml line 1"),
        ("grpc.bind", "reward.toml line 3"),
        ("grpc.max-message", "reward.toml line 4"),
        ("grpc.drain_seconds", "reward.toml line 5"),
        ("grpc.reflection", "reward.toml line 6"),
        ("http.bind", "REWARD_HTTP__BIND"),
        ("suppliers.kss_a.adapter", "reward.toml line 8"),
        ("suppliers.Kss__B", "reward.toml line 10"),
        ("suppliers.Kss__B.base_url", "reward.toml line 12"),
        ("suppliers.Kss__B.apikey", "reward.toml line 14"),
        ("suppliers.Kss__B.pol_plan", "reward.toml line 15"),
        ("clients[0].id", "reward.toml line 17"),
        ("clients[0].keys[0]", "reward.toml line 18"),
        ("clients[0].permissions[0]", "reward.toml line 19"),
        ("products[0].id", "reward.toml line 21"),
        ("products[0].face_value", "reward.toml line 24"),
        ("products[0].offers[0].supplier", "reward.toml line 26"),
        ("products[0].offers[0].max_unit_cost", "reward.toml line 29"),
        ("products[0].offers[1].supplier_product", "reward.toml line 32"),
        ("products[0].offers[1].unit_cost", "reward.toml line 33"),
    }


def test_a_wrong_key_hides_none_beside_it(load: Loader) -> None:
    """One run tells everything about an entry, also what is checked only when the entry can be read."""
    toml = f"""[suppliers.kss_a]
adapter = "kasushou"
base_url = "shop.example.com"
user_id = "1"
read_timeout = -1
max_in_flight = "many"
[suppliers.cards]
adapter = "kaquan91_card"
base_url = "https://c.example"
appid = "1"
timezone = "Nowhere"
[suppliers.other]
max_in_flight = 0
[[clients]]
id = "shop"
keys = ["{CANARY}", "{new_key()[1]}", "sha256:short"]
permissions = ["order"]
[[clients]]
id = "shop"
keys = []
permissions = []
[[products]]
id = "a"
kind = "card"
name = ""
face_value = "1"
[[products.offers]]
supplier = "kss_b"
supplier_product = "1"
unit_cost = "9"
max_unit_cost = "8"
max_units_per_purchase = 0
parameters = {{ card_type = 1 }}
[[products.offers]]
supplier = "kss_a"
supplier_product = ""
unit_cost = 9
[[products]]
id = "a"
kind = "topup"
name = "x"
face_value = "1"
[[products.offers]]
supplier = "cards"
supplier_product = "1"
unit_cost = "9"
[[products]]
id = "b"
kind = "card"
name = "x"
face_value = "1"
offers = [{{ supplier = "kss_a", supplier_product = "not a number", unit_cost = "9" }}]
"""
    assert {p.where for p in load.problems(toml)} == {
        "suppliers.kss_a.base_url",
        "suppliers.kss_a.apikey",
        "suppliers.kss_a.read_timeout",
        "suppliers.kss_a.max_in_flight",
        "suppliers.cards",
        "suppliers.cards.appsecret",
        "suppliers.other.adapter",
        "suppliers.other.max_in_flight",
        "clients[0].keys[0]",
        "clients[0].keys[2]",
        "clients[1].id",
        "clients[1].keys",
        "clients[1].permissions",
        "products[0].name",
        "products[0].offers[0].supplier",
        "products[0].offers[0].max_unit_cost",
        "products[0].offers[0].max_units_per_purchase",
        "products[0].offers[0].parameters.card_type",
        "products[0].offers[1].supplier_product",
        "products[0].offers[1].unit_cost",
        "products[1].id",
        "products[2].offers[0]",
    }


def test_keys_that_go_together(load: Loader) -> None:
    """What an adapter says about several of its keys is told beside a missing one."""
    toml = """[suppliers.a]
adapter = "kaquan91_recharge"
base_url = "https://a.example"
notify_url_wire = "pre-encoded"
"""
    problems = {p.where: p.mend for p in load.problems(toml)}
    assert set(problems) == {"suppliers.a", "suppliers.a.appid", "suppliers.a.appsecret"}
    assert "sign_value_encoding" in problems["suppliers.a"]


@pytest.mark.parametrize(
    ("toml", "where", "mend"),
    [
        ("[grpc]\nmax_message_bytes = 1", "grpc.max_message_bytes", "it should be at least 4096"),
        ("[grpc]\ndrain_seconds = 'x'", "grpc.drain_seconds", "it should be a number"),
        ("[grpc]\ntls_certificate_file = 1\ntls_key_file = 'x'", "grpc.tls_certificate_file", "the name of a file"),
        ("[logging]\nlevel = 'loud'", "logging.level", "it should be 'debug', 'info', 'warning' or 'error'"),
        ("[stream]\nretention_days = 1.5", "stream.retention_days", "it should be a whole number"),
        ("[[clients]]\nid = 'a b'\nkeys = ['K']\npermissions = ['read']", "clients[0].id", "write 1 to 64 of A-Z"),
        ("[[clients]]\nid = 'a'\nkeys = []\npermissions = ['read']", "clients[0].keys", "the list is empty"),
        ("[[clients]]\nid = 'a'\nkeys = ['K']\npermissions = ['x']", "clients[0].permissions[0]", "should be 'order'"),
        (ACCOUNT + "poll_plan = []", "suppliers.kss_a.poll_plan", "the list is empty"),
        (ACCOUNT + "poll_plan = [0]", "suppliers.kss_a.poll_plan[0]", "it should be more than 0"),
        (ACCOUNT + "sort_nested = 'maybe'", "suppliers.kss_a.sort_nested", "it should be true or false"),
        (ACCOUNT + PRODUCT.replace('"Card"', '""'), "products[0].name", "it is empty"),
        (ACCOUNT + PRODUCT.replace('"2909"', "2909"), "products[0].offers[0].supplier_product", "a text in quotes"),
        ("products = [1]", "products[0]", "it should be a table"),
    ],
)
def test_own_words(load: Loader, toml: str, where: str, mend: str) -> None:
    """What a key takes is told in words, not in those of the library that checks it."""
    problem = load.only_problem(toml.replace("'K'", f"'{new_key()[1]}'"))
    assert problem.where == where
    assert mend in problem.mend


@pytest.mark.parametrize(
    ("toml", "where", "meant"),
    [
        ("[grcp]\nbind = '127.0.0.1:1'", "grcp", "grpc"),
        ("[grpc]\nbnd = '127.0.0.1:1'", "grpc.bnd", "bind"),
        ("[secrets]\nmaster_key_fil = 'x'", "secrets.master_key_fil", "master_key_file"),
        (ACCOUNT + "max_in_fligth = 3", "suppliers.kss_a.max_in_fligth", "max_in_flight"),
        (ACCOUNT + "api_key = 'x'", "suppliers.kss_a.api_key", "apikey"),
        (ACCOUNT + PRODUCT + "max_cost = '1'", "products[0].offers[0].max_cost", "max_unit_cost"),
    ],
)
def test_unknown_key_with_suggestion(load: Loader, toml: str, where: str, meant: str) -> None:
    """An unknown key is a problem, and the nearest known one is suggested."""
    problem = load.only_problem(toml)
    assert (problem.where, problem.what, problem.mend) == (where, "unknown key", f"did you mean {meant!r}?")


def test_mistyped_account_in_a_variable(load: Loader) -> None:
    """A variable for an account that isn't there suggests the one that was meant."""
    problem = load.only_problem(ACCOUNT, {"REWARD_SUPPLIERS__KSSA__APIKEY": CANARY})
    assert problem.where == "suppliers.kssa.adapter"
    assert problem.mend == "did you mean 'kss_a'?"


@pytest.mark.parametrize("bind", ["50051", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "::1:80", ":80", 80])
def test_addresses(load: Loader, bind: object) -> None:
    """An address is a host and a port; IPv6 stands in brackets."""
    assert load.only_problem(f"[http]\nbind = {json.dumps(bind)}").where == "http.bind"
    assert load("[http]\nbind = '[::1]:8080'").callback_url == "http://[::1]:8080/callbacks"


@pytest.mark.parametrize(
    "url", ["sqlite://x", "sqlite:///", "sqlite:///x?y", "mysql://x", f"mysql://u:{CANARY}@h/d", "postgresql:h"]
)
def test_stores(load: Loader, url: str) -> None:
    """A SQLite file or a PostgreSQL database; a password in the URL isn't repeated."""
    problem = load.only_problem(f"[store]\nurl = '{url}'")
    assert problem.where == "store.url"
    assert CANARY not in str(problem)
    assert "hunter2" not in repr(load("[store]\nurl = 'postgresql://u:hunter2@h/d'"))


# --- Secrets ----------------------------------------------------------------------------------------------------------


def without_secret(toml: str) -> str:
    return "\n".join(line for line in toml.splitlines() if not line.startswith("apikey"))


def test_secret_from_a_file(load: Loader) -> None:
    """A secret may stand in a file of its own; spaces and line ends around it don't count."""
    secret = load.folder / "kss"
    secret.write_text(f"\n  {CANARY} \n")
    named_in_file = load(f"{without_secret(ACCOUNT)}\napikey_file = {json.dumps(str(secret))}")
    named_by_variable = load(without_secret(ACCOUNT), {"REWARD_SUPPLIERS__KSS_A__APIKEY_FILE": str(secret)})
    assert named_in_file.accounts["kss_a"].config.apikey == CANARY
    assert named_by_variable.accounts["kss_a"].config.apikey == CANARY


def test_secret_from_the_environment(load: Loader) -> None:
    """A variable gives a secret and wins over the file's, in either spelling; braces don't make it JSON."""
    plain = load(ACCOUNT, {"REWARD_SUPPLIERS__KSS_A__APIKEY": '{"x'})
    assert plain.accounts["kss_a"].config.apikey == '{"x'
    over_file = load(without_secret(ACCOUNT) + "\napikey_file = '/none'", {"REWARD_SUPPLIERS__KSS_A__APIKEY": "y"})
    assert over_file.accounts["kss_a"].config.apikey == "y"


@pytest.mark.parametrize("line", ["", 'apikey = ""', 'apikey = "  "'])
def test_missing_secret_names_the_ways(load: Loader, line: str) -> None:
    """A missing or empty secret is a problem that names the three ways to give it."""
    problem = load.only_problem(f"{without_secret(ACCOUNT)}\n{line}")
    assert problem.where == "suppliers.kss_a.apikey"
    assert problem.what == "missing secret"
    for way in ("suppliers.kss_a.apikey_file", "REWARD_SUPPLIERS__KSS_A__APIKEY", "write suppliers.kss_a.apikey into"):
        assert way in problem.mend


def test_secret_files_that_hold_none(load: Loader) -> None:
    """A missing, empty or binary secret file is a problem at the key that names it."""
    for content in (None, b" \n", b"\xff\xfe"):
        secret = load.folder / "kss"
        if content is not None:
            secret.write_bytes(content)
        problem = load.only_problem(f"{without_secret(ACCOUNT)}\napikey_file = {json.dumps(str(secret))}")
        assert problem.where == "suppliers.kss_a.apikey_file"


def test_secret_given_twice(load: Loader) -> None:
    """Two places in one source are a contradiction, not a choice."""
    assert load.only_problem(ACCOUNT + "apikey_file = 'x'").what.startswith("set twice")


@pytest.mark.rule("D14")
def test_master_key_stays_out_of_the_file(load: Loader) -> None:
    """The master key may not stand in the configuration file, and must be one."""
    load.file.write_text(f"[secrets]\nmaster_key = '{CANARY}'")
    with pytest.raises(ConfigError, match="doesn't belong into the configuration file"):
        load_settings(load.file, {})
    with pytest.raises(ConfigError, match="expected a key id") as caught:
        load_settings(None, {"REWARD_SECRETS__MASTER_KEY": CANARY})
    assert CANARY not in str(caught.value)
    load.master_key.chmod(0o644)
    assert "chmod 600" in load.only_problem("").what


def test_settings_print_no_secret(load: Loader) -> None:
    """The settings can be printed."""
    settings = load(ACCOUNT + PRODUCT + clients())
    key = load.master_key.read_text().split()[1]
    for text in (repr(settings), repr(settings.accounts["kss_a"].config), repr(settings.clients)):
        assert CANARY not in text
        assert key not in text


# --- Exposure and clients ---------------------------------------------------------------------------------------------


def clients() -> str:
    return f'[[clients]]\nid = "shop"\nkeys = ["{new_key()[1]}"]\npermissions = ["order", "read"]\n'


@pytest.fixture
def tls(tmp_path: Path) -> str:
    """The TLS lines of a configuration, for a fresh certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return f"tls_certificate_file = '{tmp_path}/tls.crt'\ntls_key_file = '{tmp_path}/tls.key'\n"


@pytest.mark.parametrize("bind", ["0.0.0.0:50051", "[::]:50051", "10.0.0.7:50051", "reward.internal:50051"])
def test_exposed_without_protection(load: Loader, bind: str) -> None:
    """What others can reach needs TLS and real clients; each lack is told with what to do."""
    toml = f"[grpc]\nbind = '{bind}'\n"
    lacks = load.problems(toml)
    assert [p.where for p in lacks] == ["grpc.bind", "grpc.bind"]
    assert "no TLS" in lacks[0].what
    assert "tls_certificate_file" in lacks[0].mend
    assert "no client" in lacks[1].what
    assert "new-key" in lacks[1].mend
    assert "no TLS" in load.only_problem(toml + clients()).what


def test_exposed_with_protection(load: Loader, tls: str) -> None:
    """With TLS and clients any address is fine; reflection is off by itself and no development key works."""
    settings = load(f"[grpc]\nbind = '0.0.0.0:50051'\n{tls}{clients()}")
    assert settings.grpc.has_tls
    assert not settings.grpc.serves_reflection
    assert not settings.uses_dev_keys
    assert "no client" in load.only_problem(f"[grpc]\nbind = '0.0.0.0:50051'\n{tls}").what


def test_broken_tls(load: Loader, tls: str) -> None:
    """Certificate and key come together, are there, and match."""
    only_one = "\n".join(tls.splitlines()[:1])
    assert load.only_problem(f"[grpc]\n{only_one}").where == "grpc.tls_key_file"
    certificate, key = load.folder / "tls.crt", load.folder / "tls.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8

    def broken(where: str, what: str) -> None:
        problem = load.only_problem(f"[grpc]\n{tls}")
        assert problem.where == f"grpc.{where}"
        assert what in problem.what

    key.write_bytes(private.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"x")))
    broken("tls_key_file", f"{key} is encrypted")
    other = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    broken("tls_key_file", f"{key} isn't the key of the first certificate in {certificate}")
    key.write_text("no key")
    broken("tls_key_file", f"{key} isn't a private key in PEM form")
    key.unlink()
    broken("tls_key_file", f"can't read {key}: No such file")
    certificate.write_text("none")
    both = load.problems(f"[grpc]\n{tls}")
    assert [p.where for p in both] == ["grpc.tls_certificate_file", "grpc.tls_key_file"]
    assert f"{certificate} isn't a certificate chain in PEM form" in both[0].what


def test_http_off_loopback(load: Loader) -> None:
    """Then metrics move to a port of their own, and callbacks need a public URL."""
    settings = load("[http]\nbind = '0.0.0.0:8080'")
    assert str(settings.ops_address) == "127.0.0.1:8081"
    assert settings.callback_url is None
    assert any("public_url" in warning for warning in settings.warnings)
    named = load("[http]\nbind = '0.0.0.0:8080'\n[callbacks]\npublic_url = 'https://r.example/x/'")
    assert named.callback_url == "https://r.example/x/callbacks"
    assert load.only_problem("[callbacks]\npublic_url = 'r.example'").where == "callbacks.public_url"


def test_dev_clients(load: Loader) -> None:
    """The development clients exist only while no client is configured, and are warned about."""
    settings = load()
    assert {client.client_id for client in settings.clients} == {"dev", "dev-2", "dev-operator"}
    assert settings.uses_dev_keys
    assert "development keys" in settings.warnings[0]
    real = load(clients())
    assert [client.client_id for client in real.clients] == ["shop"]
    assert real.clients[0].permissions == {Permission.ORDER, Permission.READ}
    assert not real.uses_dev_keys
    assert real.warnings == ()


def test_client_rules(load: Loader) -> None:
    """Client ids and keys are unique, and the published keys are nobody's."""
    assert "second client" in load.only_problem(clients() + clients()).what
    one = clients()
    assert "clients[0]" in load.only_problem(one + one.replace("shop", "other")).what
    dev = load().clients[0].key_hashes[0]
    assert "development client" in load.only_problem(re.sub("sha256:[0-9a-f]+", f"sha256:{dev}", one)).what


def test_keys_may_expire(load: Loader) -> None:
    """A key is a hash, or a hash with the time at which it ends."""
    (_, lasting), (_, ending) = new_key(), new_key()
    keys = f'["{lasting}", {{ hash = "{ending}", expires = TIME }}]'
    one = f'[[clients]]\nid = "shop"\npermissions = ["read"]\nkeys = {keys}'
    [client] = load(one.replace("TIME", "2027-01-01T00:00:00+08:00")).clients
    hashes = tuple(key.removeprefix("sha256:") for key in (lasting, ending))
    assert client.key_hashes == hashes
    assert client.key_ends == {hashes[1]: int(datetime(2026, 12, 31, 16, tzinfo=UTC).timestamp() * 1000)}
    for time in ("2027-01-01T00:00:00", "'soon'", "true"):
        assert load.only_problem(one.replace("TIME", time)).where == "clients[0].keys[1].expires"
    assert ending not in str(load.only_problem(one.replace("TIME", "'soon'")))


def test_limits_of_a_client(load: Loader) -> None:
    """Numbers, and money in quotes; without them there are none."""
    assert load(clients()).clients[0].limits == NO_LIMITS
    lines = "calls_per_second = 0.5\nopen_streams = 0\norders_in_flight = 100\nspend_per_day = '5000.50'\n"
    assert load(clients() + lines).clients[0].limits == Limits(0.5, 0, 100, yuan("5000.50"))
    for line, mend in (
        ("calls_per_second = 0", "more than 0"),
        ("open_streams = -1", "at least 0"),
        ("orders_in_flight = 1.5", "whole number"),
        ("spend_per_day = 5000", "yuan in quotes"),
        ("spend_per_day = 'much'", "yuan in quotes"),
        ("spend_per_day = '-1'", "yuan in quotes"),
    ):
        assert mend in load.only_problem(clients() + line).mend, line


def test_what_shows_a_client(load: Loader, tls: str) -> None:
    """A key, a name in a certificate, or an issuer: one of them is needed. A name stands for one client."""
    bare = '[[clients]]\nid = "shop"\npermissions = ["read"]\n'
    assert load.only_problem(bare).where == "clients[0].keys"
    named = bare + "certificate_names = ['spiffe://example.org/shop']\n"
    assert load(named).clients[0].certificate_names == {"spiffe://example.org/shop"}
    assert load.only_problem(named + named.replace('"shop"', '"other"')).where == "clients[1].certificate_names"
    ca = f"[grpc]\n{tls}tls_client_ca_file = '{load.folder}/tls.crt'\n"
    assert load(ca + named).grpc.tls_client_ca_file == load.folder / "tls.crt"
    wrong = ca.replace(f"client_ca_file = '{load.folder}/tls.crt'", f"client_ca_file = '{load.folder}/tls.key'")
    assert "isn't a certificate" in load.only_problem(wrong).what
    assert "TLS only" in load.only_problem(f"[grpc]\ntls_client_ca_file = '{load.folder}/tls.crt'\n").what
    assert load.only_problem("[grpc]\ntls_client_bind = '127.0.0.1:7'\n").where == "grpc.tls_client_bind"


def test_an_issuer(load: Loader) -> None:
    """Issuer and audience, and one place of its keys: a file that holds some, or an https URL."""
    url = "[jwt]\nissuer = 'https://i'\naudience = 'rewards'\njwks_url = 'https://i/keys'\n"
    assert load(url).jwt.is_set
    assert not load().jwt.is_set
    assert load(url + '[[clients]]\nid = "shop"\npermissions = ["read"]\n').clients[0].key_hashes == ()
    assert load.only_problem(url.replace("audience = 'rewards'\n", "")).where == "jwt.audience"
    assert load.only_problem(url.replace("issuer = 'https://i'\n", "")).where == "jwt.issuer"
    assert load.only_problem(url.replace("jwks_url = 'https://i/keys'\n", "")).where == "jwt.jwks_file"
    assert load.only_problem(url.replace("https://i/keys", "http://i/keys")).where == "jwt.jwks_url"
    assert load(url.replace("https://i/keys", "http://127.0.0.1:1/keys")).jwt.is_set
    (load.folder / "keys").write_text("{}")
    file = url.replace("jwks_url = 'https://i/keys'", f"jwks_file = '{load.folder}/keys'")
    assert "JSON Web Key Set" in load.only_problem(file).what
    assert "can't read" in load.only_problem(file.replace("/keys", "/none")).what


def test_behind_a_proxy_that_ends_tls(load: Loader) -> None:
    """It has to be said; clients are needed all the same, and it is warned about."""
    exposed = "[grpc]\nbind = '10.0.0.7:50051'\n"
    assert "behind_tls_proxy" in load.only_problem(exposed + clients()).mend
    behind = exposed + "behind_tls_proxy = true\n"
    assert "behind_tls_proxy" in load(behind + clients()).warnings[0]
    assert "no client" in load.only_problem(behind).what


# --- Suppliers --------------------------------------------------------------------------------------------------------


def test_account_takes_the_adapters_traits(load: Loader) -> None:
    """What an account doesn't say is as the adapter says."""
    account = load(ACCOUNT).accounts["kss_a"]
    assert account.adapter == "kasushou"
    assert account.traits == account.supplier.traits
    assert (account.max_in_flight, account.answer_patience, account.submit_window) == (16, 600, 5)


@pytest.mark.rule("P9")
def test_account_overrides(load: Loader) -> None:
    """What it says wins; deadlines are then the same for all kinds that the adapter sells."""
    overrides = """
max_in_flight = 3
connect_timeout = 1.5
read_timeout = 7
answer_patience = 60
submit_window = 2
not_found_grace_seconds = 0
query_horizon_seconds = 3600
poll_plan = [1, 2.5]
token_renew_margin_seconds = 9
send_by_seconds = 100
settle_by_seconds = 200
aftersale_watch = 86400
aftersale_every = 600
"""
    account = load(ACCOUNT + overrides).accounts["kss_a"]
    traits = account.traits
    assert (account.max_in_flight, account.answer_patience, account.submit_window) == (3, 60, 2)
    assert (traits.connect_timeout, traits.read_timeout, traits.not_found_grace) == (1.5, 7, 0)
    assert (traits.look_delays, traits.token_margin, traits.query_horizon) == ((1, 2.5), 9, 3600)
    assert traits.send_by == dict.fromkeys(account.supplier.traits.send_by, 100)
    assert traits.settle_by == dict.fromkeys(account.supplier.traits.settle_by, 200)
    assert (traits.aftersale_watch, traits.aftersale_every) == (86_400, 600)


@pytest.mark.parametrize("kind", adapter_kinds())
def test_every_adapter_names_what_it_lacks(load: Loader, kind: str) -> None:
    """An empty account of any adapter lists each of its required keys."""
    required = {
        item.name
        for item in dataclasses.fields(load_adapter(kind).config)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    problems = load.problems(f"[suppliers.a]\nadapter = '{kind}'")
    assert {problem.where for problem in problems} == {f"suppliers.a.{name}" for name in required}


def test_adapter_keys_are_checked(load: Loader) -> None:
    """Adapter keys have types; their lists come from variables in JSON."""
    problems = load.problems(ACCOUNT + "safe_price_mode = 'each'\nsort_nested = 'maybe'")
    assert {p.where for p in problems} == {"suppliers.kss_a.safe_price_mode", "suppliers.kss_a.sort_nested"}
    texts = {"REWARD_SUPPLIERS__KSS_A__NOT_FOUND_TEXTS": '["没有"]', "REWARD_SUPPLIERS__KSS_A__SORT_NESTED": "false"}
    config = load(ACCOUNT, texts).accounts["kss_a"].config
    assert config.not_found_texts == ("没有",)
    assert config.sort_nested is False


def test_adapter_refuses_its_keys(load: Loader) -> None:
    """What an adapter says against its keys is told without its secrets."""
    toml = f"""[suppliers.a]
adapter = "kaquan91_card"
base_url = "https://a.example"
appid = "1"
appsecret = "{CANARY}"
timezone = "{CANARY}"
"""
    assert load.only_problem(toml).where == "suppliers.a"


def test_plain_http_supplier_is_warned_about(load: Loader) -> None:
    """Secrets in the clear are allowed on this machine only without a word."""
    assert load(ACCOUNT.replace("https://shop.example.com", "http://127.0.0.1:8090/x") + clients()).warnings == ()
    assert "in the clear" in load(ACCOUNT.replace("https", "http") + clients()).warnings[0]


# --- Products ---------------------------------------------------------------------------------------------------------


def test_product(load: Loader) -> None:
    """Money is exact, offers keep their order, and what is left out comes from the kind and the adapter."""
    toml = (
        ACCOUNT
        + PRODUCT
        + """[[products.offers]]
supplier = "kss_a"
supplier_product = "1"
unit_cost = "98.5001"
max_units_per_purchase = 7
parameters = { a = "b" }
"""
    )
    settings = load(toml)
    product = settings.products[0]
    assert (product.face_value, product.recipient_kind) == (1_000_000, RecipientKind.NONE)
    first, second = product.offers
    assert (first.account, first.supplier_product) == ("kss_a", "2909")
    assert (first.unit_cost, first.max_unit_cost) == (985_000, 990_000)
    assert first.max_units_per_purchase == settings.accounts["kss_a"].traits.max_units_per_purchase
    assert (second.unit_cost, second.max_unit_cost, second.max_units_per_purchase) == (985_001, 985_001, 7)
    assert second.parameters == {"a": "b"}


@pytest.mark.parametrize(
    ("kind", "recipient"), [("card", "none"), ("coupon", "none"), ("topup", "phone"), ("membership", "phone")]
)
def test_default_recipient(load: Loader, kind: str, recipient: str) -> None:
    """Cards need nobody, everything else a phone, unless the product says otherwise."""
    toml = ACCOUNT + PRODUCT.replace('"card"', f'"{kind}"')
    assert load(toml).products[0].recipient_kind == recipient
    assert load(toml.replace("name =", 'recipient = "qq"\nname =')).products[0].recipient_kind == "qq"


@pytest.mark.parametrize(
    "amount", ["98.5", "98", "true", '"98,5"', '"-1"', '"0"', '"1.00001"', '"1e400"', '"NaN"', '""']
)
def test_money_is_quoted_yuan(load: Loader, amount: str) -> None:
    """A number without quotes, and anything that isn't an exact positive amount, is a problem."""
    problem = load.only_problem(ACCOUNT + PRODUCT.replace('unit_cost = "98.50"', f"unit_cost = {amount}", 1))
    assert problem.where == "products[0].offers[0].unit_cost"
    assert '"98.50"' in problem.mend


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('supplier = "kss_a"', 'supplier = "kss_b"', "offers[0].supplier", "unknown supplier 'kss_b'"),
        ('max_unit_cost = "99.00"', 'max_unit_cost = "98.49"', "offers[0].max_unit_cost", "less than unit_cost"),
        ('id = "jd-100"', 'id = "京东"', "id", "not usable"),
        ('kind = "card"', 'kind = "cash"', "kind", "not usable"),
    ],
)
def test_product_checks(load: Loader, old: str, new: str, where: str, what: str) -> None:
    """Products that couldn't be bought are found before anybody orders one."""
    problem = load.only_problem(ACCOUNT + PRODUCT.replace(old, new, 1))
    assert (problem.where, problem.what) == (f"products[0].{where}", what)


def test_products_are_unique_and_offered(load: Loader) -> None:
    """Ids are unique, and a product without an offer is none."""
    assert "second product" in load.only_problem(ACCOUNT + PRODUCT + PRODUCT).what
    assert load.only_problem(PRODUCT.split("[[products.offers]]", maxsplit=1)[0]).what == "no offer"


@pytest.mark.rule("O10")
def test_unguarded_offers_need_a_word(load: Loader) -> None:
    """Where a supplier has no price guard, the offer must say that this is accepted."""
    account = (
        '[suppliers.kss_a]\nadapter = "kuaiduibao"\nbase_url = "https://k.example"\napp_id = 1\napp_secret = "s"\n'
    )
    problem = load.only_problem(account + PRODUCT)
    assert "no price guard" in problem.what
    assert "allow_unguarded = true" in problem.mend
    load(account + PRODUCT + "allow_unguarded = true")


@pytest.mark.parametrize(
    ("parameters", "what"),
    [("", "card_type must be one of"), ('card_type = "1", auto_confirm_hour = "x"', "auto_confirm_hour must be")],
)
def test_offers_that_no_request_can_say(load: Loader, parameters: str, what: str) -> None:
    """What an adapter needs of an offer is asked for before anybody orders."""
    account = '[suppliers.kss_a]\nadapter = "kaquan91_card"\nbase_url = "https://k"\nappid = "1"\nappsecret = "s"\n'
    problem = load.only_problem(account + PRODUCT + f"parameters = {{ {parameters} }}")
    assert problem.where == "products[0].offers[0]"
    assert what in problem.what


def test_kind_must_be_sold(load: Loader) -> None:
    """An adapter that can't deliver a kind can't be offered for it."""
    account = '[suppliers.kss_a]\nadapter = "kaquan91_recharge"\nbase_url = "https://k"\nappid = "1"\nappsecret = "s"\n'
    assert "doesn't sell" in load.only_problem(account + PRODUCT).what


# --- Documentation ----------------------------------------------------------------------------------------------------


def test_sample_loads(load: Loader, tmp_path: Path) -> None:
    """The sample is a configuration: only its secrets and its client keys are missing."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    sample = DOCS / "reward-server.sample.toml"
    environ = {"REWARD_SECRETS__MASTER_KEY_FILE": str(load.master_key)}
    for name, account in tomllib.loads(sample.read_text("utf-8"))["suppliers"].items():
        environ |= {variable_name(("suppliers", name, key)): str(secret) for key in account if key.endswith("_file")}
    with pytest.raises(ConfigError) as caught:
        load_settings(sample, environ)
    assert {problem.mend for problem in caught.value.problems} == {
        "replace this by the output of `reward-server new-key`"
    }
    assert len(caught.value.problems) == len(re.findall(r"^keys =", sample.read_text("utf-8"), re.MULTILINE))
    mine = tmp_path / "reward.toml"
    mine.write_text(re.sub("sha256:replace-this[a-z-]*", lambda _: new_key()[1], sample.read_text("utf-8")), "utf-8")
    settings = load_settings(mine, environ)
    assert {account.adapter for account in settings.accounts.values()} == set(adapter_kinds())
    assert {product.kind for product in settings.products} == set(ProductKind)


def test_every_key_is_documented() -> None:
    """The reference has a row for every key, and no row for another."""
    page = (DOCS / "configuration.md").read_text("utf-8")
    rows = re.findall(r"^\| `((?:[a-z]+\.)[A-Za-z_.]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(known_keys())


@pytest.mark.parametrize("kind", adapter_kinds())
def test_every_adapter_key_is_documented(kind: str) -> None:
    """The reference lists every key of every adapter, secrets in bold."""
    page = (DOCS / "configuration.md").read_text("utf-8")
    row = re.search(rf"^\| `{kind}` \| (.*) \|$", page, re.MULTILINE)
    assert row is not None
    for item in dataclasses.fields(load_adapter(kind).config):
        assert (f"**`{item.name}`**" if item.metadata.get("secret") else f"`{item.name}`") in row[1]


def test_documented_defaults_are_true(load: Loader) -> None:
    """The defaults in the reference are the program's."""
    page = (DOCS / "configuration.md").read_text("utf-8")
    settings = load()
    for section in ("grpc", "http", "ops", "callbacks", "store", "logging", "stream", "jwt"):
        for key, value in settings.__getattribute__(section):
            row = re.search(rf"^\| `{section}.{key}` \| (.*?) \|", page, re.MULTILINE)
            assert row is not None
            if value is not None:
                shown = (
                    f"{value:g}"
                    if isinstance(value, float)
                    else json.dumps(value)
                    if isinstance(value, bool)
                    else str(value)
                )
                assert row[1] == f"`{shown}`", key

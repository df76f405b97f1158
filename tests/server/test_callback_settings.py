"""How the keys of the callback routes and of connections are read."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from reward_server.config import ConfigError, Settings, load_settings
from reward_server.sealing import create_master_key_file

ACCOUNT = {
    "REWARD_SUPPLIERS__KSS_A__ADAPTER": "kasushou",
    "REWARD_SUPPLIERS__KSS_A__BASE_URL": "https://shop.example.com",
    "REWARD_SUPPLIERS__KSS_A__USER_ID": "1",
    "REWARD_SUPPLIERS__KSS_A__APIKEY": "key",
}


def load(folder: Path, toml: str = "", **environ: str) -> Settings:
    """The settings of one account, with these keys."""
    key = folder / "master.key"
    if not key.exists():
        create_master_key_file(key)
    file = folder / "reward.toml"
    file.write_text(toml)
    return load_settings(file, {"REWARD_SECRETS__MASTER_KEY_FILE": str(key), **ACCOUNT, **environ})


def test_everybody_may_call_back_unless_networks_are_named(tmp_path: Path) -> None:
    """And no proxy is trusted."""
    settings = load(tmp_path)
    assert settings.accounts["kss_a"].callback_networks == ()
    assert settings.callbacks.trusted_proxies is None


def test_networks_are_read_from_file_and_environment(tmp_path: Path) -> None:
    """Addresses and networks, of both sorts."""
    networks = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"), ip_network("198.51.100.7"))
    named = '["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]'
    settings = load(tmp_path, f"[callbacks]\ntrusted_proxies = {named}\nmax_per_second_per_source = 2.5\n")
    assert settings.callbacks.trusted_proxies == networks
    assert settings.callbacks.max_per_second_per_source == 2.5
    settings = load(tmp_path, REWARD_SUPPLIERS__KSS_A__CALLBACK_NETWORKS=named)
    assert settings.accounts["kss_a"].callback_networks == networks


@pytest.mark.parametrize(
    ("toml", "where"),
    [
        ('[callbacks]\ntrusted_proxies = ["10.0.0.1/8"]', "callbacks.trusted_proxies[0]"),
        ('[callbacks]\ntrusted_proxies = ["10.0.0.0/8", "proxy.example.com"]', "callbacks.trusted_proxies[1]"),
        ("[callbacks]\ntrusted_proxies = [10]", "callbacks.trusted_proxies[0]"),
        ('[callbacks]\ntrusted_proxies = "10.0.0.0/8"', "callbacks.trusted_proxies"),
        ("[callbacks]\nmax_per_second_per_source = 0", "callbacks.max_per_second_per_source"),
        ('[suppliers.kss_a]\ncallback_networks = ["everywhere"]', "suppliers.kss_a.callback_networks[0]"),
        ("[grpc]\nmax_connection_age_seconds = 1", "grpc.max_connection_age_seconds"),
    ],
)
def test_what_is_no_network_is_named(tmp_path: Path, toml: str, where: str) -> None:
    """Each with its place in the list."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, toml)
    assert [problem.where for problem in raised.value.problems] == [where]


@pytest.mark.parametrize("variable", ["REWARD_CALLBACKS__TRUSTED_PROXIES", "REWARD_CLIENTS", "REWARD_SUPPLIERS__KSS_A"])
def test_brackets_without_end_are_no_json(tmp_path: Path, variable: str) -> None:
    """A problem like others, not a traceback."""
    with pytest.raises(ConfigError, match="JSON"):
        load(tmp_path, **{variable: "[" * 100_000})
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(tmp_path, "a = " + "[" * 100_000)

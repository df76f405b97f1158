"""The sample configuration is made from the settings' classes: every key, every default, nothing by hand."""

import re
import tomllib
from pathlib import Path

import pytest

from reward_adapters import adapter_kinds, load_adapter
from reward_server.__main__ import run_cli
from reward_server.access import new_key
from reward_server.config import TABLES, known_keys, load_settings
from reward_server.config.accounts import EngineKeys
from reward_server.config.products import FormEntry, OfferEntry, ProductEntry
from reward_server.config.sample import attribute_docs, sample
from reward_server.config.sections import ClientEntry
from reward_server.sealing import create_master_key_file

COMMITTED = Path(__file__).parents[2] / "docs" / "reward-server.sample.toml"
SECTIONS = (*TABLES.values(), ClientEntry, EngineKeys, ProductEntry, OfferEntry, FormEntry)


def test_the_committed_sample_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`reward-server sample-config > docs/reward-server.sample.toml` after a change of the settings."""
    assert run_cli(["sample-config"]) == 0
    assert capsys.readouterr().out == COMMITTED.read_text("utf-8")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_says_what_it_means(section: type) -> None:
    """A key without a text below its field would stand in the sample without a word."""
    assert set(attribute_docs(section)) >= set(section.model_fields)  # type: ignore[attr-defined]


def test_every_key_is_there() -> None:
    """Set, or commented out with its default; the adapters' own keys too."""
    shown = set(re.findall(r"^(?:# )?([a-z_0-9]+) = ", sample(), re.MULTILINE))
    headers = set(re.findall(r"^\[+([a-z_.]+)", sample(), re.MULTILINE))
    for key in known_keys():
        table, _, name = key.rpartition(".")
        if key in ("products.form", "products.offers"):
            assert key in headers
        elif key != "secrets.master_key":
            # That one is refused in a file.
            assert name in shown, key
            assert table.replace(".NAME", ".kss_a") in headers
    for kind in adapter_kinds():
        for key in attribute_docs(load_adapter(kind).config):
            assert {key, f"{key}_file"} & shown, f"{kind}: {key}"


def test_the_commented_defaults_are_those_of_the_program(tmp_path: Path) -> None:
    """With every default said out loud the configuration is the same."""
    key = tmp_path / "master.key"
    create_master_key_file(key)
    said = re.sub(r'"/run/secrets/.*"', f'"{key}"', sample())
    said = re.sub("sha256:replace-this[a-z-]*", lambda _: new_key()[1], said)
    silent, loud = tmp_path / "silent.toml", tmp_path / "loud.toml"
    silent.write_text(said, "utf-8")
    # Those of tokens mean nothing, and are refused, without an issuer.
    spoken = re.sub(r"^# (?!client_claim|leeway|refresh)([a-z_0-9]+ = [^…].*)$", r"\1", said, flags=re.MULTILINE)
    loud.write_text(spoken, "utf-8")
    assert len(_leaves(tomllib.loads(spoken))) > len(_leaves(tomllib.loads(said))) + 80
    ours, theirs = load_settings(silent, {}), load_settings(loud, {})
    for name in TABLES:
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.products == theirs.products
    assert ours.clients == theirs.clients
    for name, account in ours.accounts.items():
        other = theirs.accounts[name]
        assert (account.config, account.traits) == (other.config, other.traits)
        assert account.max_in_flight == other.max_in_flight
        assert account.callback_networks == other.callback_networks


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]

"""The `reward-server` program: its commands, exit codes and words."""

import os
import stat
import sys
import types
from pathlib import Path

import pytest

from reward_server import __main__ as program
from reward_server.access import Access, Client, Permission
from reward_server.config import Settings
from reward_server.sealing import create_master_key_file

CANARY = "canary-2c8b40-secret"

Output = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that is fine, in an environment of its own."""
    for name in [name for name in os.environ if name.startswith("REWARD_")]:
        monkeypatch.delenv(name)
    create_master_key_file(tmp_path / "master.key")
    file = tmp_path / "reward.toml"
    file.write_text(
        f"[store]\nurl = 'sqlite:///{tmp_path}/reward.db'\n[secrets]\nmaster_key_file = '{tmp_path}/master.key'\n"
    )
    return file


def test_check_config(config: Path, capsys: Output) -> None:
    """A good configuration is summed up, with what should be known about it."""
    assert program.run_cli(["check-config", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("configuration OK")
    assert "127.0.0.1:50051 (no TLS)" in out
    assert "development keys" in out
    assert not (config.parent / "reward.db").exists()


def test_check_config_lists_problems(config: Path, capsys: Output) -> None:
    """Problems go to standard error, all of them, with exit code 2 and no traceback."""
    config.write_text(f"{config.read_text()}[grpc]\nbnd = '{CANARY}'\n[suppliers.a]\nadapter = 'dushu'\n")
    assert program.run_cli(["check-config", "-c", str(config)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "5 problems" in captured.err
    assert "grpc.bnd   (reward.toml line 6)" in captured.err
    assert "did you mean 'bind'?" in captured.err
    assert "suppliers.a.appsecret" in captured.err
    assert "Traceback" not in captured.err
    assert CANARY not in captured.err


def test_environment_counts(config: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's environment lies over the file."""
    monkeypatch.setenv("REWARD_GRPC__BIND", "127.0.0.1:7")
    assert program.run_cli(["check-config", "-c", str(config)]) == 0
    assert "127.0.0.1:7 " in capsys.readouterr().out


@pytest.mark.usefixtures("config")
def test_new_key(capsys: Output) -> None:
    """The printed key works with the printed hash."""
    assert program.run_cli(["new-key"]) == 0
    words = capsys.readouterr().out.split()
    key = next(word for word in words if word.startswith("rk_"))
    hashed = next(word for word in words if "sha256:" in word).split(":")[1].rstrip('"]')
    access = Access([Client("shop", (hashed,), frozenset({Permission.READ}))])
    assert access.authenticate(f"Bearer {key}").client_id == "shop"


def test_new_master_key(tmp_path: Path, capsys: Output) -> None:
    """A master key is written once, for its owner only, and never over another."""
    file = tmp_path / "new.key"
    assert program.run_cli(["new-master-key", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    assert before.split()[1] not in capsys.readouterr().out
    assert program.run_cli(["new-master-key", str(file)]) == 1
    assert file.read_text() == before
    assert "new.key" in capsys.readouterr().err


def test_migrate(config: Path, capsys: Output) -> None:
    """Migrating makes the store, and does nothing the second time."""
    for _ in range(2):
        assert program.run_cli(["migrate", "--config", str(config)]) == 0
        assert "up to date" in capsys.readouterr().out
    assert (config.parent / "reward.db").exists()


def test_store_that_cannot_be_opened(config: Path, capsys: Output) -> None:
    """What is wrong with the store is said in a sentence, with exit code 1."""
    (config.parent / "reward.db").mkdir()
    assert program.run_cli(["migrate", "--config", str(config)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("reward-server: ")
    assert "Traceback" not in err


def test_serve(config: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` configures the logs, warns of what should be known, and ends with the server's exit code."""
    seen: list[Settings] = []
    app = types.ModuleType("reward_server.app")

    def run(settings: Settings) -> int:
        seen.append(settings)
        return 7

    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reward_server.app", app)
    configured: list[tuple[str, str, int | None]] = []

    def configure_logs(level: str, form: str, *, process: int | None) -> None:
        configured.append((level, form, process))

    monkeypatch.setattr(program, "configure_logs", configure_logs)
    assert program.run_cli(["serve", "--config", str(config)]) == 7
    assert configured == [("info", "auto", None)]
    assert "development keys" in capsys.readouterr().out
    assert seen[0].uses_dev_keys

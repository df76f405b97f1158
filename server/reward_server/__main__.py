"""`reward-server`: run the server, check its configuration and all it needs, prepare its store and keys.

Exit codes: 0 fine, 1 something failed, 2 the configuration has problems (all are listed) or the command was called
wrongly.
"""

import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

try:
    import structlog
    from cyclopts import App, Parameter

    from reward_server import access
    from reward_server.config import ConfigError, load_settings
    from reward_server.hardening import forbid_dumps
    from reward_server.logs import configure_logs
    from reward_server.sealing import SealError, create_master_key_file
    from reward_server.sealing import add_master_key as add_key
    from reward_server.store import StoreError
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"reward-server needs {missing.name}, which the client library alone does not. "
        'Install it with: pip install "reward-service[server]"'
    ) from None

FAILED = 1
CONFIG_PROBLEMS = 2

ConfigFile = Annotated[
    Path | None, Parameter(name=["--config", "-c"], help="The TOML file; without it only REWARD_… variables count.")
]

CoreDumps = Annotated[
    bool, Parameter(negative="", help="Allow core files and debuggers. Both show every key and card in memory.")
]

cli = App(
    name="reward-server",
    help="RewardService: one gRPC contract in front of five reward suppliers.",
    version=lambda: version("reward-service"),
)


@cli.command
def serve(
    *,
    config: ConfigFile = None,
    core_dumps: CoreDumps = False,
    process: Annotated[int | None, Parameter(show=False)] = None,
    end_with_stdin: Annotated[bool, Parameter(show=False, negative="")] = False,
) -> int:
    """Run the server until SIGTERM or Ctrl-C.

    Parameters
    ----------
    process
        Given by the parent of several processes (`grpc.processes`) to each of them: its number.
    end_with_stdin
        Given by `make run`, which holds the other end: killed by whatever means, it leaves no server behind.
    """
    if not core_dumps:
        # Before the first secret is read.
        forbid_dumps()
    if end_with_stdin:
        from reward_server import processes  # noqa: PLC0415 - only `make run` asks for it

        processes.end_with_stdin()
    settings = load_settings(config, os.environ)
    configure_logs(settings.logging.level, settings.logging.format, process=process)
    if process is None:
        log = structlog.get_logger()
        for warning in settings.warnings:
            log.warning("configuration", warning=warning)
        if settings.grpc.processes > 1:
            from reward_server.processes import run_processes  # noqa: PLC0415 - the parent has no use for gRPC

            return run_processes(settings, config, core_dumps=core_dumps)
    else:
        settings = settings.of_process(process)
    from reward_server.app import run  # noqa: PLC0415 - only this command pays for gRPC

    return run(settings)


@cli.command
def check_config(*, config: ConfigFile = None) -> int:
    """Check the configuration, the secrets' files included; nothing is started or changed."""
    settings = load_settings(config, os.environ)
    tls = "TLS" if settings.grpc.has_tls else "no TLS"
    clients = ", ".join(client.client_id for client in settings.clients)
    print("configuration OK")
    print(f"  gRPC       {settings.grpc.bind} ({tls})")
    print(f"  HTTP       {settings.http.bind}, metrics and probes on {settings.ops_address or settings.http.bind}")
    if (count := settings.grpc.processes) > 1:
        last = settings.of_process(count - 1).ops_address
        print(f"  processes  {count} behind these ports; metrics and probes of the last one on {last}")
    print(f"  callbacks  {settings.callback_url or 'none'}")
    print(f"  clients    {clients}")
    print(f"  suppliers  {', '.join(f'{a.name} ({a.adapter})' for a in settings.accounts.values()) or 'none'}")
    print(f"  products   {len(settings.products)}")
    for warning in settings.warnings:
        print(f"  warning    {warning}")
    return 0


@cli.command
def sample_config() -> int:
    """Print a complete configuration with every key, its meaning and its default."""
    from reward_server.config.sample import sample  # noqa: PLC0415 - only this command needs it

    print(sample(), end="")
    return 0


@cli.command
def doctor(
    *,
    config: ConfigFile = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")] = False,
    offline: Annotated[bool, Parameter(negative="", help="Ask no supplier, and nobody else outside.")] = False,
) -> int:
    """Look at store, keys, clocks, callbacks and suppliers, and say what to do. Changes and buys nothing.

    It may run beside a server. Exit code 0: no problem, 1: problems, 2: the configuration has problems.
    """
    from reward_server.doctor import examine  # noqa: PLC0415 - only this command needs it

    # As for the server: it opens the same keys.
    forbid_dumps()
    try:
        settings = load_settings(config, os.environ)
    except ConfigError as error:
        if not as_json:
            raise
        found = [
            {"area": "configuration", "level": "problem", "what": f"{each.where}: {each.what}", "mend": each.mend}
            for each in error.problems
        ]
        print(json.dumps({"outcome": "configuration", "findings": found}, ensure_ascii=False, indent=2))
        return CONFIG_PROBLEMS
    configure_logs("error", settings.logging.format)
    report = asyncio.run(examine(settings, os.environ, offline=offline))
    print(report.json() if as_json else report.text())
    return FAILED if report.problems else 0


@cli.command
def migrate(*, config: ConfigFile = None) -> int:
    """Bring the store to this version's schema. SQLite does it at every start too; PostgreSQL only by this."""
    from reward_server.store.open import migrate_store  # noqa: PLC0415 - only this command opens a store

    settings = load_settings(config, os.environ)
    for name in asyncio.run(migrate_store(settings.store.url)):
        print(f"applied {name}")
    print("the store is up to date")
    return 0


@cli.command
def migrate_store(
    *,
    source: Annotated[str, Parameter(name="--from", help="sqlite:///PATH, of a stopped server.")],
    target: Annotated[str, Parameter(name="--to", help="postgresql://USER@HOST/DATABASE, empty.")],
) -> int:
    """Move a store from SQLite to PostgreSQL: everything, cards stay sealed. Interrupted, run it again: it goes on."""
    from reward_server.store.open import move_store  # noqa: PLC0415 - only this command pays for it

    moved = asyncio.run(move_store(source, target, tell=lambda line: print(line, file=sys.stderr)))
    for table in moved:
        print(f"{table.name:<10} {table.rows:>10} rows  sha256 {table.sha256}")
    print("the store was moved before" if not moved else "both sides are the same; the SQLite file isn't used any more")
    return 0


@cli.command
def restored(*, config: ConfigFile = None) -> int:
    """Make a store fit to start that was put back from a backup: all accounts paused, resume tokens of before refused.

    Run it once after each restore, before any server starts.
    """
    from reward_server.restoring import restore  # noqa: PLC0415 - only this command pays for it
    from reward_server.store.open import open_store  # noqa: PLC0415

    settings = load_settings(config, os.environ)

    async def work() -> None:
        store = await open_store(
            settings.store.url,
            lease_seconds=settings.store.lease_seconds,
            behind_pooler=settings.store.behind_pooler,
        )
        try:
            done = await restore(store, settings.accounts)
        finally:
            await store.close()
        print(f"paused: {', '.join(done.paused) or 'no account is configured'}")
        print(f"purchases that the suppliers will be asked about first: {done.doubted}")
        print("resume tokens of before are refused from now on; see docs/operations.md before you resume an account")

    asyncio.run(work())
    return 0


@cli.command
def new_key() -> int:
    """Print a new client key, once, and the line that goes into the configuration."""
    key, hashed = access.new_key()
    print("for the client, shown only now:")
    print(f"  {key}")
    print("for the configuration, below [[clients]]:")
    print(f'  keys = ["{hashed}"]')
    return 0


@cli.command
def new_master_key(file: Path) -> int:
    """Write a new master key, which protects every stored card, to FILE. An existing file is never overwritten."""
    create_master_key_file(file)
    print(f"wrote {file}; keep a copy where the database's backups aren't")
    return 0


@cli.command
def add_master_key(file: Path, *, last: bool = False) -> int:
    """Add a new master key to FILE, as the first: it wraps from then on, and the others open what they wrapped.

    Parameters
    ----------
    last
        Only opens for now. Where several replicas share a database, every one has to know a key before it wraps.
    """
    name = add_key(file, last=last)
    print(f"{file}: {name} is the {'last' if last else 'first'} key now; renew the copy that you keep apart")
    print(
        "next: `rewardctl keys rotate --only-wrap`"
        if not last
        else "next: when every replica has it, move it to the top"
    )
    return 0


def run_cli(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. What goes wrong is told in sentences, never by a traceback."""
    try:
        return int(cli(arguments, result_action="return_value") or 0)
    except ConfigError as error:
        print(f"reward-server: {error.report()}", file=sys.stderr)
        return CONFIG_PROBLEMS
    except (StoreError, SealError) as error:
        print(f"reward-server: {error}", file=sys.stderr)
        return FAILED


def main() -> None:
    """The console script."""
    sys.exit(run_cli())


if __name__ == "__main__":
    main()

"""`reward-sandbox`: run the sandbox, or print it as configuration for the server."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

try:
    from cyclopts import App, Parameter, Token

    from reward_sandbox.app import Sandbox
    from reward_sandbox.catalogue import catalogue
    from reward_sandbox.handbook import handbook
    from reward_sandbox.settings import DuplicateMode, SandboxSettings, SignMode
    from reward_sandbox.shops import shops
    from reward_sandbox.state import StateError
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"reward-sandbox needs {missing.name}, which the client library alone does not. "
        'Install it with: pip install "reward-service[server]"'
    ) from None

_DEFAULTS = SandboxSettings()
_URL = f"http://{_DEFAULTS.host}:{_DEFAULTS.port}"

cli = App(name="reward-sandbox", help="Five reward suppliers on one local port.", version_flags=[])


def _yuan(_: object, tokens: Sequence[Token]) -> Decimal:
    try:
        return Decimal(tokens[0].value)
    except InvalidOperation as error:
        raise ValueError("not an amount") from error


@cli.default
@cli.command
def serve(
    *,
    host: str = _DEFAULTS.host,
    port: int = _DEFAULTS.port,
    callback_url: str = _DEFAULTS.callback_url,
    step_seconds: float = _DEFAULTS.step_seconds,
    late_seconds: float = _DEFAULTS.late_seconds,
    callback_scale: float = _DEFAULTS.callback_scale,
    token_seconds: float = _DEFAULTS.token_seconds,
    balance: Annotated[Decimal, Parameter(converter=_yuan)] = _DEFAULTS.balance,
    duplicates: DuplicateMode = _DEFAULTS.duplicates,
    sign_mode: SignMode = _DEFAULTS.sign_mode,
    seed: int = _DEFAULTS.seed,
    state: Path | None = None,
    end_with_stdin: Annotated[bool, Parameter(show=False, negative="")] = False,
) -> None:
    """Play the suppliers until interrupted.

    Parameters
    ----------
    callback_url
        Where Kuaiduibao sends its callbacks; the other suppliers take the address from each order.
    step_seconds
        How long one stage of an asynchronous order lasts.
    late_seconds
        How long a slow answer is kept back.
    callback_scale
        Factor on the documented pauses between callback attempts.
    token_seconds
        Lifetime of access tokens.
    balance
        Deposit at each supplier, yuan.
    duplicates
        What happens to an order number that was used before.
    sign_mode
        Which reading of 91's signing rule is checked.
    seed
        Cards and supplier numbers follow from it and the order number.
    state
        File that keeps books, tokens and orders in progress from run to run (it holds cards).
    end_with_stdin
        Given by `make run`, which holds the other end: killed by whatever means, it leaves no sandbox behind.
    """
    settings = SandboxSettings(
        host=host,
        port=port,
        callback_url=callback_url,
        step_seconds=step_seconds,
        late_seconds=late_seconds,
        callback_scale=callback_scale,
        token_seconds=token_seconds,
        balance=balance,
        duplicates=duplicates,
        sign_mode=sign_mode,
        seed=seed,
        state=state,
    )
    try:
        asyncio.run(_serve(settings, end_with_stdin=end_with_stdin))
    except StateError as error:
        print(f"reward-sandbox: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"reward-sandbox: cannot listen on {host}:{port}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


@cli.command
def products(*, sandbox_url: str = _URL) -> None:
    """Print the suppliers and one product per scenario as TOML for the server's configuration."""
    print(catalogue(sandbox_url), end="")


@cli.command(name="handbook")
def write_handbook() -> None:
    """Print the handbook of all scenarios as Markdown."""
    print(handbook(), end="")


async def _serve(settings: SandboxSettings, *, end_with_stdin: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    if end_with_stdin:
        # Nobody writes there: it is readable when it ends. In order, so that the suppliers forget nothing.
        loop.add_reader(sys.stdin, stopped.set)
    async with Sandbox(settings) as sandbox:
        print(f"reward-sandbox: {len(shops())} suppliers on {sandbox.url}/  (orders: {sandbox.url}/books)", flush=True)
        await stopped.wait()


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()

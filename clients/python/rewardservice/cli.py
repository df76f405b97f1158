"""`rewardctl`: the service on the command line."""

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from rewardservice._channel import version
from rewardservice.errors import RewardError
from rewardservice.v1 import order_pb2

try:
    from cyclopts import App, CycloptsError, Group, Parameter

    from rewardservice._audit import audit_app
    from rewardservice._demo import DEMO_SECONDS
    from rewardservice._demo import demo as run_demo
    from rewardservice._keys import keys_app
    from rewardservice._options import EXIT_CODES, Exit, Given, Options, UsageError, exit_for_error
    from rewardservice._orders import order_app
    from rewardservice._output import Output, complain, print_product, products_table
    from rewardservice._review import review_app
    from rewardservice._suppliers import suppliers_app
    from rewardservice._wording import usage_lines
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"rewardctl needs {missing.name}, which the client library alone does not. "
        'Install it with: pip install "reward-service[cli]"'
    ) from None

app = App(
    name="rewardctl",
    help="Order rewards and watch them arrive.",
    help_epilogue=EXIT_CODES,
    version=version(),
    default_parameter=Parameter(negative=(), show_default=False),
)
products_app = App(name="products", help="List what can be ordered, or show one product.")
app.command(order_app)
app.command(products_app)
app.command(suppliers_app)
app.command(review_app)
app.command(audit_app)
app.command(keys_app)


@app.meta.default
async def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    options: Annotated[Options | None, Parameter(name="*", group=Group("Global options", sort_key=99))] = None,
) -> Any:
    """Takes the global options, wherever they stand, and runs the command with the rest."""
    command, bound, wants = app.parse_args(tokens, exit_on_error=False, print_error=False)
    options = options or Options()
    result = command(*bound.args, **bound.kwargs, **dict.fromkeys(wants, options))
    try:
        return await result if inspect.isawaitable(result) else result
    except RewardError as error:
        return _report(error, options)


@products_app.default
async def list_products(
    product_id: str | None = None,
    /,
    *,
    kind: Literal["card", "coupon", "topup", "membership"] | None = None,
    search: str | None = None,
    options: Given,
) -> int:
    """List what can be ordered, or show one product.

    Parameters
    ----------
    product_id
        Show this product; all are listed if not given.
    kind
        Only products of this kind.
    search
        Only products with this text in their id or name, as in `--search dushu/`.
    """
    if product_id is not None:
        if kind is not None or search is not None:
            raise UsageError("give PRODUCT_ID, or --kind and --search")
        return await show_product(product_id, options=options)
    output = Output(options.output)
    wanted = order_pb2.ProductKind.Value(f"PRODUCT_KIND_{kind.upper() if kind else 'UNSPECIFIED'}")
    async with options.client() as client:
        listed = [product async for product in client.products(wanted, page_size=200)]
    text = (search or "").casefold()
    products = [product for product in listed if text in f"{product.product_id}\n{product.name}".casefold()]
    if output.json:
        for product in products:
            output.message(product)
    else:
        output.table(products_table(products))
    return Exit.OK


@products_app.command(name="show")
async def show_product(product_id: str, /, *, options: Given) -> int:
    """Show one product.

    Parameters
    ----------
    product_id
        Its id.
    """
    output = Output(options.output)
    async with options.client() as client:
        product = await client.get_product(product_id)
    if output.json:
        output.message(product)
    else:
        print_product(output, product)
    return Exit.OK


@app.command
async def demo(*, options: Given) -> int:
    """Order one product of each of the five suppliers from the sandbox, and watch the cards arrive."""
    output = Output(options.output)
    async with options.client() as client:
        return await run_demo(client, output, options, DEMO_SECONDS if options.timeout is None else options.timeout)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script that completes rewardctl in a shell, as in: rewardctl completion bash > ~/.rewardctl.bash

    Parameters
    ----------
    shell
        The shell.
    """
    sys.stdout.write(app.meta.generate_completion(prog_name="rewardctl", shell=shell))
    return Exit.OK


class _Notices(logging.Handler):
    """What the client library has to say while it works; of lost streams the progress display speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "stream"):
            complain(record.getMessage())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`Exit`)."""
    log = logging.getLogger("rewardservice")
    log.setLevel(logging.INFO)
    log.addHandler(_Notices())
    try:
        code = asyncio.run(run(list(sys.argv[1:] if argv is None else argv)))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return code


async def run(argv: list[str]) -> int:
    """Runs one command in the running event loop, and returns its exit code; errors are printed."""
    try:
        result = await app.meta.run_async(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, UsageError) as error:
        for line in usage_lines(error, "rewardctl"):
            complain(line)
        return Exit.USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(f"{error.filename or 'system'}: {error.strerror or error}")
        return Exit.USAGE
    except Exception as error:
        complain(f"a defect of rewardctl, please report it: {type(error).__name__}: {error}")
        return Exit.INTERNAL
    return result if isinstance(result, int) else Exit.OK


def _report(error: RewardError, options: Options) -> Exit:
    for line in options.error_lines(error):
        complain(line)
    if error.request_id and exit_for_error(error) is Exit.INTERNAL:
        complain(f"  request id: {error.request_id}")
    if error.client_order_id and exit_for_error(error) in {Exit.UNAVAILABLE, Exit.INTERNAL}:
        complain(f"  the order may exist; repeat the command with --client-order-id {error.client_order_id}")
    return exit_for_error(error)

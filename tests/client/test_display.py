"""What `rewardctl` makes of narrow terminals, lost streams and the words of transports."""

import asyncio
import io
import logging
import os
import sys

import grpc
import pytest
from rich.console import Console

from rewardservice import UnavailableError
from rewardservice._output import Losses, cards_lines, orders_table, products_table
from rewardservice._wording import explain
from rewardservice.v1 import order_pb2

from .scripted import fulfilled, order, product

ORDER_ID = "01M812VNGMEWVSCDEN5RM6TK5A"


def drawn(what: object, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(what)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_ids_stay_whole(width: int) -> None:
    """Every order is one line with its id, product and state whole; the client's own id is shortened first."""
    long = order(ORDER_ID, client_order_id="demo:" + "7" * 36, product_id="kaquan91_recharge/topup")
    long.update_time.GetCurrentTime()

    header, row = drawn(orders_table([long]), width)

    assert {ORDER_ID, "kaquan91_recharge/topup", "PROCESSING"} <= set(row.split())
    assert ("demo:" in row, "UPDATED" in header, len(row) <= width) == (True, True, True)
    assert ("…" in row) == (width < 160)


@pytest.mark.parametrize("width", [80, 100])
def test_only_names_of_products_fold(width: int) -> None:
    """A long name takes a second line; everything else stays on one."""
    long = product("kaquan91_card/out-of-stock")
    long.name = "a name of many words " * 4

    lines = drawn(products_table([long]), width)

    assert "kaquan91_card/out-of-stock" in lines[1]
    assert "yes" in lines[1]
    assert all(set(line.split()) <= {"a", "name", "of", "many", "words"} for line in lines[2:])


def test_cards_are_lines_of_fields() -> None:
    """Every field of a card has a line of its own, whatever its length, and can't steer the terminal."""
    what = fulfilled(ORDER_ID)
    what.cards.append(order_pb2.Card(number="N" * 200, link="https://x/\x1b[2J"))

    lines = [text.plain for text in cards_lines(what)]

    assert lines == [
        f"card 1 of 2 of {ORDER_ID}, jd-100",
        "  number        NO-1",
        "  secret        SECRET-1",
        f"card 2 of 2 of {ORDER_ID}, jd-100",
        f"  number        {'N' * 200}",
        "  link          https://x/ [2J",
    ]


def test_a_lost_stream_is_told_now_and_then() -> None:
    """The first loss is told at once, the next ones every half a minute, and the end."""
    now, said = [100.0], list[str]()
    losses = Losses(lambda error, new: error.message, has_worked=lambda: True, say=said.append, clock=lambda: now[0])

    def happens(state: str) -> None:
        record = logging.LogRecord("rewardservice", logging.INFO, "", 0, "", (), None)
        record.stream, record.error = state, UnavailableError("no answer")
        losses.emit(record)

    for now[0] in (100.0, 103.0, 129.0, 130.0, 135.0, 161.0):
        happens("lost")
    assert losses.present() == "no stream for 61 s: no answer; connecting again"
    happens("back")
    happens("back")

    assert losses.present() == ""
    assert said == [
        "stream lost: no answer; connecting again",
        "no stream for 30 s: no answer; connecting again",
        "no stream for 61 s: no answer; connecting again",
        "stream is back",
    ]


REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: Failed: Connection refused"
CUT = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.1:1: Socket closed"


@pytest.mark.parametrize(
    ("said", "server", "tls", "new", "words"),
    [
        (REFUSED, "10.0.0.1:1", False, True, "nothing listens on 10.0.0.1:1; is the server running?"),
        (REFUSED, "localhost:1", True, False, "nothing listens on localhost:1; is the server running? (make run)"),
        (
            CUT,
            "10.0.0.1:1",
            False,
            True,
            "10.0.0.1:1 can't be reached: Socket closed; if the server speaks TLS, use --tls",
        ),
        (CUT, "10.0.0.1:1", True, True, "10.0.0.1:1 can't be reached: Socket closed"),
        (CUT, "10.0.0.1:1", False, False, "the connection was cut"),
        ("x: WRONG_VERSION_NUMBER", "a:1", True, True, "a:1 doesn't speak TLS; leave the --tls options out"),
        ("errors resolving a:1: [lookup error:]", "a:1", True, True, "the address a:1 can't be resolved"),
    ],
)
def test_transport_errors_in_plain_words(said: str, server: str, *, tls: bool, new: bool, words: str) -> None:
    """What gRPC says of a connection becomes what a person can do about it."""
    error = UnavailableError(f"the server can't be reached: {said}", code=grpc.StatusCode.UNAVAILABLE)

    assert explain(error, server, tls=tls, new=new) == words


@pytest.mark.parametrize(
    ("program", "given", "found"),
    [("/usr/bin/rewardctl", None, "NONE"), ("/usr/bin/rewardctl", "DEBUG", "DEBUG"), ("/usr/bin/shop", None, "None")],
)
async def test_grpc_is_silent_in_rewardctl_only(program: str, given: str | None, found: str) -> None:
    """gRPC's own log is off in rewardctl unless somebody asked for it; programs of others are left alone."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import os, sys; sys.argv[0] = {program!r}; import rewardservice; print(os.environ.get('GRPC_VERBOSITY'))",
        stdout=asyncio.subprocess.PIPE,
        env=environment | ({"GRPC_VERBOSITY": given} if given else {}),
    )
    out, _ = await process.communicate()

    assert out.decode().strip() == found

"""What a defect and a crash leave behind, and what may be read of a process that runs: no secret."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from .canaries import (
    ENOUGH,
    MARK,
    PHONE,
    RECIPIENTS,
    Run,
    Search,
    assert_hidden,
    assert_recipients_hidden,
    phone,
    running,
    scenario_of,
)
from .harness import Place, ServerProcess, caller

resource = pytest.importorskip("resource", reason="a system without such limits")

LAUNCHER = Path(__file__).with_name("defective.py")

MOMENTS = (
    "create.stored",
    "intend.stored",
    "send.begin",
    "exchange.connected",
    "exchange.answered",
    "send.answered",
    "seal.sealing:Card",
    "apply.storing:Delivered",
    "apply.stored",
    "look.begin",
    "look.answered",
    "callback.storing",
    "callback.stored",
)
"""When something fails, once each."""

PLAYED = (
    "dushu/membership",
    "kaquan91_card/type-2",
    "kaquan91_card/three-cards",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "kasushou/card-delayed",
    "kasushou/topup",
    "kuaiduibao/card",
    "kuaiduibao/coupon",
)


NAMES = {"Card", "Delivered", "HttpReply", "HttpRequest", "Order", "Recipient"}
"""What of ours the exceptions show by its name."""

SECONDS = 2.0
"""How long an order is waited for: those whose way was cut don't come."""


TURNS = 12
"""So often everything is ordered at most; on a calm machine twice is enough."""


class Server(ServerProcess):
    """The server with defects, or with other options; prints the stacks of its threads when it crashes."""

    def __init__(self, place: Place, *, moments: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
        super().__init__(place)
        self._moments = moments
        self._options = options

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        """Starts it in its own folder, where it would leave its core."""
        serve = ("serve", "--config", str(config or self.place.write()), *self._options)
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-X", "faulthandler", str(LAUNCHER), *self._moments, "--", *serve,
                stdout=output, stderr=output, cwd=self.place.folder,
            )  # fmt: skip
        if probe:
            await self._ready()

    async def abort(self) -> None:
        """SIGABRT: a crash as an assertion of the C library would make it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGABRT)
        assert await self.process.wait() == -signal.SIGABRT


async def order_everything(run: Run, turn: int) -> None:
    """Something fails on the way of some orders, the others bring their cards."""
    async with caller(run.server.place.grpc_port, run.keys["shop"]) as client:

        async def one(product: str) -> None:
            recipient = phone(PHONE) if scenario_of(product).recipient == "phone" else None
            with contextlib.suppress(TimeoutError, AioRpcError):
                created = await client.create(product, f"{turn}:{product}", recipient=recipient)
                order = await asyncio.wait_for(client.until(created.order.order_id), SECONDS)
                run.full += order.SerializeToString()

        await asyncio.gather(*map(one, PLAYED))


async def test_no_traceback_of_a_defect_and_no_dump_of_stacks_shows_a_secret(tmp_path: Path) -> None:
    """At thirteen moments something fails with an exception that prints whatever of ours is at hand, and in the end the
    process crashes: what it leaves on standard error names cards, requests and recipients, and shows none.
    """
    expected = {moment.partition(":")[0] for moment in MOMENTS}
    async with running(tmp_path, PLAYED, serve=lambda place: Server(place, moments=MOMENTS)) as run:
        failed: set[str] = set()
        for turn in range(TURNS):
            await order_everything(run, turn)
            failed = set(re.findall(r"DefectError: \('([a-z.]+)'", run.server.output.read_text()))
            seen = MARK.encode() in run.full and Search(RECIPIENTS).found_in(run.full)
            if seen and failed == expected and len(run.signatures()) >= ENOUGH:
                break
        assert failed == expected
        told = await run.told()
        assert isinstance(run.server, Server)
        await run.server.abort()
    log = run.server.output.read_text()
    shown = {name for name in NAMES if re.search(rf"DefectError: .*\b{name}\(", log)}
    assert shown == NAMES
    assert "Fatal Python error: Aborted" in log
    told["standard error"] = log.encode()
    assert_hidden(run, told, {})
    assert_recipients_hidden(run, told)


@pytest.fixture
def cores_wanted() -> Iterator[bool]:
    """The largest cores that the machine allows, for what is started meanwhile; whether there may be any."""
    former = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (former[1], former[1]))
    pattern = Path("/proc/sys/kernel/core_pattern")
    yield former[1] != 0 and pattern.exists() and pattern.read_text().strip() == "core"
    resource.setrlimit(resource.RLIMIT_CORE, former)


def cores(folder: Path) -> list[bytes]:
    """The core files in a folder, which are large: they are gone afterwards."""
    found = []
    for path in folder.glob("core*"):
        found.append(path.read_bytes())
        path.unlink()
    return found


@pytest.mark.parametrize("options", [(), ("--core-dumps",)], ids=["as shipped", "with --core-dumps"])
async def test_a_crash_leaves_no_core_unless_it_is_told_to(
    tmp_path: Path, cores_wanted: bool, options: tuple[str, ...]
) -> None:
    """Though the machine would write one; with --core-dumps it does, and the master key stands in it."""
    async with running(tmp_path, PLAYED[:1], serve=lambda place: Server(place, options=options)) as run:
        assert isinstance(run.server, Server)
        await run.server.abort()
        key = Search({}, exact=run.raw_secrets())
    left = cores(tmp_path)
    if not options:
        assert left == []
    elif cores_wanted:
        assert any(map(key.found_in, left))


@pytest.mark.skipif(sys.platform != "linux", reason="a mark of Linux processes")
def test_other_programs_of_the_same_user_may_not_read_its_memory() -> None:
    """The kernel says that the process isn't dumpable, which keeps cores and debuggers away."""
    asked = "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    program = f"import ctypes; from reward_server.hardening import forbid_dumps; {asked}; forbid_dumps(); {asked}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]

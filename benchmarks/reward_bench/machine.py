"""The machine: its cores, what a process has used of it, and what it is."""

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
"""The server has one core to itself, and the load with the supplier another."""

PROJECT = Path(__file__).parents[2]
_SHOWN = ("grpcio", "protobuf", "uvloop", "apsw", "aiohttp", "msgspec", "cryptography")


def pinned(core: int | None, command: list[str]) -> list[str]:
    """A command that has only one core; None: all of them."""
    return ["taskset", "--cpu-list", ",".join(map(str, CORES)) if core is None else str(core), *command]


def python(core: int | None, module: str, *arguments: str) -> list[str]:
    """A module of this program in a process of its own, on one core."""
    return pinned(core, [sys.executable, "-m", module, *arguments])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads, to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def facts() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu(),
        "cores": len(CORES),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _SHOWN},
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    asked = subprocess.run(
        ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"],  # noqa: S607 - wherever git is
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"

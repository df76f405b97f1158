"""The client under test: how it is started, and what it reports."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from reward_client_kit.world import Version
from rewardservice.v1 import order_pb2

_KEPT_BYTES = 2_000
_LINE_LIMIT = 1_048_576


@dataclass(frozen=True, slots=True)
class Shown:
    """An order that the client showed to its application."""

    order_id: str
    version: int
    state: object


@dataclass(frozen=True, slots=True)
class Fallback:
    """The client told its application that the log couldn't be continued."""

    reason: str


@dataclass(slots=True)
class Reported:
    """Everything that a client said and did in one run."""

    lines: list[Shown | Fallback] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    exit_code: int | None = None
    """None: it had to be stopped."""
    last_words: str = ""
    """The end of its error output."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by every line."""

    @property
    def shown(self) -> set[Version]:
        """Every order and version that the client showed."""
        return {(line.order_id, line.version) for line in self.lines if isinstance(line, Shown)}

    def take(self, line: str) -> None:
        """Reads one line of its output; empty ones say nothing."""
        if not line.strip():
            return
        try:
            said: Any = json.loads(line)
            if "reset" in said:
                self.lines.append(Fallback(str(said["reset"])))
            elif "error" in said:
                self.errors.append(str(said["error"]))
            else:
                self.lines.append(Shown(str(said["order_id"]), int(said["version"]), said["state"]))
        except (ValueError, KeyError, TypeError):
            self.unreadable.append(line.strip())
        self.news.set()


Client: TypeAlias = Callable[[Mapping[str, str], Reported], Coroutine[Any, Any, int]]
"""Runs a client with an environment, hands over each line that it prints, and returns its exit code."""


def command(words: Sequence[str]) -> Client:
    """A client that is a program of its own. To run it raises OSError when there is no such program."""

    async def run(environment: Mapping[str, str], reported: Reported) -> int:
        # A file and no pipe: what the program leaves behind could hold a pipe open.
        with tempfile.TemporaryFile() as errors:
            process = await asyncio.create_subprocess_exec(
                *words,
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LINE_LIMIT,
                start_new_session=True,
            )
            try:
                if process.stdout is not None:
                    async for line in process.stdout:
                        reported.take(line.decode(errors="replace"))
                return await process.wait()
            finally:
                # What the command started in its turn (`go run` and the like) goes with it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                reported.last_words = _end_of(errors)

    return run


def _end_of(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _KEPT_BYTES))
    return file.read().decode(errors="replace").strip()


def names_state(said: object, state: int) -> bool:
    """Whether a client's word for a state fits: the number or the name, with or without its prefix."""
    if state not in order_pb2.OrderState.values():
        return True
    name = order_pb2.OrderState.Name(order_pb2.OrderState.ValueType(state))
    return said in {state, str(state), name, name.removeprefix("ORDER_STATE_")}

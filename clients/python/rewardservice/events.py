"""What `RewardClient.watch` yields."""

from dataclasses import dataclass, field
from typing import TypeAlias

from rewardservice.v1 import order_pb2


# A message of protobuf prints all its fields, card secrets too, so the orders stay out of every repr.
@dataclass(frozen=True, slots=True)
class Update:
    """An order changed. `order` is whole, as of its version; continue after it with `resume_token`."""

    order: order_pb2.Order = field(repr=False)
    resume_token: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An order as it is, at the beginning of a stream. It carries no token: `SnapshotEnd` does."""

    order: order_pb2.Order = field(repr=False)


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The snapshot is complete; continue after it with `resume_token`."""

    resume_token: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened for a while. Everything before `resume_token` was searched; continue there."""

    resume_token: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The log could not be continued at the last token: updates may be missing, and a snapshot follows.

    `reason` is RESUME_TOKEN_EXPIRED (the log was pruned beyond the token) or LOG_REWOUND (the server was restored from
    a backup: orders may come again with versions that were seen before, and other content). Forget stored tokens.
    """

    reason: str


Event: TypeAlias = Update | Snapshot | SnapshotEnd | Heartbeat | Reset

"""Client of RewardService: `RewardClient`, its errors and events, and the generated stubs (`rewardservice.v1`).

import asyncio
from rewardservice import RewardClient, phone

async def main() -> None:
    async with RewardClient("127.0.0.1:50051") as client:
        created = await client.create_order("jd-100", client_order_id="campaign-7:user-42")
        order = await client.wait_for(created.order.order_id, timeout=60)
        print(order.state, len(order.cards))

asyncio.run(main())
"""

import rewardservice._quiet  # noqa: F401 - before gRPC is imported
from rewardservice._channel import TlsOptions
from rewardservice._credentials import Key
from rewardservice.backoff import Backoff
from rewardservice.client import RewardClient
from rewardservice.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ClosedError,
    DeadlineError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    ResumeError,
    RewardError,
    ServerError,
    UnavailableError,
    UnimplementedError,
    WaitTimeoutError,
)
from rewardservice.events import Event, Heartbeat, Reset, Snapshot, SnapshotEnd, Update
from rewardservice.values import (
    TERMINAL_STATES,
    account,
    decimal_yuan,
    is_settled,
    is_terminal,
    phone,
    qq,
    state_name,
    yuan,
)

__all__ = [
    "TERMINAL_STATES",
    "AlreadyExistsError",
    "AuthenticationError",
    "Backoff",
    "ClosedError",
    "DeadlineError",
    "Event",
    "FieldViolation",
    "Heartbeat",
    "InvalidRequestError",
    "Key",
    "NotFoundError",
    "PermissionDeniedError",
    "PreconditionError",
    "Reset",
    "ResourceExhaustedError",
    "ResumeError",
    "RewardClient",
    "RewardError",
    "ServerError",
    "Snapshot",
    "SnapshotEnd",
    "TlsOptions",
    "UnavailableError",
    "UnimplementedError",
    "Update",
    "WaitTimeoutError",
    "account",
    "decimal_yuan",
    "is_settled",
    "is_terminal",
    "phone",
    "qq",
    "state_name",
    "yuan",
]

"""What happens to the orders: one log, its tokens, and a short way to write it down."""

import hashlib
from collections.abc import Iterator, Sequence

from rewardservice.v1 import order_pb2

TERMINAL = frozenset(
    {
        order_pb2.ORDER_STATE_FULFILLED,
        order_pb2.ORDER_STATE_PARTIALLY_FULFILLED,
        order_pb2.ORDER_STATE_FAILED,
        order_pb2.ORDER_STATE_CANCELLED,
    }
)
UNKNOWN_STATE = 99
"""A state that no client knows yet."""
_UNKNOWN_FIELD = b"\xa2\x3f\x05later"
"""Field 1012, length-delimited: what a newer server may add."""

Version = tuple[str, int]
"""order_id and version: what names an update."""


def history(text: str) -> tuple[order_pb2.Order, ...]:
    """Orders from words such as "A1 B1=FULFILLED A2=99": id, version, state (else PROCESSING; a number: a new one)."""
    return tuple(_order(word) for word in text.split())


def _order(word: str) -> order_pb2.Order:
    name, _, state = word.partition("=")
    order_id, version = f"KIT-{name[0]}", int(name[1:])
    order = order_pb2.Order(
        order_id=order_id, client_order_id=order_id.lower(), product_id="kit/card", quantity=1, version=version
    )
    order.create_time.FromSeconds(1_780_000_000)
    if state.isdecimal():
        # A field of a newer contract comes along with a state of a newer contract.
        order.MergeFromString(b"\x50" + bytes([int(state)]) + _UNKNOWN_FIELD)
    else:
        order.state = order_pb2.OrderState.Value(f"ORDER_STATE_{state or 'PROCESSING'}")
    if order.state == order_pb2.ORDER_STATE_FULFILLED:
        order.delivered_quantity = 1
        order.cards.add(card_id=f"{order_id}/1", number="KIT-NUMBER")
    if order.state == order_pb2.ORDER_STATE_NEEDS_REVIEW:
        order.review_reasons.append(order_pb2.REVIEW_REASON_DEADLINE)
    return order


class Unusable(Exception):
    """A token that the log can't be continued at; `reason` is the service's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Log:
    """A client's log. The entry at position n is `entries[n - 1]`; those up to `head` have happened."""

    def __init__(
        self, entries: Sequence[order_pb2.Order], head: int, epoch: int = 1, lost: frozenset[str] = frozenset()
    ) -> None:
        self.entries = tuple(entries)
        self.head = head
        self.epoch = epoch
        self._lost = lost
        self.pruned = 0
        """Everything up to here is forgotten."""

    def token(self, position: int) -> str:
        """The token of a position. It tells a client nothing."""
        return f"kit-{hashlib.sha256(f'{self.epoch}/{position}'.encode()).hexdigest()[:20]}"

    def position(self, token: str) -> int:
        """Where a token stands. Raises Unusable."""
        for position in range(len(self.entries) + 1):
            if token == self.token(position):
                if position < self.pruned:
                    raise Unusable("RESUME_TOKEN_EXPIRED")
                return position
        raise Unusable("LOG_REWOUND" if token in self._lost else "RESUME_TOKEN_INVALID")

    def rewound(self, entries: Sequence[order_pb2.Order], head: int) -> "Log":
        """The log after a restore from a backup: it went another way, and the former tokens lead nowhere."""
        lost = frozenset(self.token(position) for position in range(len(self.entries) + 1))
        return Log(entries, head, self.epoch + 1, lost)

    def snapshot(self) -> dict[str, order_pb2.Order]:
        """Every order as of the head, by id."""
        return {order.order_id: order for order in self.entries[: self.head]}

    def after(self, position: int) -> Iterator[tuple[int, order_pb2.Order]]:
        """What happened after a position, with the positions."""
        yield from enumerate(self.entries[position : self.head], position + 1)

"""What a store was asked, in the order in which it answered.

Simulations write it down, and every store is asked again.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from reward_server.domain.order import Order
from reward_server.store import Change, Store, Update

FOLDER = Path(__file__).parent / "histories"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One write and its answer. A write whose answer was lost in a crash stands where the restart found it done."""

    create: Order | None = None
    existed: bool = False
    """The answer to a create: the client_order_id was known."""
    position: int = 0
    """The same: the head of the client's log."""
    save: Change | None = None
    saved: bool = False
    """The answer to a save: nobody was faster."""


@dataclass(slots=True)
class History:
    """All writes of one run."""

    told: str = ""
    """Which run, and what went wrong in it."""
    asked: list[Asked] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """One line of JSON per write, behind one that says what it is. Nothing sealed is kept."""
        lines = [msgspec.json.encode({"told": self.told}), *(msgspec.json.encode(_plain(one)) for one in self.asked)]
        path.write_bytes(b"\n".join(lines) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "History":
        """What `write` wrote."""
        first, *lines = path.read_bytes().splitlines()
        return cls(msgspec.json.decode(first)["told"], [msgspec.json.decode(line, type=Asked) for line in lines])


def _plain(asked: Asked) -> Asked:
    if asked.save is None:
        return asked
    cards = tuple(replace(card, sealed=b"sealed") for card in asked.save.cards)
    answers = tuple(replace(answer, sealed=b"sealed") for answer in asked.save.answers)
    return replace(asked, save=replace(asked.save, cards=cards, answers=answers))


async def ask_again(store: Store, history: History) -> list[str]:
    """Asks an empty store the same and says where it differs: in an answer, in an order as read, or in a log."""
    wrong: list[str] = []
    orders: dict[str, Order] = {}
    logs: dict[str, list[Order]] = {}
    for n, asked in enumerate(history.asked):
        where = f"write {n}"
        if asked.create is not None:
            created = await store.create(asked.create)
            if (created.existed, created.head.position) != (asked.existed, asked.position):
                wrong.append(f"{where}: create gave {created.existed}, {created.head.position}: {asked}")
            if not asked.existed:
                orders[asked.create.order_id] = asked.create
                logs.setdefault(asked.create.client_id, []).append(asked.create)
        elif asked.save is not None:
            saved = await store.save(asked.save)
            if saved is not asked.saved:
                wrong.append(f"{where}: save gave {saved}: {asked}")
            if asked.saved:
                orders[asked.save.order.order_id] = asked.save.order
                if asked.save.visible:
                    logs.setdefault(asked.save.order.client_id, []).append(asked.save.order)
    for order_id, order in orders.items():
        if await store.order(order.client_id, order_id) != order:
            wrong.append(f"{order_id} isn't read back as it was written last")
    for client_id, log in logs.items():
        read: list[Update] = []
        while page := await store.updates(client_id, len(read), 7):
            read += page
        if [(u.position, u.order) for u in read] != list(enumerate(log, 1)):
            wrong.append(f"the log of {client_id} isn't what was written")
    return wrong

"""`rewardctl review …`."""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import App, Parameter
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from rewardservice._options import Exit, Given, UsageError
from rewardservice._output import Output, clean, enum_name, print_order
from rewardservice._tables import Column, Fitted
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import order_pb2
from rewardservice.values import state_name

review_app = App(
    name="review",
    help="Show what waits for a person, and decide about it. Needs an operator's key.",
)

ReasonName: TypeAlias = Literal[
    "deadline",
    "partial-refund",
    "cards-changed",
    "too-many-cards",
    "contradiction",
    "card-missing",
    "late-success",
    "overcharged",
    "disputed",
    "reversed",
]
DecisionName: TypeAlias = Literal["delivered", "fail", "buy-again", "dismiss"]
RestName: TypeAlias = Literal["fail", "buy-again"]


@review_app.command(name="list")
async def list_reviews(*, supplier: str = "", reason: ReasonName | None = None, limit: int = 50, options: Given) -> int:
    """List the orders of all clients that a person should look at, the one that waits longest first.

    Parameters
    ----------
    supplier
        Only those with something open at this supplier account.
    reason
        Only those with something open for this reason.
    limit
        At most so many orders; 50 if not given.
    """
    output = Output(options.output)
    if limit < 1:
        raise UsageError("--limit must be at least 1")
    wanted = f"REVIEW_REASON_{reason.replace('-', '_').upper() if reason else 'UNSPECIFIED'}"
    found: list[pb.Review] = []
    async with options.client() as client:
        reviews = client.reviews(
            supplier=supplier, reason=order_pb2.ReviewReason.Value(wanted), page_size=min(limit, 200)
        )
        async for review in reviews:
            found.append(review)
            if output.json:
                output.message(review)
            if len(found) >= limit:
                break
    if not output.json:
        output.table(reviews_table(found))
        for note in notes(found):
            output.text(note)
    return Exit.OK


@review_app.command
async def resolve(
    order_id: str,
    purchase: str,
    /,
    *,
    decision: DecisionName,
    reason: str,
    cards_file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    kept_cards: bool = False,
    rest: RestName | None = None,
    actor: str = "",
    options: Given,
) -> int:
    """Decide about one purchase of an order. The decision is recorded, and the client sees what it changes.

    Parameters
    ----------
    order_id
        The order.
    purchase
        The number of the purchase; `rewardctl review list` shows it.
    decision
        delivered: it was, and the client gets its cards. fail: it wasn't bought or the money came back, and its units
        fail. buy-again: as fail, and the units are bought anew. dismiss: close what stands beside the state.
    reason
        Why. The client reads it where units fail.
    cards_file
        With delivered: the cards, one JSON object on each line with "number", "secret", "link", "qr" or
        "instructions"; - for standard input.
    kept_cards
        With delivered: hand over the cards that were kept from the client.
    rest
        With delivered, where no card comes for some of the units: they fail, or are bought anew (buy-again).
    actor
        Who decides, where several share a key.
    """
    output = Output(options.output)
    if decision != "delivered" and (cards_file is not None or kept_cards or rest is not None):
        raise UsageError("--cards-file, --kept-cards and --rest go with --decision delivered")
    cards = () if cards_file is None else tuple(read_cards(cards_file))
    async with options.client() as client:
        order = await client.resolve_order(
            order_id,
            purchase,
            pb.Decision.Value(f"DECISION_{decision.replace('-', '_').upper()}"),
            reason=reason,
            cards=cards,
            deliver_kept_cards=kept_cards,
            rest=pb.Rest.Value(f"REST_{rest.replace('-', '_').upper() if rest else 'UNSPECIFIED'}"),
            actor=actor,
        )
    if output.json:
        output.message(order)
    else:
        print_order(output, order, show_cards=False)
    return Exit.OK


def read_cards(file: Path) -> Iterator[pb.EnteredCard]:
    """The cards of a file, one JSON object on each line. Secrets stay out of every message."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file} isn't text") from None
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json_format.ParseDict(json.loads(line), pb.EnteredCard())
        except (ValueError, json_format.ParseError):
            raise UsageError(f'{file}, line {place}: not a card; as in: {{"number": "…", "secret": "…"}}') from None


def reviews_table(reviews: Iterable[pb.Review]) -> Fitted:
    """One row for each thing that is open."""
    table = Fitted(
        Column("ORDER"),
        Column("PURCHASE"),
        Column("REASON"),
        Column("STATE"),
        Column("SINCE", leaves=4),
        Column("SUPPLIER", leaves=3),
        Column("CLIENT", leaves=2),
        Column("CARDS", leaves=1),
    )
    for review in reviews:
        for item in review.open:
            table.add_row(
                clean(review.order_id),
                clean(item.purchase_number),
                Text(enum_name(order_pb2.ReviewReason, item.reason), style="yellow" if item.keeps_open else ""),
                state_name(review.state),
                _time(item.open_time),
                clean(item.supplier),
                clean(review.client_id),
                cards_text(item),
            )
    return table


def cards_text(item: pb.OpenReview) -> str:
    """How many cards the client has, and how many are kept from it."""
    kept = f", {item.kept_cards} kept" if item.kept_cards else ""
    return f"{item.shown_cards}/{item.quantity}{kept}" if item.shown_cards or item.kept_cards else ""


def notes(reviews: Iterable[pb.Review]) -> Iterator[Text]:
    """What stands below the table: what happened, in words."""
    for review in reviews:
        for item in review.open:
            if item.detail:
                yield Text(f"{clean(item.purchase_number)}  {clean(item.detail)}")


def _time(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""

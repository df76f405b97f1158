"""What the writers do inside the transaction they share: plain functions over a connection."""

from collections.abc import Iterable, Sequence

import apsw

from reward_server.domain.order import Order
from reward_server.errors import LimitReached
from reward_server.store import AuditEntry, Change, Created, Head, Resealed, Rotation, StoreError, Update
from reward_server.store.chain import COLUMNS, chained
from reward_server.store.codec import decode_order
from reward_server.store.quotas import NO_QUOTA, Quota, day_of, refusal, reserved
from reward_server.store.rotating import rotation_row
from reward_server.store.sqlite.sql import STATEMENTS, Row, run
from reward_server.store.tables import sealed_table


def create(
    connection: apsw.Connection, updates: list[Update], order: Order, body: bytes, *, epoch: int, quota: Quota
) -> Created | LimitReached:
    """Inserts an order, its purchases and its first update, or finds the one that has its client_order_id.

    A refusal is returned and not raised: it is this writer's alone, and nothing was written for it.
    """
    refused = None if quota == NO_QUOTA else _refusal(connection, order, quota)
    if refused is not None:
        return refused
    inserted = run(
        connection,
        "create_order",
        order.client_id,
        order.order_id,
        order.client_order_id,
        order.product_id,
        _accounts(order),
        order.state,
        not order.state.is_terminal,
        order.created_at,
        order.review_since,
        order.revision,
        body,
    )
    if not inserted:
        [(stored,)] = run(connection, "order_by_client_order_id", order.client_id, order.client_order_id)
        [(position, pruned_through)] = run(connection, "head", order.client_id)
        return Created(decode_order(stored), True, Head(position, pruned_through, epoch))
    [(position,)] = inserted
    pruned_through = _log(connection, updates, order, position, body)
    connection.executemany(STATEMENTS["put_purchase"], _purchase_rows(order))
    run(connection, "spend", order.client_id, day_of(order), reserved(order))
    return Created(order, False, Head(position, pruned_through, epoch))


def save(connection: apsw.Connection, updates: list[Update], change: Change, body: bytes, *, chain: str) -> bool:
    """Updates an order with what came with the change, if its revision is the expected one."""
    order = change.order
    saved = run(
        connection,
        "save_order",
        order.client_id,
        order.order_id,
        _accounts(order),
        order.state,
        not order.state.is_terminal,
        order.revision,
        body,
        order.revision - 1,
        change.visible,
        order.review_since,
    )
    if not saved:
        return False
    if change.visible:
        _log(connection, updates, order, saved[0][0], body)
    connection.executemany(STATEMENTS["put_purchase"], _purchase_rows(order))
    key = (order.client_id, order.order_id)
    for card in change.cards:
        row = (card.card_no, card.version, card.number, card.hidden, order.updated_at, card.sealed)
        run(connection, "add_card", *key, *row)
    for card_no in change.released:
        if not run(connection, "release_card", *key, card_no, order.version, order.updated_at):
            raise StoreError(f"card {card_no} of order {order.order_id} is no hidden card")
    for answer in change.answers:
        run(connection, "keep_answer", *key, answer.number, answer.at, answer.source, answer.sealed)
    if change.audit is not None:
        add_audit(connection, chain, change.audit)
    return True


def add_audit(connection: apsw.Connection, chain: str, *entries: AuditEntry) -> None:
    """Adds entries to a chain of the audit."""
    ends = run(connection, "end_of_chain", chain)
    last = ends[0] if ends else None
    for entry in entries:
        added = chained(entry, chain, last)
        row = [getattr(added, name) for name in COLUMNS]
        run(connection, "add_audit", *row)
        last = added.place, added.hash


def reseal(connection: apsw.Connection, former: Rotation, now: Rotation, rows: Sequence[Resealed]) -> bool:
    """Stores rows under another key, if the rotation still stands where it did."""
    stands = run(connection, "rotation", former.client_id)
    if stands != [(former.key_id, former.table, former.after, former.ended_at)]:
        return False
    table = sealed_table(former.table)
    client = (former.client_id,) if table.of_clients else ()
    for each in rows:
        values = (each.sealed, each.row.sealed, *client, *each.row.place)
        connection.execute(table.put(places(len(values))), values).fetchall()
    run(connection, "put_rotation", *rotation_row(now))
    return True


def places(count: int) -> tuple[str, ...]:
    """So many placeholders."""
    return tuple(f"?{n}" for n in range(1, count + 1))


def prune(connection: apsw.Connection, client_id: str, before: int, limit: int) -> int:
    """Drops updates made before a time from the start of a log, never one from its middle; says how many."""
    through, dropped = 0, 0
    for position, at in run(connection, "oldest_updates", client_id, limit):
        if at >= before:
            break
        through, dropped = position, dropped + 1
    if dropped:
        for name in ("unlist_orders", "drop_updates", "mark_pruned"):
            run(connection, name, client_id, through)
    return dropped


def _refusal(connection: apsw.Connection, order: Order, quota: Quota) -> LimitReached | None:
    if run(connection, "order_by_client_order_id", order.client_id, order.client_order_id):
        # A retry gets its order, whatever the client has used up since.
        return None
    in_flight = 0
    if quota.orders_in_flight is not None:
        [(in_flight,)] = run(connection, "orders_in_flight", order.client_id)
    [(spent,)] = run(connection, "spent", order.client_id, day_of(order))
    return refusal(order, quota, in_flight, spent)


def _log(connection: apsw.Connection, updates: list[Update], order: Order, position: int, body: bytes) -> int:
    """Logs an order's version at a position; returns through where the log is pruned."""
    [(pruned_through,)] = run(connection, "advance_head", order.client_id, position)
    run(connection, "log_update", order.client_id, position, order.order_id, order.version, order.updated_at, body)
    updates.append(Update(order.client_id, position, order))
    return int(pruned_through)


def _purchase_rows(order: Order) -> Iterable[Row]:
    for purchase in order.purchases:
        account = order.offers[purchase.offer].account
        key = (purchase.number, account, order.client_id, order.order_id)
        yield (*key, purchase.state, not purchase.is_settled, purchase.watch_until)


def _accounts(order: Order) -> str:
    """The accounts bought from, each between line feeds: searching for one name finds no longer one."""
    names = {order.offers[purchase.offer].account for purchase in order.purchases}
    return "".join(f"\n{name}\n" for name in sorted(names))

"""What a caller can get wrong, as exceptions. What a supplier says is never an exception: it is an outcome.

* RewardError
  + InvalidRequest          the caller must change the request
  + Unauthenticated         no key, or none of ours
  + PermissionDenied        a permission is missing
    - CardsNotPermitted     the one to read cards
  + OrderNotFound           no such order of this client
  + OrderNotCancellable     it has ended, other than by a cancel
  + ProductNotFound
  + ClientOrderIdReused     the same client_order_id with other content
  + ProductNotOrderable     no supplier account can be used now
  + PriceAboveLimit         every offer costs more than the caller accepts
  + ResumeTokenInvalid      forged, or of another client
  + ResumeTokenExpired      the log was pruned beyond it
  + LogRewound              the server was restored from an older backup
  + MessageTooLarge         larger than the server takes
  + ReaderTooSlow           a stream's reader took too long
  + LimitReached            the client has used up what it may have
    - TooManyCalls
    - TooManyStreams
    - TooManyOrders         that haven't ended
    - SpendLimitReached     for today
  + PurchaseNotFound        the order has no purchase of that number
  + DecisionRefused         an operator's decision that doesn't fit how things stand
  + SupplierNotFound        no supplier account of that name
  + SupplierProductNotFound the supplier doesn't list it
  + NotOfferedBySupplier    the supplier has no way to tell that
  + SupplierUnavailable     the supplier doesn't answer an operator's question
  + ServerDraining          the server is shutting down
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reward_adapters.money import Money, show_yuan


class RewardError(Exception):
    """Something the caller can act on."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong."""

    field: str
    """Path in the request, as in "recipient.phone.number"."""
    description: str
    """What is wrong and how to mend it; doesn't repeat personal data."""


class InvalidRequest(RewardError):
    """The request can't be understood; every violation is named at once."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class Unauthenticated(RewardError):
    """No key, or none of ours."""


class PermissionDenied(RewardError):
    """A permission is missing."""

    def __init__(self, permission: str, message: str = "") -> None:
        self.permission = permission
        super().__init__(message or f"this client lacks the permission {permission!r}; an operator can grant it")


class CardsNotPermitted(PermissionDenied):
    """Only clients with the permission "read_cards" see cards in full."""

    def __init__(self) -> None:
        super().__init__("read_cards", "view FULL needs the permission 'read_cards'; use view BASIC")


class OrderNotFound(RewardError):
    """No such order of this client."""

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        super().__init__(f"no order {order_id!r}")


class OrderNotCancellable(RewardError):
    """The order has ended, other than by a cancel."""

    def __init__(self, order_id: str, state: str) -> None:
        self.order_id = order_id
        self.state = state
        super().__init__(f"order {order_id} has ended already: it is {state}")


class ClientNotFound(RewardError):
    """No client of that name has keys."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        super().__init__(f"no client {client_id!r} has keys: those that have never ordered have none; see ListKeys")


class CardNotOpened(RewardError):
    """A card is stored and can't be shown: its key is missing, or it was changed."""

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        super().__init__(
            f"a card of order {order_id} is stored but doesn't open; nothing is lost yet: the service's operator finds"
            " the reason in the log by the request id"
        )


class KeyNotOpened(RewardError):
    """A data key doesn't open under any configured master key."""


class ProductNotFound(RewardError):
    """No such product."""

    def __init__(self, product_id: str) -> None:
        self.product_id = product_id
        super().__init__(f"no product {product_id!r}; ListProducts shows what there is")


class ClientOrderIdReused(RewardError):
    """The same client_order_id with other content."""

    def __init__(self, client_order_id: str, order_id: str, fields: Sequence[str]) -> None:
        self.client_order_id = client_order_id
        self.order_id = order_id
        self.fields = tuple(fields)
        super().__init__(
            f"client_order_id {client_order_id!r} belongs to order {order_id} with other content in: "
            f"{', '.join(self.fields)}; use a new client_order_id for a new order"
        )


class ProductNotOrderable(RewardError):
    """No supplier account can be used for the product now."""

    def __init__(self, product_id: str, why: str) -> None:
        self.product_id = product_id
        super().__init__(f"product {product_id!r} can't be ordered now: {why}")


class PriceAboveLimit(RewardError):
    """Every usable offer costs more than the caller accepts. Nothing was stored."""

    def __init__(self, product_id: str, price: Money, limit: Money) -> None:
        self.product_id = product_id
        self.price = price
        self.limit = limit
        super().__init__(f"the cheapest offer of {product_id!r} costs more than max_unit_price")


class ResumeTokenInvalid(RewardError):
    """Not a token of this server for this client."""


class ResumeTokenExpired(RewardError):
    """The log was pruned beyond the token."""

    def __init__(self, oldest_token: str) -> None:
        self.oldest_token = oldest_token
        super().__init__("the log no longer reaches back to this resume_token; start with SNAPSHOT")


class LogRewound(RewardError):
    """The token points into a history that a restore has undone."""

    def __init__(self, oldest_token: str) -> None:
        self.oldest_token = oldest_token
        super().__init__("the server was restored from a backup older than this resume_token; start with SNAPSHOT")


class MessageTooLarge(RewardError):
    """The request is larger than the server takes; it wasn't read."""

    def __init__(self, size: int, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the request has {size} bytes and the server takes {limit}; no valid request needs more")


class ReaderTooSlow(RewardError):
    """A stream's reader took too long; nothing was dropped, it continues with the token. "" = inside of a snapshot."""

    def __init__(self, token: str) -> None:
        self.token = token
        how = "continue with AFTER(resume_token)" if token else "the snapshot wasn't complete: begin it again"
        super().__init__(f"the stream's reader took too long; {how}")


class LimitReached(RewardError):
    """The client has used up what it may have. Nothing was done."""

    def __init__(self, client_id: str, what: str, retry_after: float) -> None:
        self.client_id = client_id
        self.retry_after = retry_after
        super().__init__(what)


class TooManyCalls(LimitReached):
    """More calls per second than the client may make at this replica."""

    def __init__(self, client_id: str, limit: float, retry_after: float) -> None:
        super().__init__(client_id, f"this client may make {limit:g} calls per second", retry_after)


class TooManyStreams(LimitReached):
    """More open streams than the client may have at this replica."""

    def __init__(self, client_id: str, limit: int, retry_after: float) -> None:
        super().__init__(client_id, f"this client may have {limit} open streams; close one", retry_after)


class TooManyOrders(LimitReached):
    """More orders that haven't ended than the client may have."""

    def __init__(self, client_id: str, limit: int, retry_after: float) -> None:
        super().__init__(client_id, f"this client may have {limit} orders that haven't ended", retry_after)


class SpendLimitReached(LimitReached):
    """The order could cost more than is left of what the client may spend on one UTC day."""

    def __init__(self, client_id: str, limit: Money, left: Money, retry_after: float) -> None:
        self.limit = limit
        self.left = left
        super().__init__(
            client_id,
            f"this client may order for {show_yuan(limit)} yuan a day (UTC), of which {show_yuan(left)} are left; "
            "the order could cost more",
            retry_after,
        )


class ServerDraining(RewardError):
    """The server is shutting down, or ends a stream that is as old as its connection may become."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("the server is shutting down or renews connections; reconnect with the last resume_token")


class PurchaseNotFound(RewardError):
    """The order has no purchase of that number."""

    def __init__(self, order_id: str, number: str) -> None:
        self.order_id = order_id
        self.number = number
        super().__init__(f"order {order_id} has no purchase {number!r}; view EXPLAINED shows those it has")


class DecisionRefused(RewardError):
    """An operator's decision doesn't fit how things stand. Nothing was changed."""

    def __init__(self, order_id: str, number: str, state: str, why: str) -> None:
        self.order_id = order_id
        self.number = number
        self.state = state
        super().__init__(f"not for purchase {number}: {why}")


class SupplierNotFound(RewardError):
    """No supplier account of that name is configured."""

    def __init__(self, supplier: str, known: Iterable[str]) -> None:
        self.supplier = supplier
        self.known = tuple(known)
        super().__init__(f"no supplier account {supplier!r}; there are: {', '.join(self.known) or 'none'}")


class SupplierProductNotFound(RewardError):
    """The supplier doesn't list a product under that number."""

    def __init__(self, supplier: str, product: str) -> None:
        self.supplier = supplier
        self.product = product
        super().__init__(f"{supplier} doesn't list a product {product!r}")


class NotOfferedBySupplier(RewardError):
    """The supplier has no way to tell that."""

    def __init__(self, supplier: str, what: str) -> None:
        self.supplier = supplier
        super().__init__(f"the supplier of account {supplier!r} doesn't offer {what}")


class SupplierUnavailable(RewardError):
    """The supplier doesn't answer a question, or not in a way that can be understood. Nothing was bought."""

    def __init__(self, supplier: str, why: str, retry_after: float) -> None:
        self.supplier = supplier
        self.retry_after = retry_after
        super().__init__(f"{supplier} doesn't answer the question: {why}")

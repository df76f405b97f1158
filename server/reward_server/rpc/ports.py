"""What the edge needs from the rest of the server."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from reward_adapters.contract import Card
from reward_server.access import Caller
from reward_server.catalogue import Product
from reward_server.domain.order import Order
from reward_server.engine.ordering import NotOrderable, OrderRequest
from reward_server.engine.outlook import Outlook
from reward_server.metrics import StreamEnd
from reward_server.store import AuditEntry, Created


class Ordering(Protocol):
    """The engine, as far as the edge uses it."""

    async def create(self, request: OrderRequest) -> Created:
        """Stores an order, or finds the one that has the client_order_id. Raises RewardError or StoreError.

        Cancelling the caller cancels nothing that was begun.
        """

    async def cancel(self, order: Order) -> Order:
        """Cancels what can still be cancelled, and notes the wish. Raises OrderNotCancellable or StoreError.

        Cancelling the caller cancels nothing that was begun.
        """

    def outlook(self, order: Order) -> Mapping[str, Outlook]:
        """What each purchase of an order waits for at this moment, by number; lacks what nobody knows."""

    def orderable(self, product: Product) -> NotOrderable | None:
        """Why the product can't be ordered at the moment; None when it can."""


class Authenticator(Protocol):
    """Knows the clients by what they show."""

    async def identify(
        self, authorization_header: str | bytes | None, certificate_names: Callable[[], Iterable[str]], /
    ) -> Caller:
        """The caller, by what it sent and the names in its connection's verified certificate. Raises
        Unauthenticated.
        """

    def admits(self, caller: Caller, /) -> bool:
        """Whether what the caller showed when its call began still counts."""


class CardOpener(Protocol):
    """Opens the cards of one client."""

    def open_card(self, sealed: bytes, order_id: str, card_no: int, /) -> Card:
        """The card as the supplier delivered it."""


class Opener(Protocol):
    """Opens what was sealed."""

    def open(self, sealed: bytes, /, *aad: str) -> bytes:
        """The value, sealed for the place that `aad` names. Raises SealError."""


class ClientOpener(CardOpener, Opener, Protocol):
    """Opens everything that was sealed for one client."""


class CardVault(Protocol):
    """Knows the clients' data keys."""

    async def client(self, client_id: str, to_open: Iterable[bytes] = (), /) -> ClientOpener:
        """The opener for what is sealed for a client; `to_open` is what it will be asked for."""


class Audit(Protocol):
    """Writes down who read which cards."""

    @property
    def behind(self) -> bool:
        """Whether what streams showed a minute ago couldn't be written down yet."""

    async def record(self, entry: AuditEntry, /) -> None:
        """Returns when the entry is on disk. Raises StoreError."""

    def note(self, entry: AuditEntry, /) -> None:
        """Writes the entry soon."""

    def read(
        self, by: str, *, how: str, cards: int, order_id: str = "", positions: tuple[int, int] = (0, 0)
    ) -> AuditEntry:
        """The entry for cards that a client read of its own orders."""

    def streamed(self, by: str, *, how: str, cards: int, positions: tuple[int, int]) -> AuditEntry:
        """The entry for what a stream has shown since the one before."""


class UpDown(Protocol):
    """A number that goes up and down."""

    def inc(self) -> None:
        """One more."""

    def dec(self) -> None:
        """One less."""


class Count(Protocol):
    """A number that goes up."""

    def inc(self, amount: float = 1) -> None:
        """`amount` more."""


class RpcMetrics(Protocol):
    """What the edge measures."""

    @property
    def streams(self) -> UpDown:
        """Open streams."""

    @property
    def stream_messages(self) -> Count:
        """Messages sent on streams."""

    def stream_ended(self, cause: StreamEnd) -> None:
        """A stream ended."""

    def stream_delayed(self, milliseconds: int) -> None:
        """Updates were written to a reader so long after the oldest of them was made."""

    def rpc_expected(self, method: str) -> None:
        """There is such a method; told before any call."""

    def rpc_started(self, method: str) -> None:
        """An RPC began; `method` as in "RewardService/CreateOrder"."""

    def rpc_finished(self, method: str, code: str, seconds: float | None = None) -> None:
        """An RPC ended; `seconds` is None for streams."""

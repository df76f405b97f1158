"""What is decided at one replica holds at all of them, and each can tell what became of an order."""

from collections.abc import Callable
from pathlib import Path

from crash.stores import shared_store
from crash.world import GIVE_UP_SECONDS, Client, Wish
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import operator_service_pb2_grpc, order_pb2
from service.harness import OPERATOR, Caller, State

from .fleet import Fleet, fleet

AS_OPERATOR = (("authorization", f"Bearer {OPERATOR}"),)
ACCOUNT = "kasushou"
CARD = Wish("kasushou/card", "together-1")
LATER = Wish("kasushou/card", "together-2")
CANCELLED = Wish("kaquan91_recharge/cancelled", "together-3")

ONE, ANOTHER = 0, 1


class Operator:
    """A person at one replica."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(client.channel)

    async def pause(self) -> None:
        """Stops buying from the account."""
        request = pb.PauseSupplierRequest(supplier=ACCOUNT, reason="they asked us to", actor="Li")
        await self._client.insist(lambda: self._stub.PauseSupplier(request, metadata=AS_OPERATOR))

    async def resume(self) -> None:
        """Goes on."""
        request = pb.ResumeSupplierRequest(supplier=ACCOUNT, reason="they are back", actor="Li")
        await self._client.insist(lambda: self._stub.ResumeSupplier(request, metadata=AS_OPERATOR))

    async def paused_by(self) -> str:
        """Who paused the account, as this replica knows."""
        request = pb.ListSuppliersRequest()
        listed = await self._client.insist(lambda: self._stub.ListSuppliers(request, metadata=AS_OPERATOR))
        return next(supplier.paused_by for supplier in listed.suppliers if supplier.name == ACCOUNT)

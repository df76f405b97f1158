"""From errors to gRPC statuses: one table, held complete by a test, and the details that go with each error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from reward_adapters.money import show_yuan
from reward_server import errors
from reward_server.errors import RewardError, Violation
from reward_server.store import StoreBroken, StoreError, StoreUnavailable
from rewardservice.v1 import error_reason_pb2 as pb

DOMAIN = "rewardservice.v1"
DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"
STORE_RETRY_SECONDS = 1.0
"""A full disk or a locked file doesn't heal faster."""
MAX_MESSAGE = 512
"""Characters of an error's message: it travels in a header, percent-encoded."""
MAX_NAMES = 40
"""Names that one error lists, of at most 40 characters each."""
MAX_VIOLATION_BYTES = 3_000
"""Headers end at 8 KB by default, and details travel in base64."""

STATUS: Mapping[type[Exception], tuple[grpc.StatusCode, pb.ErrorReason.ValueType]] = {
    errors.InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, pb.ERROR_REASON_INVALID_REQUEST),
    errors.Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, pb.ERROR_REASON_UNAUTHENTICATED),
    errors.PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, pb.ERROR_REASON_PERMISSION_DENIED),
    errors.CardsNotPermitted: (grpc.StatusCode.PERMISSION_DENIED, pb.ERROR_REASON_CARDS_NOT_PERMITTED),
    errors.OrderNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_ORDER_NOT_FOUND),
    errors.OrderNotCancellable: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_ORDER_NOT_CANCELLABLE),
    errors.ProductNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_PRODUCT_NOT_FOUND),
    errors.ClientOrderIdReused: (grpc.StatusCode.ALREADY_EXISTS, pb.ERROR_REASON_CLIENT_ORDER_ID_REUSED),
    errors.ProductNotOrderable: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_PRODUCT_NOT_ORDERABLE),
    errors.PriceAboveLimit: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_PRICE_ABOVE_LIMIT),
    errors.ResumeTokenInvalid: (grpc.StatusCode.INVALID_ARGUMENT, pb.ERROR_REASON_RESUME_TOKEN_INVALID),
    errors.ResumeTokenExpired: (grpc.StatusCode.OUT_OF_RANGE, pb.ERROR_REASON_RESUME_TOKEN_EXPIRED),
    errors.LogRewound: (grpc.StatusCode.OUT_OF_RANGE, pb.ERROR_REASON_LOG_REWOUND),
    errors.MessageTooLarge: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_MESSAGE_TOO_LARGE),
    errors.ReaderTooSlow: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_READER_TOO_SLOW),
    errors.TooManyCalls: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_TOO_MANY_CALLS),
    errors.TooManyStreams: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_TOO_MANY_STREAMS),
    errors.TooManyOrders: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_TOO_MANY_ORDERS),
    errors.SpendLimitReached: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_SPEND_LIMIT_REACHED),
    errors.LimitReached: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_TOO_MANY_CALLS),
    errors.ServerDraining: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_SERVER_DRAINING),
    errors.PurchaseNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_PURCHASE_NOT_FOUND),
    errors.DecisionRefused: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_DECISION_REFUSED),
    errors.CardNotOpened: (grpc.StatusCode.INTERNAL, pb.ERROR_REASON_CARD_NOT_OPENED),
    errors.ClientNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_CLIENT_NOT_FOUND),
    errors.KeyNotOpened: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_KEY_NOT_OPENED),
    errors.SupplierNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_SUPPLIER_NOT_FOUND),
    errors.SupplierProductNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_SUPPLIER_PRODUCT_NOT_FOUND),
    errors.NotOfferedBySupplier: (grpc.StatusCode.FAILED_PRECONDITION, pb.ERROR_REASON_NOT_OFFERED_BY_SUPPLIER),
    errors.SupplierUnavailable: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_SUPPLIER_UNAVAILABLE),
    # A broken store ends the process; what the caller can do is the same: ask again with the same ids.
    StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_STORE_UNAVAILABLE),
    StoreBroken: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_STORE_UNAVAILABLE),
}


@dataclass(frozen=True, slots=True)
class Status:
    """How an RPC ends with an error."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def status_of(error: Exception, request_id: str) -> Status | None:
    """The status for an error; None when it is none that a caller can act on."""
    entry = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)
    if entry is None:
        return None
    code, reason = entry
    if isinstance(error, StoreError):
        # What the store says is for the operator.
        text = "the store can't write at the moment; retry with the same ids"
    elif isinstance(error, errors.InvalidRequest):
        text = _summary(error.violations)
    else:
        text = str(error)
    return _status(code, reason, text, {**_metadata(error), "request_id": request_id}, _details(error))


def internal(request_id: str) -> Status:
    """The status for a defect: the log has the rest."""
    text = f"an error inside the server; its operator finds it in the log by the request id {request_id}"
    return _status(grpc.StatusCode.INTERNAL, pb.ERROR_REASON_INTERNAL, text, {"request_id": request_id})


def unimplemented(request_id: str, method: str) -> Status:
    """The status for a method that doesn't exist."""
    text = f"no method {method[:100]!r}"
    return _status(grpc.StatusCode.UNIMPLEMENTED, pb.ERROR_REASON_UNIMPLEMENTED, text, {"request_id": request_id})


def _status(
    code: grpc.StatusCode,
    reason: pb.ErrorReason.ValueType,
    text: str,
    metadata: Mapping[str, str],
    details: Sequence[message.Message] = (),
) -> Status:
    text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
    info = error_details_pb2.ErrorInfo(
        reason=pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_"),
        domain=DOMAIN,
        metadata=metadata,
    )
    status = status_pb2.Status(code=code.value[0], message=text, details=[_any(info), *map(_any, details)])
    return Status(code, text, ((DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, metadata["request_id"])))


def _metadata(error: Exception) -> dict[str, str]:
    match error:
        case errors.PermissionDenied():
            return {"permission": error.permission}
        case errors.OrderNotFound() | errors.CardNotOpened():
            return {"order_id": error.order_id}
        case errors.ClientNotFound():
            return {"client_id": error.client_id}
        case errors.OrderNotCancellable():
            return {"order_id": error.order_id, "state": error.state}
        case errors.ProductNotFound() | errors.ProductNotOrderable():
            return {"product_id": error.product_id}
        case errors.ClientOrderIdReused():
            return {
                "client_order_id": error.client_order_id,
                "order_id": error.order_id,
                "fields": ",".join(error.fields),
            }
        case errors.PriceAboveLimit():
            return {
                "product_id": error.product_id,
                "price": show_yuan(error.price),
                "limit": show_yuan(error.limit),
            }
        case errors.ResumeTokenExpired() | errors.LogRewound():
            return {"oldest_resume_token": error.oldest_token}
        case errors.ReaderTooSlow():
            return {"resume_token": error.token} if error.token else {}
        case errors.SpendLimitReached():
            return {"limit": show_yuan(error.limit), "left": show_yuan(error.left)}
        case errors.PurchaseNotFound():
            return {"order_id": error.order_id, "purchase_number": error.number}
        case errors.DecisionRefused():
            return {"order_id": error.order_id, "purchase_number": error.number, "state": error.state}
        case errors.SupplierNotFound():
            return {"supplier": error.supplier, "suppliers": ",".join(error.known[:MAX_NAMES])}
        case errors.SupplierProductNotFound():
            return {"supplier": error.supplier, "product": error.product}
        case errors.NotOfferedBySupplier() | errors.SupplierUnavailable():
            return {"supplier": error.supplier}
    return {}


def _details(error: Exception) -> list[message.Message]:
    match error:
        case errors.InvalidRequest():
            return [_bad_request(error.violations)]
        case errors.OrderNotFound():
            return [_resource("Order", error.order_id, error)]
        case errors.ProductNotFound():
            return [_resource("Product", error.product_id, error)]
        case errors.ClientOrderIdReused() | errors.OrderNotCancellable():
            return [_resource("Order", error.order_id, error)]
        case errors.PurchaseNotFound() | errors.DecisionRefused():
            return [_resource("Purchase", error.number, error)]
        case errors.SupplierNotFound():
            return [_resource("Supplier", error.supplier, error)]
        case errors.SupplierProductNotFound():
            return [_resource("SupplierProduct", error.product, error)]
        case errors.LimitReached():
            failure = error_details_pb2.QuotaFailure()
            failure.violations.add(subject=f"client:{error.client_id}", description=str(error))
            return [failure, _retry(error.retry_after)]
        case errors.ServerDraining() | errors.SupplierUnavailable():
            return [_retry(error.retry_after)]
        case StoreError():
            return [_retry(STORE_RETRY_SECONDS)]
    return []


def _summary(violations: tuple[Violation, ...]) -> str:
    if len(violations) == 1:
        return f"{violations[0].field}: {violations[0].description}".removeprefix(": ")
    return f"{len(violations)} things to mend in: {', '.join(dict.fromkeys(v.field for v in violations))}"


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        request.field_violations.add(field=violation.field, description=violation.description)
        if request.ByteSize() > MAX_VIOLATION_BYTES and number + 1 < len(violations):
            left = len(violations) - number - 1
            request.field_violations.add(field="", description=f"and {left} more; mend these first")
            break
    return request


def _resource(kind: str, name: str, error: RewardError) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type=f"{DOMAIN}.{kind}", resource_name=name, description=str(error))


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _any(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed

"""Errors on the wire: one table, complete in both directions."""

import inspect
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from reward_adapters.money import yuan
from reward_server import errors
from reward_server.errors import InvalidRequest, PriceAboveLimit, RewardError, Violation
from reward_server.rpc.status import DETAILS_KEY, STATUS, Status, internal, status_of, unimplemented
from reward_server.store import StoreBroken, StoreUnavailable
from rewardservice.v1.error_reason_pb2 import ErrorReason

WRITTEN_BY_GRPC = {"ERROR_REASON_UNSPECIFIED"}
"""gRPC itself refuses large messages, without details."""


def details(status: Status | None) -> list[object]:
    """The unpacked details."""
    assert status is not None
    [raw] = [value for key, value in status.trailing_metadata if key == DETAILS_KEY]
    assert isinstance(raw, bytes)
    found: list[object] = []
    for packed in status_pb2.Status.FromString(raw).details:
        detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(detail)
        found.append(detail)
    return found


def test_every_error_has_a_status() -> None:
    """Each exception that a caller can meet stands in the table."""
    classes = {
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, RewardError) and member is not RewardError
    }
    assert classes <= set(STATUS)


def test_every_reason_is_produced() -> None:
    """Each reason of the contract has an error that sends it."""
    sent = {reason for _, reason in STATUS.values()}
    for made in (internal("r"), unimplemented("r", "/x/Y")):
        info = details(made)[0]
        sent.add(ErrorReason.Value(f"ERROR_REASON_{getattr(info, 'reason', '')}"))
    assert {name for name, value in ErrorReason.items() if value not in sent} == WRITTEN_BY_GRPC


def test_the_contracts_comments_name_the_codes() -> None:
    """Codes that may be retried blindly are used for nothing but somebody who is away: the store, the server, or
    a supplier that an operator asks something."""
    retried = {kind for kind, (code, _) in STATUS.items() if code is grpc.StatusCode.UNAVAILABLE}
    assert retried == {errors.ServerDraining, errors.SupplierUnavailable, StoreUnavailable, StoreBroken}


def test_what_the_store_says_stays_inside() -> None:
    """A path or a text of the database never reaches a client; it is told to try again."""
    status = status_of(StoreUnavailable("disk full: /var/lib/secret.db"), "r")
    assert status is not None
    assert "secret" not in str(status)
    assert [type(detail).__name__ for detail in details(status)] == ["ErrorInfo", "RetryInfo"]


def test_a_subclass_has_the_status_of_its_class() -> None:
    """An engine may raise a finer error of the store."""

    class Locked(StoreUnavailable):
        """Finer."""

    status = status_of(Locked(), "r")
    assert status is not None
    assert status.code is grpc.StatusCode.UNAVAILABLE


def test_amounts_are_told_in_yuan() -> None:
    """Price and limit are metadata that programs can read."""
    [info] = details(status_of(PriceAboveLimit("card", yuan("98.5"), yuan("98.1234")), "r"))
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"product_id": "card", "price": "98.50", "limit": "98.1234", "request_id": "r"}


@pytest.mark.parametrize("text", ["x" * 5_000, "值" * 5_000])
def test_headers_stay_small(text: str) -> None:
    """However many fields are wrong, the error fits into the headers that clients accept by default."""
    status = status_of(InvalidRequest([Violation(f"field[{n}]", text[:100]) for n in range(1_000)]), "r")
    assert status is not None
    size = sum(len(value) for _, value in status.trailing_metadata)
    assert size * 4 / 3 + len(status.message.encode()) * 3 < 8_192
    request = details(status)[1]
    assert isinstance(request, error_details_pb2.BadRequest)
    assert "more" in request.field_violations[-1].description


def test_unknown_exceptions_have_no_status() -> None:
    """What isn't in the table is a defect, not an answer."""
    assert status_of(KeyError("x"), "r") is None


def test_every_reason_is_explained() -> None:
    """The page on errors has a section for each reason of the contract, and no other."""
    page = Path(__file__).parents[2] / "docs" / "errors.md"
    sections = {line.removeprefix("### ") for line in page.read_text().splitlines() if line.startswith("### ")}
    assert sections == {name.removeprefix("ERROR_REASON_") for name, value in ErrorReason.items() if value}

"""What fuzzing found once, in its shortest form."""

import pytest

from reward_server.store.codec import OrderUnreadable, decode_order, encode_order
from store.samples import an_order


def test_a_stored_order_that_is_no_text_is_refused_without_quoting_it() -> None:
    """Bytes that no encoding knows used to come up as another error, which quotes what it stumbled over."""
    body = encode_order(an_order(metadata={"note": "CANARY"})).replace(b"CANARY", b"CANARY\x89")
    with pytest.raises(OrderUnreadable) as raised:
        decode_order(body)
    assert "CANARY" not in f"{raised.value!r}"
    assert raised.value.__suppress_context__

"""Resume and page tokens: what the service wrote for a client is accepted from that client, and nothing else is."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.errors import LogRewound, ResumeTokenExpired, ResumeTokenInvalid
from reward_server.resume import PageTokenInvalid, Tokens
from reward_server.store import Head

KEY = bytes(range(32))
TOKENS = Tokens(KEY)
HEAD = Head(position=100, pruned_through=10, epoch=7)
QUERY = ("ListOrders", "shop", "", "card", "")

positions = st.integers(10, 100)


@given(st.text(max_size=64), positions)
def test_a_token_is_read_back(client_id: str, position: int) -> None:
    """The position of a token is the one it was written for, whatever the client's name."""
    token = TOKENS.resume_token(client_id, HEAD.epoch, position)
    assert len(token) == 44
    assert TOKENS.position(client_id, token, HEAD) == position


@given(positions, st.integers(0, 43), st.characters())
def test_any_changed_character_is_refused(position: int, place: int, character: str) -> None:
    """A token with one other character is no token."""
    token = TOKENS.resume_token("shop", HEAD.epoch, position)
    changed = token[:place] + character + token[place + 1 :]
    if changed != token:
        with pytest.raises(ResumeTokenInvalid):
            TOKENS.position("shop", changed, HEAD)


raw_tokens = st.binary(min_size=33, max_size=33).map(lambda raw: base64.urlsafe_b64encode(raw).decode())


@given(st.one_of(st.text(max_size=60), raw_tokens))
def test_garbage_is_refused(garbage: str) -> None:
    """Nothing that wasn't written with the key is a token."""
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.position("shop", garbage, HEAD)


@given(positions)
def test_another_client_or_server_is_refused(position: int) -> None:
    """A token of another client, or of a server with another key, is refused."""
    token = TOKENS.resume_token("shop", HEAD.epoch, position)
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.position("other", token, HEAD)
    with pytest.raises(ResumeTokenInvalid):
        Tokens(bytes(32)).position("shop", token, HEAD)


@pytest.mark.parametrize("spelling", ["{}=", " {}", "{}\n", "{}!"])
def test_only_one_spelling_counts(spelling: str) -> None:
    """Padding, blanks and characters that base64 readers skip don't make other spellings of a token."""
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.position("shop", spelling.format(TOKENS.resume_token("shop", 7, 50)), HEAD)


def test_the_ends_of_the_log() -> None:
    """A token is good from the oldest update the log still has up to its head."""
    for position in (10, 100):
        assert TOKENS.position("shop", TOKENS.resume_token("shop", 7, position), HEAD) == position
    with pytest.raises(ResumeTokenExpired) as expired:
        TOKENS.position("shop", TOKENS.resume_token("shop", 7, 9), HEAD)
    assert TOKENS.position("shop", expired.value.oldest_token, HEAD) == 10


@pytest.mark.parametrize(("epoch", "position"), [(7, 101), (6, 50), (8, 5)])
def test_another_history_is_told_apart(epoch: int, position: int) -> None:
    """A token from beyond the head or of another epoch says that the log was rewound, and where to begin."""
    with pytest.raises(LogRewound) as rewound:
        TOKENS.position("shop", TOKENS.resume_token("shop", epoch, position), HEAD)
    assert TOKENS.position("shop", rewound.value.oldest_token, HEAD) == 10


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64))
def test_a_page_token_is_read_back(place: str) -> None:
    """A page token continues where it was written; no token begins at the beginning."""
    assert TOKENS.place(QUERY, TOKENS.page_token(QUERY, place)) == place
    assert TOKENS.place(QUERY, "") == ""


@pytest.mark.parametrize("place", range(len(QUERY)))
def test_a_page_token_of_another_query_is_refused(place: int) -> None:
    """Method, client and each filter are part of a page token."""
    token = TOKENS.page_token(QUERY, "01ABC")
    other = (*QUERY[:place], QUERY[place] + "x", *QUERY[place + 1 :])
    with pytest.raises(PageTokenInvalid):
        TOKENS.place(other, token)


def test_filters_do_not_run_together() -> None:
    """Where one filter ends and the next begins is part of a page token."""
    with pytest.raises(PageTokenInvalid):
        TOKENS.place(("a", "bc"), TOKENS.page_token(("ab", "c"), "x"))


@given(st.data())
def test_any_changed_page_token_is_refused(data: st.DataObject) -> None:
    """A page token with one other, one more or one missing character is no token."""
    token = TOKENS.page_token(QUERY, "01ABC")
    place = data.draw(st.integers(0, len(token)))
    changed = token[:place] + data.draw(st.text(max_size=1)) + token[place + data.draw(st.integers(0, 1)) :]
    if changed not in (token, ""):
        with pytest.raises(PageTokenInvalid):
            TOKENS.place(QUERY, changed)


def test_the_two_kinds_are_not_mixed_up() -> None:
    """A resume token is no page token."""
    with pytest.raises(PageTokenInvalid):
        TOKENS.place(QUERY, TOKENS.resume_token("shop", 7, 50))


def test_a_short_key_is_refused() -> None:
    """A key that could be guessed stops the server at its start."""
    with pytest.raises(ValueError, match="32 bytes"):
        Tokens(b"short")

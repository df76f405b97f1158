"""Outlines: enough of what a supplier sent to know what happened, and nothing that could be a part of a card."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.outline import MAX_BYTES, MAX_READ, outline


def of(value: Any) -> str:
    """The outline of a value sent as JSON."""
    return outline(json.dumps(value, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"code": "0000", "data": None, "ok": True}, '{"code": "0000", "data": null, "ok": true}'),
        ({"code": 100404, "msg": "成功"}, '{"code": 100404, "msg": "成功"}'),
        ({"order_no": "2026112200001", "total": 12345}, '{"order_no": <13 characters>, "total": <5 digits>}'),
        ({"price": 98.5, "big": 12345678901234567890}, '{"price": 98.5, "big": <20 digits>}'),
        ({"data": {"code": "123456"}}, '{"data": {"code": <6 characters>}}'),
        (["1234", "5678", 1], "[<4 characters>, <4 characters>, 1]"),
        ({"empty": "", "none": []}, '{"empty": "", "none": []}'),
    ],
)
def test_structure_codes_and_words_stay(sent: Any, shown: str) -> None:
    """Names of fields, truth values, null and short codes are shown; everything longer is its length."""
    assert of(sent) == shown


@pytest.mark.parametrize(
    "key",
    [
        *("card_no", "card_pws", "card_pwd", "card_num", "card_pass", "card_password", "cardPwd", "link", "qrUrl"),
        *("secret", "token", "access_token", "sign", "_sign", "mobile", "account", "receive_no", "recharge_account"),
    ],
)
def test_fields_of_cards_and_people_are_hidden_whatever_their_length(key: str) -> None:
    """A PIN of two digits is a secret all the same."""
    assert of({key: "12"}) == of({key: 12}) == f'{{"{key}": <hidden>}}'


def test_of_a_card_its_state_is_shown() -> None:
    """How a card stands tells an operator what to ask for; whatever else it holds is hidden, however deep."""
    cards = [{"status": 6, "no": "7", "more": {"x": "8", "type": "9"}}, "10"]
    hidden = '[{"status": 6, "no": <hidden>, "more": {"x": <hidden>, "type": "9"}}, <hidden>]'
    assert of({"cards": cards}) == f'{{"cards": {hidden}}}'


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("商品已下架", "商品已下架"),
        ("rate limit exceeded", "rate limit exceeded"),
        ("IP 10.0.0.7 未授权", "IP *** 未授权"),
        ("card ABCD1234EFGH sold", "card *** sold"),
        ("卡密：AB12CD34，请查收", "卡密：***，请查收"),
        ("see https://u.cn/AbCd", "see ***"),
        ("1234 5678 9012 3456", "*** *** *** ***"),
        ("code １２３４５６７", "code ***"),
        ("a\nb\x1b[2Jc", "a b [2Jc"),
    ],
)
def test_messages_keep_their_plain_words(message: str, shown: str) -> None:
    """What went wrong is told in words; numbers, links and codes inside them are masked."""
    assert of({"msg": message}) == json.dumps({"msg": shown}, ensure_ascii=False)


@pytest.mark.parametrize("key", ["msg", "message", "error", "error_description", "systemMsg", "reason"])
def test_what_counts_as_a_message(key: str) -> None:
    """The suppliers' names for their words."""
    assert of({key: "out of stock"}) == f'{{"{key}": "out of stock"}}'


def test_forms_are_outlined_like_objects() -> None:
    """A callback that comes as a form."""
    sent = urlencode({"out_trade_no": "0" * 26, "status": "2", "sign": "a1", "msg": "成功"}).encode()
    assert outline(sent) == 'form {"out_trade_no": <26 characters>, "status": "2", "sign": <hidden>, "msg": "成功"}'


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b'{"card_no": "ABC', "no JSON and no form, 16 bytes, begins like JSON"),
        (b"<html><body>ABCD1234</body>", "no JSON and no form, 27 bytes, HTML"),
        (b"<?xml version='1.0'?>", "no JSON and no form, 21 bytes, XML or HTML"),
        (b"QUJDREVGR0g=", "no JSON and no form, 12 bytes, doesn't begin like JSON"),
        (b"ABCD1234=&EFGH=", "no JSON and no form, 15 bytes, doesn't begin like JSON"),
        ('{"msg": "成功"}'.encode("gbk"), "not UTF-8, 15 bytes, begins like JSON"),
        (b"\xef\xbb\xbf[1]", "[1]"),
        (b"[" * 100_000, "no JSON and no form, 100,000 bytes, begins like JSON"),
        (b" " * MAX_READ + b"1", "262,145 bytes, doesn't begin like JSON"),
    ],
)
def test_anything_else_is_described_and_never_quoted(sent: bytes, shown: str) -> None:
    """A paid card may be inside what can't be read: only its kind and its size are told."""
    assert outline(sent) == shown


def test_long_lists_and_deep_objects_are_cut() -> None:
    """An outline is for a glance, whatever was sent."""
    assert of(list(range(30))).endswith(", 18, 19, … 10 more]")
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    assert "{… 1 …}" in of(deep)
    wide = of({f"field_{letter}{n}": "ok" for letter in "abcdefghij" for n in range(99)})
    assert len(wide) < MAX_BYTES
    assert wide.endswith("… 890 more}")


SECRETS = st.from_regex(r"[0-9A-Za-z]{5,20}", fullmatch=True).filter(lambda s: sum(c.isdigit() for c in s) > 2)
KEYS = st.sampled_from(["code", "msg", "data", "result", "card_no", "cards", "info", "x", "status", "error", "list"])


def planted(secret: str) -> st.SearchStrategy[Any]:
    """Values of any shape that hold a secret somewhere: as a text, inside one, as a name, as a number."""
    texts = st.sampled_from([secret, f"卡号{secret}", f"your code is {secret}!", f"https://u.cn/{secret}?a=1"])
    leaves = texts | st.sampled_from([{secret: 1}, {f"a{secret}": "b"}, [secret], None, True, 7, "ok"])
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    )


@given(st.data())
def test_no_secret_survives_in_any_place(data: st.DataObject) -> None:
    """Whatever the shape, a text that could be a card's never stands in the outline."""
    secret = data.draw(SECRETS)
    value = data.draw(planted(secret))
    body = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode()
    cut = data.draw(st.integers(0, len(body)))
    form = urlencode({"msg": f"no {secret}", "info": secret, "b": "2"}).encode()
    for sent in (body, body[:cut], form, form[:cut], secret.encode(), body + secret.encode()):
        assert secret not in outline(sent)


@given(st.from_regex(r"[1-9][0-9]{6,25}", fullmatch=True), KEYS)
def test_no_long_number_survives(number: str, key: str) -> None:
    """Nor does a card's number that is written as a number."""
    assert number not in outline(f'{{"{key}": {number}, "a": [{number}, -{number}.5e7]}}'.encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_no_bytes_upset_it(body: bytes) -> None:
    """It never raises, and its size is bounded."""
    assert len(outline(body).encode()) <= MAX_BYTES


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_json_upsets_it(value: Any) -> None:
    """Nor does any JSON, half surrogate pairs included."""
    assert len(outline(json.dumps(value).encode()).encode()) <= MAX_BYTES
    assert "can't be outlined" not in outline(json.dumps(value).encode())

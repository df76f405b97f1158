"""Outlines: enough of what a supplier sent to know what happened, and nothing that could be a part of a card."""

import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reward_adapters.scrubbing import known
from reward_server.outline import CODE_DIGITS, MAX_BYTES, MAX_READ, SHOWN_CODES, outline


def of(value: Any) -> str:
    """The outline of a value sent as JSON."""
    return outline(json.dumps(value, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"code": "0000", "data": None, "ok": True}, '{"code": "0000", "data": null, "ok": true}'),
        ({"code": 100404, "msg": "成功"}, '{"code": 100404, "msg": "成功"}'),
        ({"order_no": "2026112200001", "total": 12345}, '{"order_no": <13 characters>, "total": <5 digits>}'),
        ({"price": 98.5, "big": 12345678901234567890}, '{"price": <3 digits>, "big": <20 digits>}'),
        ({"data": {"code": "123456"}}, '{"data": {"code": <6 characters>}}'),
        ({"data": {"code": 404, "status": "-1"}}, '{"data": {"code": 404, "status": "-1"}}'),
        ({"status": "success", "suceess": "ABCD"}, '{"status": "success", "suceess": <4 characters>}'),
        ({"p": "1", "code": ["12"]}, '{"p": <1 character>, "code": [<2 characters>]}'),
        (["1234", "5678", 1], "[<4 characters>, <4 characters>, <1 digit>]"),
        ({"empty": "", "none": []}, '{"empty": "", "none": []}'),
    ],
)
def test_structure_codes_and_words_stay(sent: Any, shown: str) -> None:
    """Names of fields, truth values, null and short codes under their keys are shown; everything else is its length."""
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
    inner = '<key of 4 characters>: {<key of 1 character>: <hidden>, "type": "9"}'
    hidden = f'[{{"status": 6, "no": <hidden>, {inner}}}, <hidden>]'
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
        ("1234 5678 9012 3456", "***"),
        ("ABCD EFGH JKLM NPQR", "***"),
        ("卡密：ABCD，EFGH", "卡密：***"),
        ("AB\u200bCD\u200bEF\u200bGH", "***"),
        ("卡密 qwertyuiopasdf", "卡密 ***"),
        (["1234", "5678", "9012"], "***"),
        (["ABCD", "EFGH"], "***"),
        (["商品", "已下架"], "商品 已下架"),
        ("code １２３４５６７", "code ***"),
        ("order\nfailed\x1b[2Jc", "order failed [2Jc"),
    ],
)
def test_messages_keep_their_plain_words(message: str | list[str], shown: str) -> None:
    """What went wrong is told in words; numbers, links and codes inside them are masked."""
    assert of({"msg": message}) == json.dumps({"msg": shown}, ensure_ascii=False)


@pytest.mark.parametrize("key", ["msg", "message", "error", "error_description", "systemMsg", "reason"])
def test_what_counts_as_a_message(key: str) -> None:
    """The suppliers' names for their words."""
    assert of({key: "out of stock"}) == f'{{"{key}": "out of stock"}}'


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"QWERTYUIOPASDFGH": 1}, "{<key of 16 characters>: <1 digit>}"),
        ({"ABCD-EFGH-JKLM": True}, "{<key of 14 characters>: true}"),
        ({"a1234": True, "aBcDeF": True}, "{<key of 5 characters>: true, <key of 6 characters>: true}"),
        ({"cards": {"qwertyuiop": 1}}, '{"cards": {<key of 10 characters>: <hidden>}}'),
        (
            {"outTradeNo": True, "card_no": "1", "_sign": "2"},
            '{"outTradeNo": true, "card_no": <hidden>, "_sign": <hidden>}',
        ),
        ({"a12": True, "a34": True, "a56": True}, '{"a12": true, "a34": true, <key of 3 characters>: true}'),
    ],
)
def test_only_what_looks_like_a_name_is_shown_as_one(sent: Any, shown: str) -> None:
    """A card can stand where the name of a field should; around cards only known names are shown."""
    assert of(sent) == shown


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (
            {"code": "123456", "status": "789", "state": "01", "ret": "2"},
            '{"code": "123456", "status": <3 characters>, "state": "01", "ret": <1 character>}',
        ),
        ({"msg": "错误ABC", "message": "错误DEF"}, '{"msg": "错误ABC", "message": "错误***"}'),
        ({"msg": "1234 号", "message": "56 号", "code": 789}, '{"msg": "1234 号", "message": "*** 号", "code": 789}'),
    ],
)
def test_codes_in_several_places_never_add_up(sent: Any, shown: str) -> None:
    """They are counted over the whole outline: what is beyond is shown by its length."""
    assert of(sent) == shown


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
        (b"\xef\xbb\xbf[true]", "[true]"),
        (b"[" * 30_000, "no JSON and no form, 30,000 bytes, begins like JSON"),
        (b" " * MAX_READ + b"1", "32,769 bytes, doesn't begin like JSON"),
    ],
)
def test_anything_else_is_described_and_never_quoted(sent: bytes, shown: str) -> None:
    """A paid card may be inside what can't be read: only its kind and its size are told."""
    assert outline(sent) == shown


def test_long_lists_and_deep_objects_are_cut() -> None:
    """An outline is for a glance, whatever was sent."""
    assert of(list(range(30))).endswith(", <2 digits>, <2 digits>, … 10 more]")
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    assert "{… 1 …}" in of(deep)
    wide = of({f"field_{letter}{n}": "ok" for letter in "abcdefghij" for n in range(99)})
    assert len(wide) < MAX_BYTES
    assert wide.endswith("… 890 more}")


SECRETS = st.one_of(
    # Under a key that says "code" up to six digits are one.
    st.from_regex(r"[0-9A-Za-z]{5,20}", fullmatch=True).filter(
        lambda s: sum(c.isdigit() for c in s) > 2 and not (s.isdigit() and len(s) <= CODE_DIGITS)
    ),
    st.from_regex(r"[A-Z]{6,20}", fullmatch=True).filter(lambda s: not known(s)),
    st.text("bcdfghjklmnpqrstvwxz", min_size=6, max_size=20).filter(lambda s: not known(s)),
)
KEYS = st.sampled_from(["code", "msg", "data", "result", "card_no", "cards", "info", "x", "status", "error", "list"])


def planted(secret: str) -> st.SearchStrategy[Any]:
    """Values of any shape that hold a secret somewhere: as a text, inside one, as a name, as a number."""
    texts = st.sampled_from([secret, f"卡号{secret}", f"your code is {secret}!", f"https://u.cn/{secret}?a=1"])
    # A name of small letters can't be told from the name of a field, except around cards.
    named = [{"cards": {secret: 1}}] if secret.islower() else [{secret: 1}, {f"a{secret}": "b"}]
    leaves = texts | st.sampled_from([*named, [secret], None, True, 7, "ok"])
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


CAPITALS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
SPLIT = st.one_of(
    st.text("0123456789", min_size=14, max_size=24),
    st.text(CAPITALS, min_size=7, max_size=20),
    st.text("bcdfghjklmnpqrstvwxz", min_size=7, max_size=18),
)
"""Cards' numbers and codes of letters only: no word is made of them."""
PLACES = ["fields", "codes", "lists", "keys", "messages", "message list", "one message", "objects", "numbers"]


def split_over(secret: str, size: int, place: str, sign: str) -> Any:
    """A body with a secret in pieces, one after the other, in places of a kind."""
    pieces = [secret[n : n + size] for n in range(0, len(secret), size)]
    keys = ["code", "status", "state", "type", "kind", "success", "ret", "errcode", "errno", "err_code", "sub_code"]
    messages = ["msg", "message", "error", "reason", "errmsg", "err_msg", "sub_msg"]
    match place:
        case "fields":
            return {f"field_{letter}": piece for letter, piece in zip(CAPITALS.lower(), pieces, strict=False)}
        case "codes":
            return dict(zip(keys, pieces, strict=False))
        case "lists":
            return {"data": pieces, "code": pieces, "list": [[piece] for piece in pieces]}
        case "keys":
            return {"cards": dict.fromkeys(pieces, 1), "data": {piece.upper(): 1 for piece in pieces}}
        case "messages":
            return {key: f"{key and '卡密'}{piece}" for key, piece in zip(messages, pieces, strict=False)}
        case "message list":
            return {"msg": pieces}
        case "one message":
            return {"msg": f"卡号{sign.join(pieces)}", "message": sign.join(pieces)}
        case "objects":
            return {"data": [{"status": piece, "msg": f"密码 {piece}"} for piece in pieces]}
        case _:
            return [{"code": int(piece) if piece.isdecimal() else piece} for piece in pieces]


@given(SPLIT, st.integers(1, 8), st.sampled_from(PLACES), st.sampled_from(["", " ", "-", ", ", "，", "\u200b", " / "]))
def test_a_split_secret_never_adds_up(secret: str, size: int, place: str, sign: str) -> None:
    """Letters only, digits only, over fields, keys, lists and messages: what is shown in all is less than a card."""
    # Words that every supplier says are shown: in pieces, and put together.
    assume(not any(known(secret[n : n + size]) for n in range(0, len(secret), size)) and not known(secret))
    shown = outline(json.dumps(split_over(secret, size, place, sign), ensure_ascii=False).encode())
    assert "".join(filter(str.isalnum, secret)) not in "".join(filter(str.isalnum, shown))
    rest = re.sub(
        r"<key of [0-9,]+ characters?>|<[0-9,]+ (digit|character)s?>|<hidden>|… [0-9]+ more|\"[a-z_]+\": ", "", shown
    )
    told = "".join(c for c in rest if c in secret).replace("true", "")
    assert len(told) <= SHOWN_CODES


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

"""What stays of a supplier's words, and what never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_adapters._wire import scrub as scrub_value
from reward_adapters.scrubbing import MESSAGE_LENGTH, code_characters, known, scrub

PHONE = "13800138000"


@pytest.mark.parametrize(
    "text",
    [
        *("商品已下架，请联系客服", "余额不足 (balance)", "rate limit exceeded", "safe_price is too low"),
        *(
            "code 1",
            "HTTP 502",
            "OUT OF STOCK",
            "PARAM_ERROR",
            "售价 9.50 元",
            "限购 3 张",
            "密码错误",
            "invalid password",
        ),
        *("recharge_account 不能为空", "IP 未授权", "appid not found"),
    ],
)
def test_words_and_short_codes_stay(text: str) -> None:
    """They tell what went wrong."""
    assert scrub(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "号码 138 0013 8000 已有卡密 1234 5678 9012 3456 / ABCDEFGHJKLM http://t.cn/AbCdEfGh",
            "号码 *** 已有卡密 *** ***",
        ),
        ("138-0013-8000", "***"),
        ("1380.0138.000", "***"),
        ("1,23，45", "***"),
        ("１２３４５６", "***"),
        ("①②③④⑤⑥ 已售", "*** 已售"),
        ("1\ufe0f\u20e32\ufe0f\u20e33\ufe0f\u20e34\ufe0f\u20e35\ufe0f\u20e3", "***"),
        ("一三八零零一三八零零零", "***"),
        ("ABCDEFGHJK 已售", "*** 已售"),
        ("ABC DEF-GHJ，KLM", "***"),
        ("AB\u200bCD\u00adEF\u2060GH", "***"),
        ("A B C D E F", "***"),
        ("HTTP ABCD 1234", "HTTP ***"),
        ("号ABC串DEF", "号***串***"),
        ("卡密 АВСЕК", "卡密 ***"),
        ("卡密qwertyuiop", "卡密***"),
        ("密码：qwer tyui-opas", "密码：***"),
        ("卡号 12", "卡号 ***"),
        ("password hunter", "password ***"),
        ("your pin is: abcd", "your pin is: ***"),
        ("invalid code qwer-tyui", "invalid code ***"),
        ("qwertyuiop", "***"),
        ("链接 https://u.cn/abc?d=e，请查收", "链接 ***，请查收"),
        ("链接 t.cn/abcdefgh", "链接 ***"),
        ("http：／／t.cn／abcdefgh", "http：***"),
        ("mail to somebody@example.cn", "mail to ***"),
        ("2026-11-22 已售", "*** 已售"),
    ],
)
def test_what_could_be_a_part_of_a_card_or_of_a_person_goes(text: str, shown: str) -> None:
    """However it is written, split or spaced out."""
    assert scrub(text) == shown


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("号码１３８００１３８０００有误", PHONE, "号码***有误"),
        ("号码138-0013-8000有误", PHONE, "号码***有误"),
        ("玩家 no bo dy 不存在", "Nobody", "玩家 *** 不存在"),
        ("玩家名\u200b字不存在", "名字", "玩家***不存在"),
        ("zone @@ is wrong", "@@", "zone *** is wrong"),
    ],
)
def test_values_that_were_sent_are_found_in_any_dress(text: str, value: str, shown: str) -> None:
    """Wide digits, blanks, dashes, capitals and what can't be seen make no difference."""
    assert scrub(text, value, None) == shown


def test_without_codes_not_even_short_ones_stay() -> None:
    """For texts beside others that showed some already."""
    assert scrub("HTTP 502, 第3张 AB", codes=False) == "HTTP ***, 第***张 ***"
    assert code_characters("HTTP 502, 第3张 AB") == 6
    assert (known("PARAM_ERROR"), known("hunter"), known("成功"), known("")) == (True, False, False, False)


def test_what_is_no_text_is_empty() -> None:
    """A list or a truth value where words should be."""
    values: list[object] = [None, [], {}, True, 7]
    assert [scrub_value(value) for value in values] == ["", "", "", "", "7"]


@given(st.text(), st.text())
def test_any_text_makes_one_short_printable_line(text: str, value: str) -> None:
    """It never raises; once more changes nothing worth hiding."""
    shown = scrub(text, value)
    assert len(shown) <= MESSAGE_LENGTH
    assert shown.isprintable()


@given(
    st.one_of(
        st.text("0123456789", min_size=5, max_size=20), st.text("ABCDEFGHJKLMNPQRSTUVWXYZ", min_size=6, max_size=20)
    ),
    st.lists(st.sampled_from(["", " ", "-", ", ", "，", ".", "\u200b", "—", "／", "\u3000"]), min_size=20, max_size=20),
    st.sampled_from(["", "号码", "card ", "已有 ", "x" * 9_000, "号" * (4 * MESSAGE_LENGTH - 3)]),
)
def test_no_number_and_no_capitals_survive_however_they_are_split(secret: str, signs: list[str], before: str) -> None:
    """Blanks, dashes, commas and invisible signs between them change nothing; nor does a cut in the middle."""
    if known(secret):
        return
    written = "".join(c + sign for c, sign in zip(secret, signs, strict=False))
    shown = scrub(f"{before}{written}已售")
    assert sum(c in secret for c in shown if c.isascii() and c.isalnum()) <= 5

"""The signing rule of both 91 interfaces: known digests, and spellings that must not pass."""

from typing import Any
from urllib.parse import quote_plus

import pytest

from reward_sandbox._kaquan91 import signature, signed_text, signed_well

SECRET = "HJH546HKDHK"
MANUAL = {
    "account": "15565601175",
    "appid": "19190009",
    "card_id": "43",
    "datetime": "1649951134",
    "money": "1025",
    "notify_url": "http://www.testxxx.com/test/callback",
    "number": "1",
    "out_order_id": "202209989882384",
}
RECHARGE = {
    "account": "13800138000",
    "appid": "10000",
    "card_id": "52",
    "datetime": "1704067200",
    "number": "1",
    "out_order_id": "R202401010001",
}
CALLBACK = {
    "account": "13800138000",
    "card_id": "52",
    "order_id": "API2022040622185551647",
    "out_order_id": "R202401010001",
    "status": "3",
}
PROVEN = {**CALLBACK, "evidence": "http://img.example.com/e/1.png", "status": "4"}
BUY = {
    "appid": "10000",
    "auto_confirm_hour": "10",
    "card_id": "184",
    "num": "1",
    "order_money": "4.20",
    "out_order_id": "C202401010001",
}


@pytest.mark.parametrize(
    ("fields", "mode", "digest"),
    [
        (MANUAL, "notify-only", "F7EC6EE7DB8315B5B9940D7E6AC29514"),
        ({**MANUAL, "account": "15565601165"}, "notify-only", "08C97298EA73C5B0DD05241E6FF6A8D4"),
        (
            {**MANUAL, "notify_url": quote_plus(MANUAL["notify_url"])},
            "encode-all",
            "9AFE1632595D61C7E06173D2DDAFE890",
        ),
        ({**RECHARGE, "money": "12.00", "money_type": "2"}, "notify-only", "F8ED1DC91CA50A9E5E75FE8F1A92DE8D"),
        ({**RECHARGE, "money": "12.00", "money_type": "2"}, "encode-all", "F8ED1DC91CA50A9E5E75FE8F1A92DE8D"),
        ({**RECHARGE, "out_order_id": "R202401010002"}, "notify-only", "2718EC5568FD3147D4E7766C0A03BD71"),
        (
            {**RECHARGE, "out_order_id": "R202401010003", "account": "user@example.com"},
            "notify-only",
            "0CF9B632FBEC933ACA6CFF6CCEAF84AA",
        ),
        (
            {**RECHARGE, "out_order_id": "R202401010003", "account": "user@example.com"},
            "encode-all",
            "A81FB455DBD390E2E878809258700529",
        ),
        (
            {**RECHARGE, "out_order_id": "R202401010004", "account": "张三 01"},
            "notify-only",
            "B3B87ECB618DF2A05A5255EE21C53F70",
        ),
        (
            {**RECHARGE, "out_order_id": "R202401010004", "account": "张三 01"},
            "encode-all",
            "3D920EB97519CAD6C8D6180867895FE2",
        ),
        ({"appid": "10000", "out_order_id": "R202401010001"}, "notify-only", "2851A1E7017F313827AB7127CAF03938"),
        (CALLBACK, "notify-only", "068131AF8FFF02AA05CBDEF2359B9458"),
        (PROVEN, "notify-only", "9379B012E50F39FE3BB73FE4D4DAE5AA"),
        (PROVEN, "encode-all", "944A2A1A11C3958ABBE03B1A8F7A2CC6"),
        ({"appid": "10000", "order_id": "API2022040622185551647"}, "notify-only", "52D634100D759655F28F62ED57D50831"),
        (BUY, "notify-only", "2A0E59E98347DFDC0C20E8942F92F8E1"),
        (
            {
                **BUY,
                "auto_confirm_hour": "24",
                "num": "2",
                "order_money": "0",
                "out_order_id": "C202401010002",
            },
            "notify-only",
            "FF7977D0095DCAB2AFBD4904BE3ED355",
        ),
        ({"appid": "10000", "out_order_id": "C202401010001"}, "notify-only", "C61FC122D6CD4A67E1C6ED48DF1EB2F9"),
        ({"appid": "10000"}, "notify-only", "05F971015534DF9138864698A7444CA2"),
        ({"appid": "10000", "card_id": "184"}, "notify-only", "F4CBFD671D884ABEBD9CED116478C668"),
    ],
)
def test_signing_vectors(fields: dict[str, str], mode: Any, digest: str) -> None:
    """The signing page's rule gives the known digest of every vector, and the check takes it."""
    assert signature(fields, SECRET, mode=mode) == digest
    assert signed_well({**fields, "sign": digest, "empty": ""}, SECRET, mode=mode, unsigned=frozenset())


def test_wrong_signatures_are_refused() -> None:
    """Lower-case digests, the other reading, a lost zero, and a signed stock check are refused."""
    none: frozenset[str] = frozenset()
    address = {**RECHARGE, "out_order_id": "R202401010003", "account": "user@example.com"}
    other = {**address, "sign": "A81FB455DBD390E2E878809258700529"}
    assert not signed_well(other, SECRET, mode="notify-only", unsigned=none)
    assert signed_well(other, SECRET, mode="lenient", unsigned=none)
    lower = {**BUY, "sign": "2A0E59E98347DFDC0C20E8942F92F8E1".lower()}
    assert not signed_well(lower, SECRET, mode="notify-only", unsigned=none)
    free = {**BUY, "order_money": "0"}
    without_zero = signature({key: value for key, value in free.items() if value != "0"}, SECRET)
    assert not signed_well({**free, "sign": without_zero}, SECRET, mode="lenient", unsigned=none)
    assert "check" not in signed_text(
        {**RECHARGE, "check": "1"}, SECRET, mode="notify-only", unsigned=frozenset({"check"})
    )

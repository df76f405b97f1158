"""Sealing: what is sealed opens where it belongs and nowhere else."""

import base64
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reward_adapters.contract import Card, CardKind
from reward_adapters.money import Money
from reward_server.metrics import Sealed
from reward_server.sealing import (
    ClientSealer,
    KeyMissing,
    MasterKeyRefused,
    MasterKeys,
    SealBroken,
    Vault,
    add_master_key,
    create_master_key_file,
)
from reward_server.store import Store
from reward_server.store.open import open_store

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(1, 33))).decode()
SHOP = ClientSealer("shop", {b"data-key": b"k" * 32}, {}, b"identity")
ZONE = timezone(timedelta(hours=8))

CARD = Card(
    kind=CardKind.NUMBER_AND_SECRET,
    number="6688-1234",
    secret="PIN-9876",
    link="https://card.example/a",
    qr_image_url="https://card.example/a.png",
    qr_content="qr-content",
    instructions="在京东兑换",
    valid_from=date(2026, 1, 1),
    valid_until=date(2028, 12, 31),
    warranty_until=datetime(2026, 6, 1, 12, 30, tzinfo=ZONE),
    unit_cost=Money(985_000),
    supplier_card_number="S-1",
)

# Every character that Python can hold, half surrogate pairs included: suppliers' JSON can bring them.
TEXTS = st.text(st.characters(), max_size=12)
CARDS = st.builds(
    Card,
    kind=st.sampled_from(CardKind),
    number=TEXTS,
    secret=TEXTS,
    link=TEXTS,
    qr_image_url=TEXTS,
    qr_content=TEXTS,
    instructions=TEXTS,
    valid_from=st.none() | st.dates(),
    valid_until=st.none() | st.dates(),
    warranty_until=st.none() | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(ZONE)),  # noqa: DTZ001
    unit_cost=st.none() | st.integers(0, 2**53).map(Money),
    supplier_card_number=TEXTS,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path}/rewards.db")
    yield store
    await store.close()


def master(*lines: str) -> MasterKeys:
    """Master keys of these lines."""
    return MasterKeys.parse("\n".join(lines), "the test")


# --- Values -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64), st.lists(st.text(max_size=5), max_size=4))
@pytest.mark.rule("D6")
def test_a_value_opens_where_it_belongs(plaintext: bytes, where: list[str]) -> None:
    """Whatever is sealed comes back unchanged, and never sealed the same way twice."""
    sealed = SHOP.seal(plaintext, *where)
    assert SHOP.open(sealed, *where) == plaintext
    assert SHOP.seal(plaintext, *where) != sealed


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
@pytest.mark.rule("D6")
def test_a_value_opens_nowhere_else(here: list[str], there: list[str]) -> None:
    """Other words, other order, other division into words: it doesn't open."""
    assume(here != there)
    with pytest.raises(SealBroken):
        SHOP.open(SHOP.seal(b"value", *here), *there)


@given(st.data())
@pytest.mark.rule("D6")
def test_a_changed_value_does_not_open(data: st.DataObject) -> None:
    """A flipped bit anywhere, or a cut anywhere, is found."""
    sealed = SHOP.seal(b"value", "card")
    place = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    for broken in (bytes(changed), sealed[:place], sealed + b"\0"):
        with pytest.raises((SealBroken, KeyMissing)):
            SHOP.open(broken, "card")


@pytest.mark.rule("D6")
def test_another_client_cannot_open_a_value() -> None:
    """Neither under its own key, which is named, nor under a stolen one."""
    sealed = SHOP.seal(b"value")
    with pytest.raises(KeyMissing, match=f"'other' has no data key {b'data-key'.hex()}"):
        ClientSealer("other", {b"otherkey": b"o" * 32}, {}, b"").open(sealed)
    with pytest.raises(SealBroken):
        ClientSealer("other", {b"data-key": b"k" * 32}, {}, b"").open(sealed)


# --- Cards ------------------------------------------------------------------------------------------------------------


@given(CARDS, st.integers(1, 100))
@pytest.mark.rule("D6")
def test_a_card_opens_whole_in_its_place_only(card: Card, card_no: int) -> None:
    """Every field comes back; another place, order or purpose opens nothing."""
    sealed = SHOP.seal_card(card, "order", card_no)
    assert SHOP.open_card(sealed, "order", card_no) == card
    for order_id, place in (("order", card_no + 1), ("another", card_no)):
        with pytest.raises(SealBroken):
            SHOP.open_card(sealed, order_id, place)
    with pytest.raises(SealBroken):
        SHOP.open(sealed, "answer", "order", str(card_no))


def test_a_sealed_card_shows_nothing() -> None:
    """No field is readable in what is stored, and the warranty keeps its time zone."""
    sealed = SHOP.seal_card(CARD, "order", 1)
    assert not any(str(getattr(CARD, field.name)).encode() in sealed for field in fields(CARD))
    warranty = SHOP.open_card(sealed, "order", 1).warranty_until
    assert warranty is not None
    assert warranty.utcoffset() == timedelta(hours=8)


def test_a_card_of_a_later_program_is_an_error_without_its_text() -> None:
    """A card that this program can't read is refused, and the refusal repeats nothing of it."""
    for plaintext in (b"\x09whatever", b'\x01{"kind":"PIN-9876"}', b"\x02PIN-9876", b""):
        sealed = SHOP.seal(plaintext, "card", "order", "1")
        with pytest.raises(SealBroken, match="card 1 of order order") as refused:
            SHOP.open_card(sealed, "order", 1)
        assert "9876" not in f"{refused.value} {refused.value.__cause__} {refused.value.__context__}"


@given(CARDS)
def test_prints_are_short_and_the_same_each_time(card: Card) -> None:
    """A card's print is 2 × 16 bytes in hex and depends on the order."""
    prints = SHOP.card_print("order", card)
    assert prints == SHOP.card_print("order", replace(card))
    assert re.fullmatch("[0-9a-f]{32}", prints.identity)
    assert re.fullmatch("[0-9a-f]{32}", prints.content)
    other = SHOP.card_print("another", card)
    assert other.identity != prints.identity
    assert other.content != prints.content


CHANGED = {
    "kind": CardKind.CODE,
    "valid_from": date(2026, 1, 2),
    "valid_until": None,
    "warranty_until": datetime(2026, 6, 1, 12, 30, tzinfo=UTC),
    "unit_cost": Money(1),
}


REDEEMS = {"number", "secret", "link", "qr_image_url", "qr_content"}


@pytest.mark.parametrize("name", [field.name for field in fields(Card)])
@pytest.mark.rule("O9")
def test_what_redeems_is_the_content_and_the_suppliers_number_the_identity(name: str) -> None:
    """A changed secret shows in the content, a changed price or warranty doesn't: it is still the same card."""
    prints = SHOP.card_print("order", CARD)
    changed = SHOP.card_print("order", replace(CARD, **{name: CHANGED.get(name, "changed")}))  # type: ignore[arg-type]
    assert (changed.content != prints.content) == (name in REDEEMS)
    assert (changed.identity != prints.identity) == (name == "supplier_card_number")


@pytest.mark.rule("O9")
def test_without_a_supplier_number_what_redeems_is_the_identity() -> None:
    """Texts around the card may be worded anew; number, secret, link or QR make another card."""
    card = replace(CARD, supplier_card_number="")
    identity = SHOP.card_print("order", card).identity
    assert SHOP.card_print("order", replace(card, instructions="", valid_until=None)).identity == identity
    for name in ("number", "secret", "link", "qr_image_url", "qr_content"):
        assert SHOP.card_print("order", replace(card, **{name: ""})).identity != identity  # type: ignore[arg-type]
    moved = replace(card, number=card.secret, secret=card.number)
    assert SHOP.card_print("order", moved).identity != identity


def test_the_same_warranty_in_another_zone_is_no_change() -> None:
    """Prints compare moments, not their spelling."""
    assert CARD.warranty_until is not None
    other = replace(CARD, warranty_until=CARD.warranty_until.astimezone(UTC))
    assert SHOP.card_print("order", other) == SHOP.card_print("order", CARD)


# --- The vault --------------------------------------------------------------------------------------------------------


async def test_a_vault_opens_what_it_sealed_before_a_restart(store: Store) -> None:
    """Data keys, the identity key and named secrets are made once and come back with the same master key."""
    vault = await Vault.unlock(store, master(f"k-1 {KEY}"))
    shop = await vault.client("shop")
    sealed, system = shop.seal_card(CARD, "order", 1), vault.system.seal(b"token", "token", "dushu")
    again = await Vault.unlock(store, master(f"k-1 {KEY}"))
    client = await again.client("shop")
    assert client.open_card(sealed, "order", 1) == CARD
    assert client.card_print("order", CARD) == shop.card_print("order", CARD)
    assert again.system.open(system, "token", "dushu") == b"token"
    assert await again.secret("resume tokens") == await vault.secret("resume tokens")
    assert await again.secret("resume tokens") != await vault.secret("something else")
    assert await vault.client("shop") is shop


@pytest.mark.rule("D6")
async def test_clients_have_keys_of_their_own(store: Store) -> None:
    """What one client's sealer made no other's opens, the service's own included, and prints differ."""
    vault = await Vault.unlock(store, master(f"k-1 {KEY}"))
    shop, other = await vault.client("shop"), await vault.client("other")
    sealed = shop.seal(b"value")
    for sealer in (other, vault.system):
        with pytest.raises(KeyMissing):
            sealer.open(sealed)
    assert shop.card_print("order", CARD) != other.card_print("order", CARD)
    with pytest.raises(ValueError, match="empty client id"):
        await vault.client("")


async def test_what_is_done_with_sealed_values_is_counted(store: Store) -> None:
    """By what they are; also what doesn't open."""
    done: list[tuple[Sealed, str]] = []

    def count(operation: Sealed, kind: str, /, *, times: int = 1) -> None:
        done.extend([(operation, kind)] * times)

    vault = await Vault.unlock(store, master(f"k-1 {KEY}"), count)
    shop = await vault.client("shop")
    done.clear()
    sealed = shop.seal_card(CARD, "order", 1)
    shop.open_card(sealed, "order", 1)
    with pytest.raises(SealBroken):
        shop.open_card(sealed, "another order", 1)
    with pytest.raises(SealBroken):
        vault.system.open(b"", "token", "dushu")
    assert done == [
        (Sealed.SEALED, "card"),
        (Sealed.OPENED, "card"),
        (Sealed.UNOPENED, "card"),
        (Sealed.UNOPENED, "token"),
    ]


async def test_a_new_master_key_still_opens_the_old(store: Store) -> None:
    """With a new key in front, values of before open; with the old one gone, its id is named."""
    vault = await Vault.unlock(store, master(f"k-1 {KEY}"))
    sealed = (await vault.client("shop")).seal(b"value")
    both = await Vault.unlock(store, master(f"k-2 {OTHER_KEY}", f"k-1 {KEY}"))
    assert (await both.client("shop")).open(sealed) == b"value"
    await both.client("new")
    assert [key.master_key_id for key in await store.data_keys("new")] == ["k-2"]
    with pytest.raises(KeyMissing, match="needs master key 'k-1'"):
        await Vault.unlock(store, master(f"k-2 {OTHER_KEY}"))


@pytest.mark.rule("D14")
async def test_a_wrong_master_key_is_told_at_once(store: Store) -> None:
    """Another key under the same id doesn't start a second history: it is refused by name."""
    await Vault.unlock(store, master(f"k-1 {KEY}"))
    with pytest.raises(SealBroken, match="master key 'k-1' doesn't open data key"):
        await Vault.unlock(store, master(f"k-1 {OTHER_KEY}"))


async def test_a_data_key_is_bound_to_its_client(store: Store) -> None:
    """A wrapped key that was copied to another client in the store doesn't unwrap."""
    keys = master(f"k-1 {KEY}")
    await (await Vault.unlock(store, keys)).client("shop")
    [wrapped] = await store.data_keys("shop")
    for changed in (replace(wrapped, client_id="other"), replace(wrapped, key_id=b"another!")):
        with pytest.raises(SealBroken):
            keys.unwrap(changed)
    for cut in (b"", wrapped.wrapped[:-1], b"\x02" + wrapped.wrapped[1:]):
        with pytest.raises(SealBroken):
            keys.unwrap(replace(wrapped, wrapped=cut))


async def test_nothing_prints_a_key(store: Store) -> None:
    """Printing keys, sealers, vaults and wrapped keys shows ids only."""
    keys = master(f"k-1 {KEY}")
    vault = await Vault.unlock(store, keys)
    shop = await vault.client("shop")
    assert [repr(keys), repr(vault), repr(shop)] == [
        "MasterKeys(k-1)",
        "Vault(MasterKeys(k-1))",
        "ClientSealer('shop')",
    ]
    [wrapped] = await store.data_keys("shop")
    assert "wrapped=" not in repr(wrapped)


# --- Master keys ------------------------------------------------------------------------------------------------------


def test_a_created_key_file_is_private_and_read_back(tmp_path: Path) -> None:
    """The file is its owner's alone, holds the named key, and is never replaced."""
    path = tmp_path / "keys" / "master.keys"
    name = create_master_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert MasterKeys.read(path).current == name
    content = path.read_text()
    with pytest.raises(MasterKeyRefused, match="exists"):
        create_master_key_file(path)
    assert path.read_text() == content


def test_a_key_is_added_to_a_file(tmp_path: Path) -> None:
    """As the first, which wraps, or as the last; those that were there stay. The file stays its owner's and private,
    and a symbolic link to it stays one.
    """
    path, link = tmp_path / "real" / "master.keys", tmp_path / "link"
    first = create_master_key_file(path)
    link.symlink_to(path)
    if os.geteuid() == 0:
        os.chown(path, 65_534, 65_534)
    owner = path.stat().st_uid
    last, newest = add_master_key(link, last=True), add_master_key(link, last=False)
    assert repr(MasterKeys.read(path)) == f"MasterKeys({newest}, {first}, {last})"
    assert (link.is_symlink(), path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (True, owner, 0o600)
    assert [file.name for file in path.parent.iterdir()] == ["master.keys"]


@pytest.mark.rule("D14")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """Any right of group or others is too much; the message says what to do."""
    path = tmp_path / "master.keys"
    create_master_key_file(path)
    path.chmod(mode)
    with pytest.raises(MasterKeyRefused, match=f"chmod 600 {path}"):
        MasterKeys.read(path)


@pytest.mark.rule("D14")
def test_an_unreadable_key_file_is_refused(tmp_path: Path) -> None:
    """A missing file and one that isn't text are named."""
    with pytest.raises(MasterKeyRefused, match=r"nowhere can't be read"):
        MasterKeys.read(tmp_path / "nowhere")
    path = tmp_path / "binary"
    path.touch(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MasterKeyRefused, match="isn't text"):
        MasterKeys.read(path)


def test_comments_and_empty_lines_do_not_count() -> None:
    """The first key is the current one, whatever stands above it."""
    keys = master("# keys of the shop", "", f"  k-2   {OTHER_KEY}  ", f"k-1 {KEY}")
    assert (keys.current, repr(keys)) == ("k-2", "MasterKeys(k-2, k-1)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        (KEY, "line 1: expected a key id"),
        ("k-1", "line 1: expected a key id"),
        (f"k/1 {KEY}", "line 1: expected a key id"),
        (f"k-1 {KEY}\nk-2 {KEY[:-2]}!=", "line 2: what follows"),
        (f"k-1 {KEY[:40]}", "32 bytes, this one 30"),
        (f"k-1 {KEY}\nk-1 {OTHER_KEY}", "line 2: this key id stands there twice"),
    ],
)
def test_defective_keys_are_refused_without_showing_them(text: str, message: str) -> None:
    """The message names the line and the fault and repeats nothing of the key."""
    with pytest.raises(MasterKeyRefused, match=message) as refused:
        MasterKeys.parse(text, "REWARD_MASTER_KEYS")
    assert KEY[:20] not in str(refused.value)
    assert refused.value.__cause__ is None

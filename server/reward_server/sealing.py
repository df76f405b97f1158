"""Seals what redeems or identifies: cards, tokens, suppliers' answers, callbacks.

Every client has a data key of its own; the store holds it wrapped by a master key, which never enters the store. A
sealed value is

    format (1 byte, 01) · data key id (8) · nonce (12) · AES-256-GCM ciphertext and tag

and is bound to what it is and where it belongs: read under another client, order or place, it doesn't open. A value
that doesn't open is an error that names the key. There is no way from here to a wrong card.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reward_adapters.contract import Card
from reward_server import probes
from reward_server.domain.order import CardPrint
from reward_server.metrics import Sealed
from reward_server.store import Store, WrappedKey

log = structlog.get_logger(__name__)

_FORMAT = b"\x01"
_KEY_BYTES = 32
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12
"""Random: a data key may seal 2^32 values before a repeated nonce becomes likelier than 2^-32, far above any client."""
_HEADER_BYTES = len(_FORMAT) + _KEY_ID_BYTES
_TAG_BYTES = 16

_CARD_UTF8 = b"\x01"
_CARD_ASCII = b"\x02"
"""JSON with every other character escaped: for text that UTF-8 can't hold. The card was paid all the same."""
_PRINT_BYTES = 16

_MASTER_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Counted(Protocol):
    """Told of everything that is sealed or opened, and what kind of value it is."""

    def __call__(self, operation: Sealed, kind: str, /, *, times: int = 1) -> None:
        """So many values of a kind."""


def uncounted(_operation: Sealed, _kind: str, /, *, times: int = 1) -> None:
    """Nobody counts."""


class SealError(Exception):
    """Something can't be sealed or opened."""


class MasterKeyRefused(SealError):
    """The master keys can't be read, or may be read by others."""


class KeyMissing(SealError):
    """A value was sealed under a key that isn't there."""


class SealBroken(SealError):
    """A value doesn't open: it was changed, belongs elsewhere, or the key isn't the one that sealed it."""


# --- Master keys ------------------------------------------------------------------------------------------------------


class MasterKeys:
    """The keys that wrap data keys. The first wraps new ones, the others only unwrap what they wrapped before."""

    __slots__ = ("_keys", "current", "source")

    def __init__(self, keys: Mapping[str, bytes], source: Path | None = None) -> None:
        if not keys:
            raise MasterKeyRefused("there is no master key")
        self._keys = {name: AESGCM(key) for name, key in keys.items()}
        self.current = next(iter(keys))
        """The id of the key that wraps new data keys."""
        self.source = source
        """The file that they stand in; None: no file."""

    @classmethod
    def parse(cls, text: str, source: str) -> "MasterKeys":
        """Reads lines `key-id base64`; empty ones and those beginning with # don't count. `source` is for messages."""
        keys: dict[str, bytes] = {}
        for place, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            # The line itself stays out of every message: it may be a key with a typing error.
            name, _, encoded = line.strip().partition(" ")
            if not _MASTER_KEY_ID.fullmatch(name) or not encoded:
                raise MasterKeyRefused(f"{source}, line {place}: expected a key id, a space and 32 bytes in base64")
            try:
                key = base64.b64decode(encoded.strip(), validate=True)
            except (binascii.Error, ValueError):
                raise MasterKeyRefused(f"{source}, line {place}: what follows the key id isn't base64") from None
            if len(key) != _KEY_BYTES:
                raise MasterKeyRefused(f"{source}, line {place}: a key has 32 bytes, this one {len(key)}")
            if name in keys:
                raise MasterKeyRefused(f"{source}, line {place}: this key id stands there twice")
            keys[name] = key
        if not keys:
            raise MasterKeyRefused(f"{source} holds no key")
        return cls(keys)

    @classmethod
    def read(cls, path: Path) -> "MasterKeys":
        """Reads a key file. Refuses one that anybody but its owner may read or write."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise MasterKeyRefused(f"{path} is open to others (mode {mode:04o}): chmod 600 {path}")
                text = file.read().decode()
        except OSError as error:
            raise MasterKeyRefused(f"{path} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise MasterKeyRefused(f"{path} isn't text") from None
        keys = cls.parse(text, str(path))
        keys.source = path
        return keys

    def new_key(self, client_id: str) -> WrappedKey:
        """A new data key for a client, wrapped under the current master key."""
        return self.wrap(secrets.token_bytes(_KEY_ID_BYTES), client_id, secrets.token_bytes(_KEY_BYTES))

    def wrap(self, key_id: bytes, client_id: str, key: bytes) -> WrappedKey:
        """Wraps a data key under the current master key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = _parts("data key", key_id.hex(), client_id)
        wrapped = _FORMAT + nonce + self._keys[self.current].encrypt(nonce, key, bound)
        return WrappedKey(key_id, client_id, self.current, wrapped)

    def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Unwraps a data key. Raises KeyMissing or SealBroken."""
        name, key_id = wrapped.master_key_id, wrapped.key_id.hex()
        master = self._keys.get(name)
        if master is None:
            raise KeyMissing(f"data key {key_id} of client {wrapped.client_id!r} needs master key {name!r}")
        bound = _parts("data key", key_id, wrapped.client_id)
        body = wrapped.wrapped[len(_FORMAT) :]
        try:
            if wrapped.wrapped[: len(_FORMAT)] != _FORMAT:
                raise InvalidTag
            return master.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], bound)
        except (InvalidTag, ValueError):
            raise SealBroken(
                f"master key {name!r} doesn't open data key {key_id} of client {wrapped.client_id!r}: it isn't the key"
                " that had this id when the data key was made, or the stored data key was changed"
            ) from None

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"


def create_master_key_file(path: Path) -> str:
    """Creates a file with one new key, readable by its owner only; returns the key's id. Never replaces a file."""
    name, line = _new_master_key()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(path, line)
        _sync_folder(path)
    except OSError as error:
        raise MasterKeyRefused(f"{path} can't be created: {error.strerror}") from None
    return name


def add_master_key(path: Path, *, last: bool) -> str:
    """Adds a new key to a key file, as the first, which wraps from then on, or as the last; returns the key's id.

    The file is replaced as a whole: a server that reads it meanwhile reads the old or the new one.
    """
    MasterKeys.read(path)
    name, line = _new_master_key()
    # Behind a symbolic link stands the file.
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{name}")
    try:
        text, facts = path.read_text(), path.stat()
        try:
            _write_private(beside, f"{text.rstrip()}\n{line}" if last else line + text)
            # The server's file stays the server's, also when root adds the key.
            os.chown(beside, facts.st_uid, facts.st_gid)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path)
    except OSError as error:
        raise MasterKeyRefused(f"{path} can't be replaced: {error.strerror}") from None
    return name


def _new_master_key() -> tuple[str, str]:
    name = f"k-{secrets.token_hex(4)}"
    return name, f"{name} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n"


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # A key lost in a power cut takes with it everything that was sealed in between.
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- Sealing ----------------------------------------------------------------------------------------------------------


def key_of(sealed: bytes) -> bytes:
    """The id of the data key that sealed a value."""
    return sealed[len(_FORMAT) : _HEADER_BYTES]


class ClientSealer:
    """Seals and opens for one client. Its keys may become more while it is used."""

    __slots__ = ("_client_id", "_counted", "_identity", "_keys", "_lost", "key_id")

    def __init__(
        self,
        client_id: str,
        keys: Mapping[bytes, bytes],
        lost: Mapping[bytes, SealError],
        identity: bytes,
        counted: Counted = uncounted,
    ) -> None:
        self._client_id = client_id
        self._counted = counted
        self._keys: dict[bytes, AESGCM] = {}
        self._identity = identity
        self.take(keys, lost)

    def take(self, keys: Mapping[bytes, bytes], lost: Mapping[bytes, SealError]) -> None:
        """Takes over the client's keys as they are now, the newest last, and why some don't open.

        One that it had stays, even if nobody could open it again.
        """
        self._keys |= {key_id: AESGCM(key) for key_id, key in keys.items() if key_id not in self._keys}
        self._lost = {key_id: why for key_id, why in lost.items() if key_id not in self._keys}
        self.key_id = list(keys)[-1]
        """Of the key that seals."""

    def knows(self, sealed: bytes) -> bool:
        """Whether the key of a value is one of those that are known, opened or not."""
        key_id = key_of(sealed)
        return key_id in self._keys or key_id in self._lost

    def seal(self, plaintext: bytes, *aad: str) -> bytes:
        """Seals a value, bound to this client and to `aad`: what it is and where it belongs."""
        self._counted(Sealed.SEALED, aad[0] if aad else "")
        header = _FORMAT + self.key_id
        probes.probe("seal.sealing")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return header + nonce + self._keys[self.key_id].encrypt(nonce, plaintext, self._bound(header, aad))

    def open(self, sealed: bytes, *aad: str) -> bytes:
        """Opens a value. Raises KeyMissing or SealBroken."""
        try:
            value = self._open(sealed, aad)
        except SealError:
            self._counted(Sealed.UNOPENED, aad[0] if aad else "")
            raise
        self._counted(Sealed.OPENED, aad[0] if aad else "")
        return value

    def _open(self, sealed: bytes, aad: tuple[str, ...]) -> bytes:
        header, rest = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
        if header[: len(_FORMAT)] != _FORMAT or len(rest) < _NONCE_BYTES + _TAG_BYTES:
            raise SealBroken(f"a value of client {self._client_id!r} is no sealed value, or was cut")
        key_id = header[len(_FORMAT) :]
        key = self._keys.get(key_id)
        if key is None:
            lost = self._lost.get(key_id)
            if lost is not None:
                raise type(lost)(str(lost))
            raise KeyMissing(f"client {self._client_id!r} has no data key {key_id.hex()}")
        try:
            return key.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], self._bound(header, aad))
        except InvalidTag:
            raise SealBroken(
                f"a value sealed under data key {key_id.hex()} of client {self._client_id!r} was changed or belongs"
                " elsewhere"
            ) from None

    def seal_card(self, card: Card, order_id: str, card_no: int) -> bytes:
        """Seals a card for its place in its order."""
        try:
            plaintext = _CARD_UTF8 + msgspec.json.encode(card)
        except UnicodeEncodeError:
            plaintext = _CARD_ASCII + json.dumps(msgspec.to_builtins(card)).encode("ascii")
        return self.seal(plaintext, "card", order_id, str(card_no))

    def open_card(self, sealed: bytes, order_id: str, card_no: int) -> Card:
        """Opens a card. Raises KeyMissing or SealBroken."""
        plaintext = self.open(sealed, "card", order_id, str(card_no))
        try:
            match plaintext[:1]:
                case b"\x01":
                    return msgspec.json.decode(plaintext[1:], type=Card)
                case b"\x02":
                    return msgspec.convert(json.loads(plaintext[1:]), Card)
        except ValueError:
            # The cause would print a part of the card.
            pass
        raise SealBroken(f"card {card_no} of order {order_id} opened, but this program can't read it")

    def card_print(self, order_id: str, card: Card) -> CardPrint:
        """How the card is recognised when it is listed again, without anything that redeems it.

        Content is what redeems: prices, warranties and wordings change without making another card.
        """
        redeems = (card.number, card.secret, card.link, card.qr_image_url, card.qr_content)
        numbered = bool(card.supplier_card_number)
        identity = ("supplier number", card.supplier_card_number) if numbered else ("fields", *redeems)
        return CardPrint(
            identity=self._keyed_hash("identity", order_id, *identity),
            content=self._keyed_hash("content", order_id, *redeems),
        )

    def _keyed_hash(self, purpose: str, order_id: str, *values: str) -> str:
        message = _parts(purpose, self._client_id, order_id, *values)
        return hashlib.blake2b(message, key=self._identity, digest_size=_PRINT_BYTES).hexdigest()

    def _bound(self, header: bytes, aad: tuple[str, ...]) -> bytes:
        return header + _parts(self._client_id, *aad)

    def __repr__(self) -> str:
        return f"ClientSealer({self._client_id!r})"


class Vault:
    """Hands out the clients' sealers. Made by `Vault.unlock`."""

    __slots__ = ("_counted", "_identity", "_sealers", "_store", "master_keys", "system")

    def __init__(
        self, store: Store, master_keys: MasterKeys, system: ClientSealer, identity: bytes, counted: Counted
    ) -> None:
        self._store = store
        self._counted = counted
        self.master_keys = master_keys
        self._identity = identity
        self._sealers: dict[str, ClientSealer] = {}
        self.system = system
        """Seals what belongs to no client: supplier tokens, callbacks of unknown numbers, the service's own keys."""

    @classmethod
    async def unlock(cls, store: Store, master_keys: MasterKeys, counted: Counted = uncounted) -> "Vault":
        """Makes the vault of a store. Raises KeyMissing or SealBroken when the master key is the wrong one."""
        system = await _sealer(store, master_keys, "", b"", counted)
        identity = await _secret(store, system, "card identity")
        return cls(store, master_keys, system, identity, counted)

    async def client(self, client_id: str, to_open: Iterable[bytes] = ()) -> ClientSealer:
        """The sealer of a client; its first call makes the client's data key.

        Another process may have sealed `to_open` under a key that isn't known here yet: it is looked up.
        """
        if not client_id:
            raise ValueError("the empty client id is the service's own")
        sealer = self._sealers.get(client_id)
        if sealer is None:
            made = await _sealer(self._store, self.master_keys, client_id, self._identity, self._counted)
            sealer = self._sealers.setdefault(client_id, made)
        if not all(map(sealer.knows, to_open)):
            await self.learn(client_id)
        return sealer

    def use(self, master_keys: MasterKeys) -> None:
        """Takes over changed master keys. Data keys that are open stay so."""
        self.master_keys = master_keys

    async def learn(self, client_id: str) -> None:
        """Takes over the keys that a client ("" is the service itself) has now."""
        self._take(client_id, await self._store.data_keys(client_id))

    async def learn_all(self) -> None:
        """The same for all whose keys are in use here."""
        rings: dict[str, list[WrappedKey]] = {}
        for key in await self._store.all_data_keys():
            rings.setdefault(key.client_id, []).append(key)
        for client_id, keys in rings.items():
            self._take(client_id, keys)

    def _take(self, client_id: str, keys: Sequence[WrappedKey]) -> None:
        sealer = self._sealers.get(client_id) if client_id else self.system
        if sealer is not None and keys:
            try:
                sealer.take(*_opened(self.master_keys, keys))
            except SealError as error:
                # It goes on with the keys that it has; those who need the new one hear why.
                log.error("a new data key can't be used", client=client_id or "the service", why=str(error))

    async def secret(self, name: str) -> bytes:
        """A random key of 32 bytes that all processes of this store share; made by the first that asks."""
        return await _secret(self._store, self.system, name)

    def __repr__(self) -> str:
        return f"Vault({self.master_keys!r})"


async def _sealer(
    store: Store, master_keys: MasterKeys, client_id: str, identity: bytes, counted: Counted
) -> ClientSealer:
    wrapped = await store.data_keys(client_id)
    if not wrapped:
        new = master_keys.new_key(client_id)
        probes.probe("seal.key")
        # Another process may have been faster: what the store says is the key.
        wrapped = [await store.add_data_key(new)]
    keys, lost = _opened(master_keys, wrapped)
    return ClientSealer(client_id, keys, lost, identity, counted)


def _opened(
    master_keys: MasterKeys, wrapped: Sequence[WrappedKey]
) -> tuple[Mapping[bytes, bytes], Mapping[bytes, SealError]]:
    """Opens a client's data keys: those that can be, the newest in any case and as the last, and why others can't.

    Raises SealError.
    """
    *older, newest = wrapped
    keys: dict[bytes, bytes] = {}
    lost: dict[bytes, SealError] = {}
    for key in older:
        try:
            keys[key.key_id] = master_keys.unwrap(key)
        except SealError as error:
            # Only what was sealed under it is out of reach; whoever asks for that hears why.
            lost[key.key_id] = error
    keys[newest.key_id] = master_keys.unwrap(newest)
    return keys, lost


async def _secret(store: Store, system: ClientSealer, name: str) -> bytes:
    stored = await store.named_secret(name, system.seal(secrets.token_bytes(_KEY_BYTES), "secret", name))
    return system.open(stored, "secret", name)


def _parts(*texts: str) -> bytes:
    """Texts as bytes that no other list of texts has: each behind its length. Takes half surrogate pairs, too."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(text).to_bytes(4, "big") + text for text in encoded)

"""A supplier's words fit for logs and for people who must not see cards.

Suppliers quote what they were sent and what they sold, so a recipient, a link or a card may stand in any text. Chinese
and plain words stay, and so do short codes such as `code 1` or `HTTP 502`; everything that could be a part of a number,
a code, a link or a password becomes `***`. What can't be told from prose stays: a password of small letters inside an
English sentence that names no password.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

MASK = "***"
MESSAGE_LENGTH = 200
"""More of a supplier's text than this is not kept."""

_BESIDE = 40
"""Characters kept of a number that isn't like ours."""
_WINDOW = 4
"""So many times the length that is kept is read: masking shortens."""
_FEW = 5
"""Digits and capitals of codes that a text may show in all: fewer than any card has."""
_GROUP = 5
"""Characters from which on neighbouring codes could be one number, split in groups."""
_CAPITALS = 6
"""Capitals from which on one run of them is a code and no abbreviation."""
_HIDDEN = 4
"""Letters and digits from which on a value that is to be hidden is found in spite of blanks and dashes inside it."""

_HAN = "\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[^\W_{_HAN}]+")
"""Letters and digits in a row, Chinese apart."""
_OPEN_END = re.compile(rf"[^\W_{_HAN}]+$")
_ANY_HAN = re.compile(rf"[{_HAN}]")
_BETWEEN_GROUPS = re.compile(rf"[^{_HAN}]*")
_CHUNK = re.compile(rf"[^\s{_HAN}，。；！、：（）【】《》“”]+")
_LINK = re.compile(r"[:：][/／]{2}|[@＠]|[.．][a-z]{2,}[/／?？]", re.IGNORECASE)
_SPELLED = re.compile("[零〇○一二三四五六七八九壹贰叁肆伍陆柒捌玖幺两]{5,}")
"""Digits spelled in Chinese."""
_PLAIN = re.compile(r"[A-Za-z][a-z]{1,17}")
"""A plain word. A single letter is none: codes can be spaced out."""
_UNSPEAKABLE = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}", re.IGNORECASE)
"""What no word has."""

_OF_CARDS = re.compile("卡密|密码|卡号|券码|券号|兑换码|激活码|验证码|口令|密钥|秘钥|暗号|账号|帐号")
"""After these an unknown word anywhere may be what they name."""
_PASSWORD = frozenset({"cdk", "cdkey", "key", "passwd", "password", "pin", "pwd", "secret", "token"})
_CODE = frozenset({"code", "codes"})
"""After these the next word may be one, and after the former a short number, too."""
_LINKING = frozenset({"are", "be", "for", "id", "is", "no", "number", "of", "the", "was", "your"})
"""Words that may stand between them and it."""
_WORDS = """
abnormal about above account active after again allow allowed already amount an and any api app appid arrears arrive
at auth auto bad balance been before below busy but by call callback can cancel cancelled cannot card cards channel
check client close closed cny complete completed config confirm contact could count coupon create customer data day
days deadline delivered demo denied deny did disabled do does doesn done dont down due duplicate each empty enough
error errors exceed exceeded exceeds exception exhausted exist existed existing exists expire expired fail failed
failure fast field file first forbidden format found frequent frequently from full get gold good goods group had has
have header hour hours http https illegal in incorrect input insufficient internal into invalid inventory invoice ip
it item json just key last later less level limit limited list locked log login long lost low maintenance many max
maximum may member message method min minimum minute minutes missing mobile money month months more msg must my name
need network never new next none not nothing notify now null off offline ok on once one online only open or order
orders other our out over own page paid param parameter parameters params parse password paused pay pending per
permanent permission phone please post premium present price process processed processing product products put qq
quantity queue quota rate read receive received recharge recipient record redeem refund refunded refused reject
rejected remark remote repeat repeated request requests required resend resource response result retry return returned
rmb safe sale same see seller send sent serial server service session shall shop short should sign signature size sku
slow sold some soon state status still stock stop stopped store submit success successful successfully suceess such
sum supplier support supported suspended system temporarily test than that then there they this time timed timeout
timestamp to today too top total try two type unauthorized unavailable undefined under unknown unpaid unreachable
unsupported until up upgrade upstream url us use used user using valid value version vip voucher wait waiting
warehouse we week weeks were what when which while white whitelist who will with within without wrong xml year years
yet you zero
"""
_KNOWN = _PASSWORD | _CODE | _LINKING | frozenset(_WORDS.split())
"""Words of suppliers' messages. They hide nothing however they are written, and tell a sentence from a password."""


def scrub(message: str, *hidden: str | None, most: int = MESSAGE_LENGTH, codes: bool = True) -> str:
    """The text as one line of at most `most` characters, without the values given and without anything like a secret.

    With `codes` false not even short codes stay.
    """
    line = normal(message[: _WINDOW * most])
    if len(message) > _WINDOW * most:
        # Half a code looks harmless.
        line = _OPEN_END.sub("", line)
    for value in sorted(filter(None, map(normal, filter(None, hidden))), key=len, reverse=True):
        line = _without(line, value)
    line = _CHUNK.sub(lambda chunk: MASK if _LINK.search(chunk[0]) else chunk[0], line)
    line = _SPELLED.sub(MASK, line)
    return _mask(line, codes=codes)[:most]


def beside(theirs: str, ours: str, *hidden: str | None) -> str:
    """A supplier's number that should be ours, fit to stand beside ours: as it came where it has the shape of ours (as
    long, only digits where ours is, the same signs at the same places), without the values given; anything else is
    scrubbed.

    A number of the same kind is what a mix-up brings, and an operator has to search for it. What else may stand where
    an order's number should be, a card even, hardly has its shape.
    """
    line = normal(theirs[: _WINDOW * MESSAGE_LENGTH])
    if _shape(line) != _shape(ours):
        return scrub(theirs, *hidden, most=_BESIDE) or "nothing"
    for value in map(normal, filter(None, hidden)):
        # A part of a number may equal a shorter one by chance.
        line = _without(line, value) if len(value) >= _HIDDEN else line
    return line


def _shape(number: str) -> tuple[str, bool]:
    return "".join("x" if c.isascii() and c.isalnum() else c for c in number), number.isdecimal()


def normal(text: str) -> str:
    """One printable line: wide and styled letters and digits are plain ones, what can't be seen is gone."""
    return " ".join("".join(map(_normal, text)).split())


def known(text: str) -> bool:
    """Whether a text is made of words that are common in suppliers' messages, and of nothing else."""
    runs = _runs(normal(text))
    return bool(runs) and not _ANY_HAN.search(text) and all(run.is_known for run in runs)


def code_characters(text: str) -> int:
    """How many letters and digits of codes a text shows: what could add up with those of another text."""
    return sum(run.size for run in _runs(normal(text)) if run.is_code)


@lru_cache(maxsize=8192)
def _normal(character: str) -> str:
    wide = unicodedata.normalize("NFKC", character)
    if len(wide) == 1 and not wide.isalnum():
        wide = character  # Chinese punctuation stays what it is
    return "".join(map(_visible, wide))


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in {"Cf", "Mc", "Me", "Mn"}:
        return ""
    return character if character.isprintable() else " "


def _without(line: str, value: str) -> str:
    """The line without a value, whatever stands between its letters and digits."""
    sought = "".join(filter(str.isalnum, value)).lower()
    if len(sought) < _HIDDEN:
        return line.replace(value, MASK)
    places = [place for place, c in enumerate(line) if c.isalnum() and len(c.lower()) == 1]
    letters = "".join(line[place].lower() for place in places)
    pieces, done, at = [], 0, letters.find(sought)
    while at >= 0:
        pieces += [line[done : places[at]], MASK]
        done = places[at + len(sought) - 1] + 1
        at = letters.find(sought, at + len(sought))
    return "".join([*pieces, line[done:]]).replace(value, MASK)


# --- Words and codes --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """Letters and digits in a row, and what is made of them."""

    text: str
    start: int
    end: int
    masked: bool = False

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def lower(self) -> str:
        return self.text.lower()

    @property
    def is_known(self) -> bool:
        return self.lower in _KNOWN

    @property
    def is_word(self) -> bool:
        return _PLAIN.fullmatch(self.text) is not None and (self.is_known or not _UNSPEAKABLE.search(self.text))

    @property
    def is_digits(self) -> bool:
        return self.text.isdigit()

    @property
    def is_code(self) -> bool:
        """Whether it counts as a part of a code."""
        return not self.is_word and not self.is_known


def _runs(line: str) -> list[_Run]:
    return [_Run(found[0], *found.span()) for found in _RUN.finditer(line)]


def _mask(line: str, *, codes: bool) -> str:
    runs = _runs(line)
    for group in _groups(line, runs):
        _mask_all(group, when=_could_be_secret(group))
    _mask_after_names(line, runs)
    if not _ANY_HAN.search(line) and not any(run.is_known for run in runs):
        # Words of which none is common are no sentence.
        _mask_all((run for run in runs if run.is_word), when=True)
    shown = [run for run in runs if run.is_code and not run.masked]
    _mask_all(shown, when=not codes or sum(run.size for run in shown) > _FEW)
    return _written(line, runs)


def _mask_all(runs: Iterable[_Run], *, when: bool) -> None:
    for run in runs:
        run.masked = run.masked or when


def _groups(line: str, runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Codes that stand side by side, with no Chinese and no plain word between them."""
    group: list[_Run] = []
    end = 0
    for run in runs:
        breaks = run.is_word and not (run.text.isupper() and run.is_known)
        if breaks or not _BETWEEN_GROUPS.fullmatch(line, end, run.start):
            yield group
            group = []
        if run.is_code:
            group.append(run)
        end = run.end
    yield group


def _could_be_secret(group: Sequence[_Run]) -> bool:
    size = sum(run.size for run in group)
    if len(group) == 1 and group[0].text.isalpha() and group[0].text.isupper() and group[0].text.isascii():
        return size >= _CAPITALS
    return size >= _GROUP


def _mask_after_names(line: str, runs: Sequence[_Run]) -> None:
    """Masks what follows the name of a secret."""
    named = _OF_CARDS.search(line)
    for run in runs:
        if named and run.start >= named.end() and not run.is_known:
            # A number may be a count, unless it comes at once.
            beside = re.fullmatch(rf"(?:[为是]|[^{_HAN}\w])*", line[named.end() : run.start])
            run.masked = run.masked or not run.is_digits or beside is not None
    after: _Run | None = None
    for before, run in pairwise(runs):
        gap = line[before.end : run.start]
        if before.lower in _PASSWORD | _CODE:
            after = before
        elif not (after and (before.lower in _LINKING or (before.masked and not gap.isspace()))):
            after = None
        near = after and not re.search(rf"[{_HAN}]", gap.replace("是", "").replace("为", ""))
        if after and near and not run.is_known and not (run.is_digits and after.lower in _CODE):
            run.masked = True


def _written(line: str, runs: Sequence[_Run]) -> str:
    """The line with its masks: masked runs with nothing but signs between them have one together."""
    pieces: list[str] = []
    done, last = 0, -1
    for run in runs:
        gap = line[done : run.start]
        if run.masked and last == done and pieces and not _ANY_HAN.search(gap):
            done = last = run.end
        elif run.masked:
            pieces += [gap, MASK]
            done = last = run.end
        else:
            pieces += [gap, run.text]
            done = run.end
    return "".join([*pieces, line[done:]])

"""Crash points: named moments of an order's life at which a test may end the process.

`probe` does nothing, and nothing in the program can make it do anything. The crash tests' own launcher puts another
function in its place before the server starts, so it must be called as `probes.probe(…)`.
"""

from collections.abc import Mapping
from typing import Final

POINTS: Final[Mapping[str, str]] = {
    # Orders and evidence: what is to be stored is decided, or is stored and nobody was told.
    "create.storing": "a new order is about to be stored",
    "create.stored": "it is stored, and neither was its client told nor a request begun",
    "intend.storing": "the intention to send a waiting purchase is about to be stored",
    "intend.stored": "it is stored, nothing else happened",
    "apply.storing": "what evidence means is decided and its cards are sealed",
    "apply.stored": "it is stored, and nobody in the process knows",
    "note.storing": "a callback's arrival or a question to cancel is about to be noted",
    "note.stored": "it is noted",
    "cancel.storing": "a client's wish to cancel is about to be stored",
    "cancel.stored": "it is stored, and neither was the client told nor the supplier asked",
    # What operators decide.
    "decide.storing": "what a decision about a purchase means is made out and its cards are sealed",
    "decide.stored": "it is stored with its record, and neither was the operator told nor anything done about it",
    "pause.storing": "an operator's pause of an account is about to be stored",
    "pause.stored": "it is stored, and the account is still bought from",
    "resume.storing": "the end of a pause is about to be stored",
    "resume.stored": "it is stored, and the account still rests",
    # Suppliers.
    "send.begin": "the intention is on disk, the request isn't begun",
    "send.timeout": "the read time-out passed and the exchange stays open; the doubt isn't stored",
    "send.late": "an answer came after the time-out, nothing is done with it",
    "send.answered": "an answer was read into an outcome, nothing is stored",
    "look.begin": "a supplier is about to be asked what became of purchases",
    "look.answered": "it said so, nothing is stored",
    "cancel.asking": "that a supplier is about to be asked to cancel is on disk; it wasn't asked",
    "cancel.answered": "it answered, nothing is stored",
    # One exchange of any sort (purchase, look, cancel, token): byte ranges of request and answer.
    "exchange.connected": "there is a connection and not a byte on it",
    "exchange.written": "the request's body was handed to the connection",
    "exchange.answering": "the head of the answer is here",
    "exchange.chunk": "another part of its body is here",
    "exchange.answered": "all of it is here",
    # Callbacks.
    "callback.storing": "a verified callback is about to be kept",
    "callback.stored": "it is kept",
    "callback.acknowledging": "all that it says is stored, the acknowledgement isn't begun",
    "callback.acknowledged": "the acknowledgement was handed to the connection",
    # Sealing.
    "seal.sealing": "a card, a token, a callback or an answer is about to be sealed",
    "seal.key": "a client's new data key is wrapped and in memory only",
    # The store, for every write.
    "commit.begun": "the transaction is open and empty",
    "commit.ready": "all statements have run, the commit hasn't",
    "commit.done": "the commit returned; neither streams nor callers know",
    "commit.told": "streams know, callers don't",
    # Begin.
    "migrate.begin": "the database lacks a migration",
    "migrate.applied": "its statements have run, it isn't recorded",
    "migrate.recorded": "it is recorded and not committed",
    "migrate.done": "it is committed",
    "recover.begin": "an open purchase of the last run was found",
}
"""Every point, and what has happened when it is passed. A test passes each of them."""


def probe(name: str) -> None:
    """Passes a crash point, one of `POINTS`."""

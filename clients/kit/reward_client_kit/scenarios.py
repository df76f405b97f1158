"""The scenarios: what each server does, in one sentence for people and one script for the stage."""

from dataclasses import dataclass, field

import grpc

from reward_client_kit.client import Reported
from reward_client_kit.stage import (
    Leg,
    Stage,
    Step,
    beat,
    close,
    end,
    forget,
    half_a_snapshot,
    hang,
    opening,
    publish,
    refuse,
    repeat,
    reset,
    rest,
    restart,
    restore,
    say,
    silence,
    silence_twice,
    too_slow,
    unseen,
)
from reward_client_kit.world import Log, history
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

Code = grpc.StatusCode
UNTIL = "kit-z"
"""The client_order_id whose terminal update ends every run."""
_LONG_OUTAGE = 4.0
_SHORT_OUTAGE = 2.0
_RETRY_AFTER = 1.5
_LAST = Leg((opening, rest))

_DAY = "A1 B1 C1 A2 B2=NEEDS_REVIEW A3=FULFILLED C2=FULFILLED B3=FULFILLED Z1 Z2=FULFILLED"
"""The usual log: three orders and the one that ends the run."""
_NEW_KIND = pb.StreamOrderUpdatesResponse.FromString(b"\xfa\x01\x05later")
"""Field 31 of the message: a kind that no client knows yet."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one client has to live through.

    `log` is everything that will happen, `known` how much of it had happened when the client came, `pruned` how much of
    it was forgotten by then. `after` is the position that the client begins behind (None: it begins with a snapshot);
    `forged` gives it a token of nobody's. `resets` are the fall-backs to a snapshot that it has to tell of, `error` the
    code that it has to stop at. With `copies` the same happens to several clients at once, each with its own server.
    """

    name: str
    sentence: str
    legs: tuple[Leg, ...]
    log: tuple[order_pb2.Order, ...] = field(default=history(_DAY))
    known: int = 3
    pruned: int = 0
    after: int | None = None
    forged: bool = False
    order_ids: tuple[str, ...] = ()
    resets: tuple[str, ...] = ()
    error: str = ""
    copies: int = 1

    @property
    def start_token(self) -> str:
        """What the client is given to continue at; empty: nothing, it begins with a snapshot."""
        if self.forged:
            return "kit-" + "0" * 20
        return "" if self.after is None else Log(self.log, self.known).token(self.after)

    def stage(self, reported: Reported) -> Stage:
        """A server for one run, in which the client will report so."""
        log = Log(self.log, self.known)
        log.pruned = self.pruned
        return Stage(log, self.legs, _LAST, reported)

    def environment(self) -> dict[str, str]:
        """What the client is told, but for where the server is."""
        return {
            "REWARD_ORDER_IDS": ",".join(self.order_ids),
            "REWARD_START": "AFTER" if self.start_token else "SNAPSHOT",
            "REWARD_RESUME_TOKEN": self.start_token,
            "REWARD_UNTIL": UNTIL,
        }


def _legs(*legs: tuple[Step, ...] | Leg) -> tuple[Leg, ...]:
    return tuple(leg if isinstance(leg, Leg) else Leg(leg) for leg in legs)


_SERVER_GONE = refuse(Code.UNAVAILABLE)
_DRAIN = refuse(Code.UNAVAILABLE, "SERVER_DRAINING", retry_after=_RETRY_AFTER)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "calm", "Nothing goes wrong: a snapshot, then updates and heartbeats.", _legs((opening, publish(3), rest))
    ),
    Scenario(
        "calm-after-token",
        "Nothing goes wrong for a client that comes with a stored token.",
        _legs((opening, publish(3), rest)),
        after=2,
    ),
    Scenario("cut-at-once", "Three calls in a row end before their first message.", _legs(*[(_SERVER_GONE,)] * 3)),
    Scenario(
        "cut-in-snapshot",
        "The snapshot breaks off twice, the second time after a heartbeat; orders change meanwhile.",
        _legs(
            (half_a_snapshot(2), unseen(1), _SERVER_GONE),
            (half_a_snapshot(1), beat, unseen(1), _SERVER_GONE),
        ),
    ),
    Scenario(
        "cut-after-snapshot",
        "The stream ends right behind the snapshot; orders change meanwhile.",
        _legs((opening, unseen(2), _SERVER_GONE)),
    ),
    Scenario(
        "cut-after-update",
        "The stream ends right behind an update, before any heartbeat.",
        _legs((opening, publish(1), unseen(2), _SERVER_GONE), (opening, publish(1), unseen(1), reset)),
    ),
    Scenario(
        "cut-after-heartbeat",
        "The stream ends right behind a heartbeat.",
        _legs((opening, publish(2), beat, unseen(2), _SERVER_GONE)),
    ),
    Scenario(
        "reset", "The connection is reset in the middle of updates.", _legs((opening, publish(2), unseen(2), reset))
    ),
    Scenario(
        "closed-by-proxy",
        "The connection is closed on the way, without a status from the server.",
        _legs((opening, publish(2), unseen(2), close)),
    ),
    Scenario(
        "ended-with-ok",
        "The stream ends with OK although it has no end, as some proxies make it.",
        _legs((opening, publish(2), unseen(2), end)),
    ),
    Scenario(
        "restart",
        "The server goes away, takes no connection for a second, and is back on the same port.",
        _legs((opening, publish(2), unseen(2), restart(1.0))),
    ),
    Scenario(
        "drain",
        "The server drains: a heartbeat, then UNAVAILABLE with RetryInfo, which has to be waited for.",
        _legs((opening, publish(2), beat, unseen(1), _DRAIN)),
    ),
    Scenario(
        "repeats",
        "After the reconnect updates come again that were shown before.",
        _legs(
            (opening, publish(3), _SERVER_GONE),
            (opening, repeat(3), publish(2), _SERVER_GONE),
            (opening, repeat(4), rest),
        ),
    ),
    Scenario(
        "heartbeats-only",
        "For a while nothing comes but heartbeats; the log is pruned up to the last one before the stream is cut.",
        _legs((opening, beat, unseen(4), *[publish(0), beat] * 2, forget, _SERVER_GONE)),
        log=history("A1 Z1 B1 B2 C1 C2 B3=FULFILLED A2 A3=FULFILLED Z2=FULFILLED"),
        known=2,
        order_ids=("KIT-A", "KIT-Z"),
    ),
    Scenario(
        "token-expired",
        "The log is pruned beyond the client's token: a snapshot is needed, and the application has to hear of it.",
        _legs((opening, publish(1), unseen(2), forget, _SERVER_GONE)),
        resets=("RESUME_TOKEN_EXPIRED",),
    ),
    Scenario(
        "stored-token-expired",
        "The token that the client comes with is too old.",
        (),
        after=0,
        pruned=2,
        resets=("RESUME_TOKEN_EXPIRED",),
    ),
    Scenario(
        "log-rewound",
        "The server is restored from a backup: orders come again with versions that are lower than those shown.",
        _legs(
            (
                opening,
                publish(3),
                restore(history("A1 B1 C1 A2=OUTCOME_UNKNOWN A3=FAILED B2=FULFILLED C2=FULFILLED Z1 Z2=FULFILLED"), 4),
                _SERVER_GONE,
            )
        ),
        resets=("LOG_REWOUND",),
    ),
    Scenario(
        "cancelled",
        "For two seconds every call ends with a CANCELLED that the client didn't cause.",
        _legs((opening, publish(2), refuse(Code.CANCELLED)), Leg((refuse(Code.CANCELLED),), _SHORT_OUTAGE)),
    ),
    Scenario(
        "outage",
        "For four seconds every call of two clients ends with UNAVAILABLE: the pauses have to grow, with jitter.",
        _legs((opening, publish(2), unseen(2), _SERVER_GONE), Leg((_SERVER_GONE,), _LONG_OUTAGE)),
        copies=2,
    ),
    Scenario(
        "silent-connection",
        "The connection stays open and carries nothing any more, not even answers to pings.",
        _legs((opening, publish(2), unseen(2), silence)),
    ),
    Scenario(
        "silent-from-the-start",
        "The connection goes silent, and the next one is accepted and never says a word.",
        _legs((opening, publish(2), unseen(1), silence_twice)),
    ),
    Scenario(
        "silent-stream",
        "The connection answers pings, but the stream says nothing any more, as behind a proxy whose server is gone.",
        _legs((opening, publish(2), unseen(2), hang)),
    ),
    Scenario(
        "unknown-state",
        "Orders come in a state and with fields that a newer server may send; they go on afterwards.",
        _legs((opening, publish(4), _SERVER_GONE)),
        log=history("A1 B1=99 A2=99 Z1=99 B2 A3=FULFILLED Z2=99 B3=FULFILLED Z3=FULFILLED"),
        known=2,
    ),
    Scenario(
        "unknown-message",
        "Messages of a kind that a newer server may send come in every place.",
        _legs(
            (say(_NEW_KIND), opening, say(_NEW_KIND), publish(2), say(_NEW_KIND), _SERVER_GONE),
            (say(_NEW_KIND), opening, say(_NEW_KIND), say(_NEW_KIND), rest),
        ),
    ),
    Scenario(
        "reader-too-slow",
        "The server ends the stream because it was read too slowly: it goes on at the last token.",
        _legs((opening, publish(3), unseen(1), too_slow)),
    ),
    Scenario(
        "reader-too-slow-in-snapshot",
        "The same in the middle of a snapshot: no token stands for half a snapshot, not the one of the error either.",
        _legs((half_a_snapshot(2), unseen(1), too_slow)),
    ),
    Scenario(
        "some-orders",
        "Only two of the orders are asked for: on every connection.",
        _legs((opening, publish(3), _SERVER_GONE), (opening, publish(2), reset)),
        order_ids=("KIT-A", "KIT-Z"),
    ),
    Scenario(
        "review",
        "An order that everything waits for goes into review and comes out again: a review isn't the end.",
        _legs((opening, publish(2), unseen(1), _SERVER_GONE)),
        log=history("A1 Z1 Z2=OUTCOME_UNKNOWN Z3=NEEDS_REVIEW A2=NEEDS_REVIEW Z4 Z5=FULFILLED"),
        known=2,
    ),
    Scenario(
        "after-the-end",
        "Delivered orders change again (disputes, reversals): their updates are shown like all others.",
        _legs((opening, publish(2), unseen(1), _SERVER_GONE)),
        log=history("A1 B1=FULFILLED A2=FULFILLED A3=FULFILLED B2=FULFILLED Z1 B3=FULFILLED Z2=FULFILLED"),
        known=2,
    ),
    Scenario(
        "permission-denied",
        "The key loses its permission: the client has to stop at once and say so.",
        _legs((opening, publish(2), _SERVER_GONE), (refuse(Code.PERMISSION_DENIED, "PERMISSION_DENIED"),)),
        error="PERMISSION_DENIED",
    ),
    Scenario(
        "forged-token",
        "The token that the client comes with was never given to it: it has to stop at once and say so.",
        (),
        forged=True,
        error="INVALID_ARGUMENT",
    ),
)

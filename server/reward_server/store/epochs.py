"""Epochs tell one history of a store from another: resume tokens carry that of the log they point into."""

import secrets


def random_epoch() -> int:
    """31 bits and never 0, so that it fits every integer type it will travel in."""
    return secrets.randbelow(2**31 - 1) + 1

"""Named SQL statements, kept in `.sql` files beside the engine that runs them."""

import re
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- ([a-z_]+) --\n", re.MULTILINE)


def load_statements(file: Traversable) -> dict[str, str]:
    """Reads a file of statements, each under a line `-- name --`. Raises ValueError when a name comes twice."""
    _preamble, *parts = _NAME.split(file.read_text(encoding="utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file.name} names a statement twice")
    return {name: text.strip() for name, text in zip(names, texts, strict=True)}

"""Tables that fit: on a narrow terminal columns get shorter or leave, and no id is ever broken over two lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what may become of it."""

    name: str
    leaves: int = 0
    """Its turn to leave when there is no room, from 1, and it leaves when it is empty; 0: it stays."""
    least: int = 0
    """Cells that it may be shortened to; 0: it isn't shortened."""
    folds: bool = False
    """Shortened by folding its text instead of cutting it with "…"."""


class Fitted:
    """A table for any width."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """One cell for each column."""
        self._rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield self._table(options.max_width)

    def _table(self, width: int) -> Table:
        natural = [
            max(cell_len(column.name), *(cell_len(row[place].plain) for row in self._rows), 1)
            for place, column in enumerate(self._columns)
        ]
        places, gap = self._choice(width, natural)
        spare = width - gap * (len(places) - 1) - sum(self._least(place, natural) for place in places)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
        for place in places:
            column, least = self._columns[place], self._least(place, natural)
            granted = min(natural[place], least + max(0, spare))
            spare -= granted - least
            table.add_column(
                column.name,
                width=granted,
                no_wrap=not column.folds,
                overflow="fold" if column.folds else "ellipsis",
            )
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        return table

    def _choice(self, width: int, natural: Sequence[int]) -> tuple[list[int], int]:
        """The columns that are shown, and the gap between them."""
        places = [place for place in range(len(self._columns)) if not self._is_needless(place)]
        while True:
            least = sum(self._least(place, natural) for place in places)
            for gap in (2, 1):
                if least + gap * (len(places) - 1) <= width:
                    return places, gap
            movable = [place for place in places if self._columns[place].leaves]
            if not movable:
                return places, 1
            places.remove(min(movable, key=lambda place: self._columns[place].leaves))

    def _is_needless(self, place: int) -> bool:
        return bool(self._columns[place].leaves and self._rows) and not any(row[place] for row in self._rows)

    def _least(self, place: int, natural: Sequence[int]) -> int:
        least = self._columns[place].least
        return min(natural[place], least) if least else natural[place]

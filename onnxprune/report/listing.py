"""Tables for a terminal of any width: names are shortened where they stay apart, and what matters least is left out.

A narrow table does without columns until it fits, and without more of them where that tells names from each other.
"""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from onnxprune.core.text import shortened

_NAME, _TEXT = 10, 14  # columns that a name, or text, gets before something else is left out
_GAP = 3


def apart(names: Iterable[str], room: int) -> dict[str, str]:
    """Names of at most so many characters: cut in the middle, or where that tells more of them from each other."""
    different = list(dict.fromkeys(names))
    best = {name: shortened(name, room) for name in different}
    for start in range(1, max(map(len, different), default=0) - room + 2):
        if len(set(best.values())) == len(different):
            break
        cut = {name: _part(name, start, room) for name in different}
        best = max(best, cut, key=lambda short: len(set(short.values())))
    return best


def _part(name: str, start: int, room: int) -> str:
    """A part of a name from some character on; the end of one that is shorter."""
    if len(name) <= room:
        return name
    end = start + room - 2
    return f"…{name[len(name) - room + 1 :]}" if end >= len(name) - 1 else f"…{name[start:end]}…"


class Listing:
    """A table without frame.

    Args:
        titles: of the columns.
        left: positions of columns that are left-aligned; the others hold figures.
        names: positions of left-aligned columns that hold names, which stay on one line.
        folds: positions of left-aligned columns that hold text of several lines where they must.
        spare: positions of columns that a narrow terminal does without; the first goes first.
    """

    def __init__(
        self,
        *titles: str,
        left: Iterable[int] = (0,),
        names: Iterable[int] = (0,),
        folds: Iterable[int] = (),
        spare: Iterable[int] = (),
    ) -> None:
        self._titles = titles
        self._left, self._names, self._folds, self._spare = set(left), set(names), set(folds), tuple(spare)
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row of one cell for each column."""
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it fits."""
        columns, fitting = list(range(len(self._titles))), []
        for gone in (None, *self._spare):
            columns = [column for column in columns if column != gone]
            widths = self._widths(columns, options.max_width)
            if widths is not None:
                fitting.append(widths)
        none_fits = {column: self._least(column) for column in columns}
        widths = next(filter(self._tells_apart, fitting), fitting[0] if fitting else none_fits)
        columns = sorted(widths)
        short = {column: self._short(column, widths[column]) for column in columns if column in self._names}
        made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
        for column in columns:
            title, width = self._titles[column], widths[column]
            made.add_column(title, justify="left" if column in self._left else "right", width=width, overflow="fold")
        for row in self._rows:
            cells = ((row[column], short.get(column, {}).get(row[column].plain)) for column in columns)
            made.add_row(*(cell if name is None else Text(name, style=cell.style) for cell, name in cells))
        yield made

    def _short(self, column: int, width: int) -> dict[str, str]:
        """The names of a column as they are shown."""
        return apart([row[column].plain for row in self._rows], width)

    def _tells_apart(self, widths: dict[int, int]) -> bool:
        """Whether names that differ still do."""
        names = [self._short(column, width) for column, width in widths.items() if column in self._names]
        return all(len(set(short.values())) == len(short) for short in names)

    def _widths(self, columns: list[int], room: int) -> dict[int, int] | None:
        """Widths with which the columns fit; None where they cannot."""
        room -= _GAP * (len(columns) - 1)
        full = {column: max(self._longest(column), cell_len(self._titles[column])) for column in columns}
        if sum(full.values()) <= room:
            return full
        fixed = {column: self._least(column) for column in columns if not self._bends(column)}
        room -= sum(fixed.values())
        bending = sorted((column for column in columns if self._bends(column)), key=lambda column: full[column])
        for done, column in enumerate(bending):
            fixed[column] = min(full[column], room // (len(bending) - done))
            room -= fixed[column]
            if fixed[column] < min(full[column], self._least(column)):
                return None
        return fixed if room >= 0 else None

    def _bends(self, column: int) -> bool:
        return column in self._names or column in self._folds

    def _longest(self, column: int) -> int:
        return max((cell_len(row[column].plain) for row in self._rows), default=1)

    def _least(self, column: int) -> int:
        """The width below which a column loses too much; of figures that is the longest, or a word of the title."""
        words = max(map(cell_len, self._titles[column].split()), default=1)
        if self._bends(column):
            return _NAME if column in self._names else _TEXT
        return max(self._longest(column), words)

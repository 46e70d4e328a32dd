"""Scorers: methods that say how much each unit matters. One row a scorer; users register further ones."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxprune.core.errors import InputError
from onnxprune.core.plugins import installed

if TYPE_CHECKING:
    from onnxprune.importance.base import Scorer

ENTRY_POINTS = "onnxprune.scorers"
"""The entry point group under which packages offer scorers: functions, by the name that `--importance` takes."""


@dataclass(frozen=True, slots=True)
class ScorerRow:
    """One scorer.

    Attributes:
        name: what `--importance` takes.
        load: gives the function; what it takes to score is imported then.
        needs_data: whether it looks at calibration rows, not at weights only.
        needs_classes: whether it is for classifiers alone: then the one vector that a model puts out is class scores.
    """

    name: str
    load: "Callable[[], Scorer]"
    needs_data: bool = True
    needs_classes: bool = False


def _row(name: str, module: str, function: str, *, needs_data: bool = True, needs_classes: bool = False) -> ScorerRow:
    def load() -> Any:
        return getattr(importlib.import_module(f"onnxprune.importance.{module}"), function)

    return ScorerRow(name, load, needs_data, needs_classes)


_ROWS: dict[str, ScorerRow] = {
    row.name: row
    for row in (
        _row("reconstruction", "reconstruction", "score"),
        _row("oamip", "oamip", "score", needs_classes=True),
        _row("magnitude", "simple", "magnitude", needs_data=False),
        _row("magnitude-l1", "simple", "magnitude_l1", needs_data=False),
        _row("activation", "simple", "activation"),
        _row("random", "simple", "random", needs_data=False),
        _row("snip", "snip", "score", needs_classes=True),
    )
}
_CALLED: dict[str, ScorerRow] = {}
_OFFERED: set[str] = set()  # names in _ROWS that installed packages offer, not imported yet


def scorer_names() -> tuple[str, ...]:
    """The names that `--importance` takes."""
    _from_packages()
    return tuple(_ROWS)


def scorer_row(name: str) -> ScorerRow:
    """The scorer of this name.

    Raises:
        InputError: there is no such scorer.
    """
    _from_packages()
    row = _ROWS.get(name) or _CALLED.get(name)
    if row is None:
        raise InputError(f"importance: {name!r} is unknown; use one of {', '.join(_ROWS)}")
    if name in _OFFERED:  # only now is it imported, and can say what it needs
        _OFFERED.remove(name)
        function = row.load()
        if _ROWS[name] is row:  # its module has not registered it by itself
            _ROWS[name] = _row_of(name, function)
        return _ROWS[name]
    return row


def _row_of(name: str, function: "Scorer", *, needs_data: bool = True) -> ScorerRow:
    """The row of a user's function, whose attribute `needs_data` counts where it has one."""
    if not callable(function):
        raise InputError(f"scorer {name!r}: {function!r} is no function")
    return ScorerRow(name, lambda: function, bool(getattr(function, "needs_data", needs_data)))


def register_scorer(name: str, function: "Scorer", *, needs_data: bool = True) -> None:
    """Add a scorer of your own under a name that `importance` and `--importance` then take.

    Args:
        name: the name.
        function: from a `ScoreContext` to `Scores`, see `onnxprune.importance.base`.
        needs_data: whether it looks at calibration rows; a run without them is then refused at once. A function that
            has an attribute of this name overrides it.

    Raises:
        InputError: the name is taken by another function, or the function cannot be called.

    Example:
        ```python
        import numpy as np
        from onnxprune.importance.simple import scores_by_energy

        def first_channels_matter(context):
            energies = -np.arange(context.analysis.units, dtype=float)
            return scores_by_energy(context, np.exp(energies), np.ones(len(energies), bool), power=1)

        onnxprune.register_scorer("first", first_channels_matter, needs_data=False)
        result = onnxprune.prune("model.onnx", importance="first", repair=False, targets="macs=0.5")
        ```
    """
    row = _row_of(name, function, needs_data=needs_data)
    if name in _ROWS and _ROWS[name].load() is not function:
        raise InputError(f"scorer {name!r} exists already; choose another name")
    _ROWS[name] = row


def named(function: "Scorer") -> str:
    """A name for a function that was given in place of one; it says itself where it lacks data."""
    name = str(getattr(function, "__name__", type(function).__name__))
    _CALLED[name] = _row_of(name, function, needs_data=False)
    return name


@cache
def _from_packages() -> None:
    """Rows for the scorers of installed packages, which are imported when they are used."""
    for name, load in installed(ENTRY_POINTS):
        if name in _ROWS:
            raise InputError(f"{ENTRY_POINTS}: scorer {name!r} exists already")
        _ROWS[name] = ScorerRow(name, load)
        _OFFERED.add(name)

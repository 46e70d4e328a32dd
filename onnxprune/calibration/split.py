"""What each calibration row is for: set once for a whole run, by row, so that no row judges what it was fitted to.

Of a hundred rows 60 *fit*: weights are solved for on them. 15 measure the damage *curves*. 15 *choose*: among trials,
ridges and epochs. 10 *report*: the figures are of them (where other rows report, these fit). With few rows, sets that
can be spared merge, in this order:

- below 320 rows, none only report: 20 choose, the figures are of these, and 65 fit;
- below 64 rows, where there are no trials, the rows that choose measure the curves too, and 80 fit;
- below 5 rows, every row does everything.

The last repair also fits the rows of the curves, once these have served: 75 of all rows, or more. To refit all of them
at the end, those that chose too, was tried and brought nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxprune.calibration.dataset import Dataset

Used = Literal["unused", "chosen", "fitted"]
"""What was done with rows before figures were taken of them: nothing, choices by them, or fits to them."""

_REPORTING = 320  # rows from which on some can be spared for the report alone
_MEASURING = 64  # rows from which on the curves have rows of their own, and trials are of use
_CHOOSING = 5  # rows from which on some are not fitted to
_HUNDREDTHS = {"report": 10, "choose": 15, "curves": 15}
_BOTH = 20  # of a hundred rows, where those that choose report too
_FIT, _AGAIN, _CURVES, _CHOOSE, _REPORT, _SPARE, _SPARE_AGAIN = range(7)
_UNUSED = -1


@dataclass(frozen=True, slots=True)
class Fitting:
    """Rows to fit to, and rows that choose among fits.

    Attributes:
        fit: the first.
        choose: the second; the very same ones where rows are too few.
    """

    fit: Dataset
    choose: Dataset

    @property
    def apart(self) -> bool:
        """Whether other rows choose than those that are fitted."""
        return self.choose is not self.fit


@dataclass(frozen=True, slots=True)
class RowRoles:
    """The rows of a run and what they are for.

    Attributes:
        rows: all of them.
        roles: `(rows,)` the role of each.
    """

    rows: Dataset
    roles: np.ndarray

    @property
    def data(self) -> Dataset:
        """All rows but those that do nothing but report."""
        return self._of(_FIT, _AGAIN, _CURVES, _CHOOSE)

    @property
    def fit(self) -> Dataset:
        """Rows that statistics are of, and that trials fit."""
        return self._of(_FIT, _AGAIN)

    @property
    def curves(self) -> Dataset:
        """Rows that the damage of groups is measured on."""
        return self._of(_CURVES) if self.has_trials else self._chooses

    @property
    def report(self) -> Dataset:
        """Rows that figures are of where the user gives none."""
        return self._of(_REPORT) if (self.roles == _REPORT).any() else self._chooses

    @property
    def reported(self) -> Used:
        """What else the rows that report are used for."""
        if (self.roles == _REPORT).any():
            return "unused"
        return "chosen" if (self.roles == _CHOOSE).any() else "fitted"

    @property
    def last(self) -> Fitting:
        """The rows of the last repair, when all but its own choices is decided."""
        fitted = self._of(_FIT, _AGAIN, _CURVES)
        return Fitting(fitted, self._of(_CHOOSE) if (self.roles == _CHOOSE).any() else fitted)

    @property
    def has_trials(self) -> bool:
        """Whether there are rows that trials can be judged on: neither fitted nor those of the curves."""
        return bool((self.roles == _CURVES).any())

    def trial(self, *, again: bool = False) -> tuple[Fitting, Dataset]:
        """The rows of a trial, and those that judge it.

        Args:
            again: for a closer look as many rows that fit change places with those that choose.
        """
        judge, other, spare = (_AGAIN, _CHOOSE, _SPARE_AGAIN) if again else (_CHOOSE, _AGAIN, _SPARE)
        return Fitting(self._of(_FIT, other), self.curves), self._of(judge, spare)

    def fewer(self, most: int) -> "RowRoles":
        """Fewer rows to fit and to measure on, evenly taken: as many as if that many of the rows in `data` were left.

        Those that judge stay while they are fewer than those that fit, and rows that are not fitted any more judge too,
        up to as many: candidates pass over them once, where a repair goes through its rows many times.
        """
        count = len(self.data)
        if most >= count:
            return self
        at = {role: np.flatnonzero(self.roles == role) for role in range(_SPARE)}
        fit = max(2, (len(at[_FIT]) + len(at[_AGAIN])) * most // count)
        judge = min(len(at[_AGAIN]), fit - 1)
        wanted = {_FIT: fit - judge, _AGAIN: judge, _CHOOSE: judge, _CURVES: max(1, len(at[_CURVES]) * most // count)}
        kept = {role: _evenly(places, wanted.get(role, len(places))) for role, places in at.items()}
        roles = np.full(len(self.roles), _UNUSED, np.int8)
        for role, places in kept.items():
            roles[places] = role
        left = np.setdiff1d(at[_FIT], kept[_FIT])
        spare = _evenly(left, 2 * min(fit - judge, len(left) // 2))
        roles[spare[::2]], roles[spare[1::2]] = _SPARE, _SPARE_AGAIN
        rows = np.flatnonzero(roles != _UNUSED)
        return RowRoles(self.rows.take(rows), roles[rows])

    @property
    def _chooses(self) -> Dataset:
        """The rows that choose; all where every row does everything."""
        return self._of(_CHOOSE) if (self.roles == _CHOOSE).any() else self.rows

    def _of(self, *roles: int) -> Dataset:
        return self.rows.take(np.flatnonzero(np.isin(self.roles, roles)))


def _evenly(places: np.ndarray, count: int) -> np.ndarray:
    """As many of some places, or all where they are fewer."""
    return places[np.linspace(0, len(places) - 1, min(len(places), count)).astype(np.int64)]


def split_rows(data: Dataset, *, reports: bool = True, seed: int = 0) -> RowRoles:
    """Give each row its role, every role evenly along the rows: they may be sorted by class, or repeat themselves.

    Args:
        data: the rows.
        reports: whether figures are of some of them.
        seed: draws them.
    """
    roles, count = np.full(len(data), _FIT, np.int8), len(data)
    generator = np.random.default_rng([seed, count])
    report, choose, curves = (max(1, count * share // 100) for share in _HUNDREDTHS.values())
    if count < _CHOOSING:
        return RowRoles(data, roles)
    if count < _REPORTING:
        report, choose = 0, max(1, count * _BOTH // 100)
    elif not reports:
        report = 0
    if count < _MEASURING:
        curves = 0
    for role, wanted in ((_REPORT, report), (_CHOOSE, choose), (_CURVES, curves), (_AGAIN, choose if curves else 0)):
        free = np.flatnonzero(roles == _FIT)
        edges = np.linspace(0, len(free), wanted + 1).astype(np.int64)
        roles[free[generator.integers(edges[:-1], edges[1:])]] = role
    return RowRoles(data, roles)

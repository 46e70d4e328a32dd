"""Spend what is left of the budgets greedily: a first solution, and the last touch to one found on a grid."""

import heapq
from collections.abc import Sequence

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.allocation.program import Grid

_ROUNDING = 1e-11  # budgets are compared in floating point here; the exact check comes later


def spend(form: NormalForm, grid: Grid, choice: Sequence[int]) -> tuple[int, ...]:
    """Widen one group at a time, the one with the most damage avoided per share of the remaining budgets.

    A heap holds each group's best step. What others took makes a step dearer, never more useful, so that only the step
    on top need be worked out again: if it is still the best, it is taken.

    Args:
        form: the problem.
        grid: the widths a group may be widened to.
        choice: a choice that meets the budgets.

    Returns:
        A choice at least as wide in every group, to which no width of the grid can be added.
    """
    state = _Spending(form, grid, choice)
    while True:
        before = tuple(state.current)
        heap = [(-value, g) for g in range(len(grid)) if (value := state.best(g)[0]) > 0]
        heapq.heapify(heap)
        while heap:
            _, g = heapq.heappop(heap)
            value, index = state.best(g)
            if value <= 0:
                continue
            if heap and -value > heap[0][0]:
                heapq.heappush(heap, (-value, g))
                continue
            state.widen(g, index)
            if (value := state.best(g)[0]) > 0:
                heapq.heappush(heap, (-value, g))
        if before == tuple(state.current):  # measured costs may shrink where a width grows: look once more
            return before


class _Spending:
    """A choice, what it uses of each budget, and what a step of a group would add."""

    def __init__(self, form: NormalForm, grid: Grid, choice: Sequence[int]) -> None:
        self._form, self._grid = form, grid
        self.current = list(choice)
        self._room = 1 - _ROUNDING - form.usage(choice)
        self._slope = np.zeros((len(form.alone), len(grid)))  # products: what one more unit of a group uses
        self._neighbours: list[list[tuple[int, int]]] = [[] for _ in grid]  # (pair, other group)
        self._tables: list[list[tuple[int, int, np.ndarray]]] = [[] for _ in grid]  # (budget, other group, table)
        kept = form.kept(choice).astype(np.float64)
        for p, (g, h) in enumerate(form.pairs):
            self._neighbours[g].append((p, h))
            self._neighbours[h].append((p, g))
            self._slope[:, g] += form.product[:, p] * kept[h]
            self._slope[:, h] += form.product[:, p] * kept[g]
        for (b, p), table in form.tables.items():
            g, h = form.pairs[p]
            self._tables[g].append((b, h, table))
            self._tables[h].append((b, g, table.T))

    def best(self, g: int) -> tuple[float, int]:
        """The best step of a group: damage avoided per share of what is left, and the index; 0 where none fits."""
        form, now = self._form, self.current[g]
        wider = self._grid[g][np.searchsorted(self._grid[g], now, side="right") :]
        if not len(wider):
            return 0.0, now
        extra = self._extra(g, wider)
        gain = form.damage[g][now] - form.damage[g][wider]
        fits = np.all(extra <= self._room[:, None], axis=0) & (gain > 0)
        if not fits.any():
            return 0.0, now
        # Relative to the tightest budget: the order of steps is then the same however little of it is left.
        scale = np.maximum(self._room, _ROUNDING)
        share = np.max(np.maximum(extra, 0.0) * (scale.min() / scale)[:, None], axis=0)
        value = np.where(fits, gain / (share + _ROUNDING), 0.0)
        at = int(np.argmax(value))
        return float(value[at]), int(wider[at])

    def widen(self, g: int, index: int) -> None:
        """Take a step."""
        form = self._form
        self._room = self._room - self._extra(g, np.array([index]))[:, 0]
        more = float(form.widths[g][index] - form.widths[g][self.current[g]])
        for p, other in self._neighbours[g]:
            self._slope[:, other] += form.product[:, p] * more
        self.current[g] = index

    def _extra(self, g: int, indices: np.ndarray) -> np.ndarray:
        """What a group would use more at other widths, `(B, len(indices))`."""
        form, now = self._form, self.current[g]
        more = form.widths[g][indices] - form.widths[g][now]
        extra = self._slope[:, g][:, None] * more
        for b, values in enumerate(form.alone):
            extra[b] += values[g][indices] - values[g][now]
        for b, other, table in self._tables[g]:
            column = table[:, self.current[other]]
            extra[b] += column[indices] - column[now]
        return np.asarray(extra)

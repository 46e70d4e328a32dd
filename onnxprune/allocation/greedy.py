"""Greedy allocation: widens groups one after the other while the budgets allow it.

Gives a first solution, and uses up what a solution on a grid of widths leaves of the budgets.
"""

from collections.abc import Sequence

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.allocation.program import Grid

_ROUNDING = 1e-12  # budgets are compared in floating point here; the exact check comes later


def spend(form: NormalForm, grid: Grid, choice: Sequence[int]) -> tuple[int, ...]:
    """Widen groups greedily: always the step that avoids most damage per share of the remaining budgets.

    Args:
        form: the problem.
        grid: the widths a group may be widened to.
        choice: a choice that meets the budgets.

    Returns:
        A choice at least as wide in every group, to which no width of the grid can be added.
    """
    groups, longest = len(grid), max(len(points) for points in grid)
    k = np.zeros((groups, longest))
    damage = np.full((groups, longest), np.inf)  # padding never gains
    alone = np.zeros((len(form.alone), groups, longest))
    for g, points in enumerate(grid):
        k[g, : len(points)] = form.widths[g][points]
        damage[g, : len(points)] = form.damage[g][points]
        for b, values in enumerate(form.alone):
            alone[b, g, : len(points)] = values[g][points]
    left, right = (np.array([pair[side] for pair in form.pairs], dtype=np.int64) for side in (0, 1))
    current = list(choice)
    while True:
        kept = form.kept(current).astype(np.float64)[:, None]
        slope = np.zeros((groups, len(form.alone)))
        np.add.at(slope, left, (form.product * kept[right, 0]).T)
        np.add.at(slope, right, (form.product * kept[left, 0]).T)
        extra = slope.T[:, :, None] * (k - kept) + alone
        extra -= [[[values[g][i]] for g, i in enumerate(current)] for values in form.alone]
        for (b, p), table in form.tables.items():
            g, h = form.pairs[p]
            at_g, at_h = current[g], current[h]
            extra[b, g, : len(grid[g])] += table[grid[g], at_h] - table[at_g, at_h]
            extra[b, h, : len(grid[h])] += table[at_g, grid[h]] - table[at_g, at_h]
        room = 1 - _ROUNDING - form.usage(current)
        now = np.array([form.damage[g][i] for g, i in enumerate(current)])[:, None]
        share = np.zeros_like(k)
        for more, free in zip(extra, room, strict=True):
            share = np.maximum(share, more / free if free > 0 else np.where(more > 0, np.inf, 0.0))
        gain = np.where((k > kept) & (share <= 1), now - damage, 0.0)
        if not np.any(gain > 0):
            return tuple(current)
        widened, at = np.unravel_index(np.argmax(gain / (share + _ROUNDING)), gain.shape)
        current[widened] = int(grid[widened][at])

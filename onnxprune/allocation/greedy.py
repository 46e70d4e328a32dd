"""Spend what is left of the budgets greedily: a first solution, and the last touch to one found on a grid."""

from collections.abc import Sequence

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.allocation.program import Grid

_ROUNDING = 1e-12  # budgets are compared in floating point here; the exact check comes later


def spend(form: NormalForm, grid: Grid, choice: Sequence[int]) -> tuple[int, ...]:
    """Widen one group at a time, the one with the most damage avoided per share of the remaining budgets.

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
    for g, points in enumerate(grid):
        k[g, : len(points)] = form.widths[g][points]
        damage[g, : len(points)] = form.damage[g][points]
    left, right = (np.array([pair[side] for pair in form.pairs], dtype=np.int64) for side in (0, 1))
    current = list(choice)
    while True:
        kept = form.kept(current).astype(np.float64)[:, None]
        slope = form.linear.copy()
        np.add.at(slope, (slice(None), left), form.product * kept[right, 0])
        np.add.at(slope, (slice(None), right), form.product * kept[left, 0])
        room = 1 - _ROUNDING - form.usage(current)
        now = np.array([form.damage[g][i] for g, i in enumerate(current)])[:, None]
        share = np.zeros_like(k)
        for row, square, free in zip(slope, form.square, room, strict=True):
            extra = row[:, None] * (k - kept) + square[:, None] * (k**2 - kept**2)
            share = np.maximum(share, extra / free if free > 0 else np.where(extra > 0, np.inf, 0.0))
        gain = np.where((k > kept) & (share <= 1), now - damage, 0.0)
        if not np.any(gain > 0):
            return tuple(current)
        g, at = np.unravel_index(np.argmax(gain / (share + _ROUNDING)), gain.shape)
        current[g] = int(grid[g][at])

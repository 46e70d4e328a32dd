"""Chooses which widths enter the allocation program: first along the damage curves, then by reduced costs."""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.allocation.program import Grid, columns


def points_per_group(form: NormalForm, column_limit: int, least: int, most: int) -> int:
    """Number of grid points per group at which the program has about `column_limit` columns."""
    return min(most, max(least, isqrt(column_limit // max(1, len(form.pairs)))))


def first_grid(form: NormalForm, points: int) -> Grid:
    """The first grid: half of the points evenly spaced in damage, half in the logarithm of width, both ends."""
    grid = []
    for widths, damage in zip(form.widths, form.damage, strict=True):
        if len(widths) <= points:
            grid.append(np.arange(len(widths)))
            continue
        by_damage = np.searchsorted(-damage, -np.linspace(damage[0], damage[-1], points // 2))
        by_width = np.searchsorted(widths, np.geomspace(max(1, widths[0]), widths[-1], points - points // 2))
        grid.append(np.unique(np.minimum(np.concatenate([by_damage, by_width]), len(widths) - 1)))
    return tuple(grid)


def next_grid(grid: Grid, used: Grid, reduced: tuple[np.ndarray, ...], points: int) -> Grid:
    """A better grid: the points that the relaxation used, and those widths with the smallest reduced costs.

    Between any two neighbours on the grid the width with the least reduced cost is a candidate, and so are the old
    points; of all these the best are taken. (The best widths outright would all lie side by side.)

    Args:
        grid: the present grid.
        used: its points that the relaxation's solution uses; always kept.
        reduced: reduced costs of all widths.
        points: size of the new grid per group.
    """
    new = []
    for old, keep, cost in zip(grid, used, reduced, strict=True):
        edges = [-1, *old.tolist(), len(cost)]
        between = [a + 1 + int(np.argmin(cost[a + 1 : b])) for a, b in pairwise(edges) if b - a > 1]
        offered = np.setdiff1d(np.concatenate([old, np.array(between, dtype=np.int64)]), keep)
        best = offered[np.argsort(cost[offered], kind="stable")][: max(0, points - len(keep))]
        new.append(np.union1d(keep, best))
    return tuple(new)


def promising_grid(form: NormalForm, reduced: tuple[np.ndarray, ...], worth: float, column_limit: int) -> Grid:
    """A grid of all widths with a reduced cost of at most `worth`, as many as `column_limit` allows."""
    order = [np.argsort(cost, kind="stable") for cost in reduced]
    wanted = [max(1, int(np.count_nonzero(cost <= worth))) for cost in reduced]
    points = max(wanted)
    while points > 2 and columns(form, [min(points, size) for size in wanted]) > column_limit:
        points -= max(1, points // 16)
    return tuple(np.sort(rank[: min(points, size)]) for rank, size in zip(order, wanted, strict=True))


def with_choice(grid: Grid, choice: Sequence[int]) -> Grid:
    """The grid extended by the widths of a choice."""
    return tuple(np.union1d(points, [i]) for points, i in zip(grid, choice, strict=True))


def least_outside(grid: Grid, reduced: tuple[np.ndarray, ...]) -> float:
    """The smallest reduced cost among widths that are not on the grid; infinite where there are none."""
    return min(float(np.delete(cost, points).min(initial=np.inf)) for points, cost in zip(grid, reduced, strict=True))

"""Solves a small allocation problem by looking at every choice: exact, and quicker than to load a solver."""

from collections.abc import Callable
from math import prod

import numpy as np

from onnxprune.allocation.normal import NormalForm

_MOST_CHOICES = 1 << 16
_ROUNDING = 1e-9  # budgets are compared in floating point here, generously; the exact check comes later


def best_of_all(form: NormalForm, holds: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...] | None:
    """Find the choice with the least damage of those that meet every budget; None where there are too many to look at.

    Args:
        form: the problem.
        holds: whether a choice meets the budgets exactly.
    """
    sizes = [len(widths) for widths in form.widths]
    if prod(sizes) > _MOST_CHOICES:
        return None
    axes = [g for g, size in enumerate(sizes) if size > 1]

    def spread(values: np.ndarray, *groups: int) -> np.ndarray:
        """Values by the widths of some groups, as an array with an axis for each group that has a choice."""
        return values.reshape([sizes[g] if g in groups else 1 for g in axes])

    k = [spread(widths.astype(np.float64), g) for g, widths in enumerate(form.widths)]
    damage = sum((spread(values, g) for g, values in enumerate(form.damage)), start=spread(np.zeros(1)))
    fits = np.ones(damage.shape, bool)
    for b, alone in enumerate(form.alone):
        usage = sum((spread(values, g) for g, values in enumerate(alone)), start=spread(np.zeros(1)))
        for p, (g, h) in enumerate(form.pairs):
            if form.product[b, p]:
                usage = usage + form.product[b, p] * k[g] * k[h]
            if (b, p) in form.tables:
                usage = usage + spread(form.tables[b, p], g, h)
        fits &= usage <= 1 + _ROUNDING
    fitting = np.flatnonzero(fits)[::-1]  # of equal ones, that which leaves the first groups wider
    for at in fitting[np.argsort(damage.ravel()[fitting], kind="stable")]:
        index = dict(zip(axes, np.unravel_index(at, damage.shape), strict=True))
        choice = tuple(int(index.get(g, 0)) for g in range(len(sizes)))
        if holds(choice):
            return choice
    return None

"""Builds the mixed-integer program that chooses one grid width for each group, and reads its solutions.

Binary `y[g, i]`: group `g` keeps its `i`-th grid width; `sum_i y[g, i] = 1`. For each pair of groups that meet in an
operator, `w[i, j] >= 0` with `sum_j w[i, j] = y[g, i]` and `sum_i w[i, j] = y[h, j]`, so that
`w[i, j] = y[g, i] y[h, j]` wherever `y` is integer, and the product of the kept widths is `sum_ij w[i, j] k_i k_j`.
These are the local-polytope constraints of a pairwise graphical model; the relaxation is much tighter than one product
variable per width (McCormick), which matters more than its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.programs import LinearProgram

_ZERO = 1e-9
_HOPELESS = 1e6  # solvers fail where costs differ by many orders more

Grid = tuple[np.ndarray, ...]
"""Per group, ascending indices into `NormalForm.widths[g]`."""


@dataclass(frozen=True, slots=True)
class GridProgram:
    """The program, and which columns and rows stand for which group or pair of groups.

    Attributes:
        program: columns are all `y`, then all `w`; rows are the equalities, then one row per budget.
        grid: the grid it was built on.
        first_choice: `(G + 1,)` first column of each group's `y`.
        first_product: `(P + 1,)` first column of each pair's `w`.
        first_message: `(P + 1,)` first row of each pair's equalities: those of `g`, then those of `h`.
    """

    program: LinearProgram
    grid: Grid
    first_choice: np.ndarray
    first_product: np.ndarray
    first_message: np.ndarray

    def choice(self, x: np.ndarray) -> tuple[int, ...]:
        """The choice that a solution stands for: per group the width with the largest `y`."""
        spans = zip(self.grid, self.first_choice[:-1], self.first_choice[1:], strict=True)
        return tuple(int(points[np.argmax(x[start:stop])]) for points, start, stop in spans)

    def used(self, x: np.ndarray) -> Grid:
        """The grid points with `y > 0` in a solution of the relaxation."""
        spans = zip(self.grid, self.first_choice[:-1], self.first_choice[1:], strict=True)
        return tuple(points[x[start:stop] > _ZERO] for points, start, stop in spans)

    def messages(self, form: NormalForm, duals: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The duals of each pair's equalities, on the grid points of `g` and of `h`; see `bound`."""
        split = [len(self.grid[g]) for g, _ in form.pairs]
        spans = zip(split, self.first_message[:-1], self.first_message[1:], strict=True)
        return [(duals[start : start + size], duals[start + size : stop]) for size, start, stop in spans]

    def point(self, form: NormalForm, choice: Sequence[int]) -> np.ndarray:
        """The program's variables for a given choice, which must lie on the grid."""
        x = np.zeros(len(self.program.c))
        at = [int(np.searchsorted(points, i)) for points, i in zip(self.grid, choice, strict=True)]
        x[self.first_choice[:-1] + at] = 1
        for p, (g, h) in enumerate(form.pairs):
            x[self.first_product[p] + at[g] * len(self.grid[h]) + at[h]] = 1
        return x


def columns(form: NormalForm, sizes: Sequence[int]) -> int:
    """Number of variables of the program on a grid of these sizes."""
    return sum(sizes) + sum(sizes[g] * sizes[h] for g, h in form.pairs)


def build(form: NormalForm, grid: Grid, scale: float) -> GridProgram:
    """Build the program on a grid. Damage is divided by `scale`, since solvers' tolerances are absolute.

    A damage of `_HOPELESS` times the scale, the objective of some choice, stands for every larger one.
    """
    from scipy.sparse import coo_array

    sizes = [len(points) for points in grid]
    k = [widths[points].astype(np.float64) for widths, points in zip(form.widths, grid, strict=True)]
    choice = _starts(sizes, 0)
    product = _starts([sizes[g] * sizes[h] for g, h in form.pairs], int(choice[-1]))
    message = _starts([sizes[g] + sizes[h] for g, h in form.pairs], len(grid))

    # Each block is (rows, columns, values).
    blocks = [(np.repeat(np.arange(len(grid)), sizes), np.arange(choice[-1]), np.ones(choice[-1]))]
    for p, (g, h) in enumerate(form.pairs):
        i, j = (index.ravel() for index in np.indices((sizes[g], sizes[h])))
        w = product[p] + np.arange(len(i))
        y = np.concatenate([choice[g] + np.arange(sizes[g]), choice[h] + np.arange(sizes[h])])
        blocks += [
            (message[p] + i, w, np.ones(len(w))),
            (message[p] + sizes[g] + j, w, np.ones(len(w))),
            (message[p] + np.arange(len(y)), y, -np.ones(len(y))),
        ]
    equalities, budgets = int(message[-1]), len(form.alone)
    for b in range(budgets):
        parts = [values[points] for values, points in zip(form.alone[b], grid, strict=True)]
        for p, (g, h) in enumerate(form.pairs):
            cost = form.product[b, p] * np.outer(k[g], k[h])
            if (b, p) in form.tables:
                cost = cost + form.tables[b, p][np.ix_(grid[g], grid[h])]
            parts.append(cost.ravel())
        values = np.concatenate(parts)
        used = np.flatnonzero(values)
        blocks.append((np.full(len(used), equalities + b), used, values[used]))
    rows, cols, values = (np.concatenate(part) for part in zip(*blocks, strict=True))

    c = np.zeros(product[-1])
    damage = np.concatenate([values[points] for values, points in zip(form.damage, grid, strict=True)])
    c[: choice[-1]] = np.minimum(damage / scale, _HOPELESS)
    ones = np.concatenate([np.ones(len(grid)), np.zeros(equalities - len(grid))])
    program = LinearProgram(
        c=c,
        A=coo_array((values, (rows, cols)), shape=(equalities + budgets, len(c))).tocsr(),
        row_lower=np.concatenate([ones, np.full(budgets, -np.inf)]),
        row_upper=np.concatenate([ones, np.ones(budgets)]),
        column_lower=np.zeros(len(c)),
        column_upper=np.ones(len(c)),
        integer=np.arange(len(c)) < choice[-1],
    )
    return GridProgram(program, grid, choice, product, message)


def _starts(sizes: Sequence[int], first: int) -> np.ndarray:
    """Start of each of several consecutive blocks of these sizes, and the end of the last."""
    return first + np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)

"""A lower bound on the damage of every allowed choice of widths (Lagrangian relaxation, improved by message passing).

It needs only the duals of the program on a grid of widths, yet holds for all widths. Reduced costs that come with it
prove that single widths cannot be part of a better choice.

Let `u >= 0` be prices of the budgets. Charging for the budgets instead of imposing them (Lagrangian relaxation) leaves

    min_k  sum_g f_g(k_g) + sum_(g,h) c_gh(k_g, k_h) - sum_b u_b,        f_g = damage_g + u alone_g,

with `c = u product k_g k_h + u tables`, a pairwise model. Any messages `a(k_g) + b(k_h) <= c_gh(k_g, k_h)` turn it into
a sum of independent minima,

    bound = sum_g min_k r_g(k) - sum_b u_b,        r_g = f_g + (messages of g's pairs),

which is a lower bound on every feasible choice; one with `k_g = k` has an objective of at least
`bound + r_g(k) - min r_g`. The program's equalities have such messages as their duals, but only on the grid. Here they
are extended to all widths and improved by block coordinate ascent (max-product linear programming: Globerson and
Jaakkola, "Fixing max-product", NIPS 2007), each step of which keeps them valid and never lowers the bound. Without a
table a step needs `min_j (x k_j + v_j)` for all `x`, which a lower convex hull answers in linear time, so that groups
of thousands of units cost nothing. No solving here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.normal import NormalForm
from onnxprune.allocation.program import Grid

_SWEEPS = 12
_STALLED = 1e-5  # relative progress of a sweep that is not worth another


@dataclass(frozen=True, slots=True)
class LowerBound:
    """A lower bound on the objective, and reduced costs: what choosing a single width adds to the bound.

    Every feasible choice has at least `bound`; one with width index `i` in group `g` at least `bound + reduced[g][i]`.

    Attributes:
        bound: in units of damage.
        reduced: per group, an array like `NormalForm.widths[g]`, at least 0 and 0 somewhere.
    """

    bound: float
    reduced: tuple[np.ndarray, ...]


def lower_bound(
    form: NormalForm, grid: Grid, prices: np.ndarray, messages: Sequence[tuple[np.ndarray, np.ndarray]]
) -> LowerBound:
    """Compute the lower bound from the duals of the program on a grid.

    Args:
        form: the problem.
        grid: where the messages are given.
        prices: `(B,)` prices of the budgets, at least 0.
        messages: per pair `(g, h)`, duals on the grid points of `g` and of `h`; only those of `h` are read, and any
            value is valid.

    Returns:
        The bound and reduced costs, over all widths of the form.
    """
    k = [widths.astype(np.float64) for widths in form.widths]
    local = [
        damage + sum(price * alone[g] for price, alone in zip(prices, form.alone, strict=True))
        for g, damage in enumerate(form.damage)
    ]
    coupling = prices @ form.product
    tables = [np.zeros((0, 0)) for _ in form.pairs]
    for (b, p), table in form.tables.items():
        tables[p] = prices[b] * table + (tables[p] if tables[p].size else 0.0)
    sent: list[tuple[np.ndarray, np.ndarray]] = []
    for (g, h), c, table, (_, given) in zip(form.pairs, coupling, tables, messages, strict=True):
        to_g = _least(c, table[:, grid[h]] if table.size else table, k[g], k[h][grid[h]], -given)
        to_h = _least(c, table.T, k[h], k[g], -to_g)
        local[g] = local[g] + to_g
        local[h] = local[h] + to_h
        sent.append((to_g, to_h))

    best = _collect(local, prices)
    order = list(range(len(form.pairs)))
    for _ in range(_SWEEPS):
        for p in order:
            (g, h), c, table = form.pairs[p], coupling[p], tables[p]
            rest_g, rest_h = local[g] - sent[p][0], local[h] - sent[p][1]
            to_g = (_least(c, table, k[g], k[h], rest_h) - rest_g) / 2
            to_h = (_least(c, table.T, k[h], k[g], rest_g) - rest_h) / 2
            sent[p] = to_g, to_h
            local[g], local[h] = rest_g + to_g, rest_h + to_h
        order.reverse()
        collected = _collect(local, prices)
        if collected.bound <= best.bound + _STALLED * abs(best.bound):
            return max(best, collected, key=lambda candidate: candidate.bound)
        best = collected
    return best


def _least(c: float, table: np.ndarray, x: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`min_j (c x_i k_j + table_ij + v_j)` for every `i`; an empty table counts as 0."""
    if not table.size:
        return lowest_line(c * x, k, v)
    return np.asarray(np.min(c * np.outer(x, k) + table + v, axis=1))


def lowest_line(x: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Lower envelope of lines: `min_j (x_i k_j + v_j)` for every `i`.

    Only the vertices of the lower convex hull of the points `(k_j, v_j)` attain a minimum, and between two of them the
    better one changes where `-x` passes the slope of the edge.

    Args:
        x: `(m,)` any order.
        k: `(n,)` strictly ascending.
        v: `(n,)`.

    Returns:
        `(m,)`.
    """
    hull: list[int] = []
    xs, ys = k.tolist(), v.tolist()
    for j in range(len(xs)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (ys[b] - ys[a]) * (xs[j] - xs[a]) < (ys[j] - ys[a]) * (xs[b] - xs[a]):
                break
            hull.pop()
        hull.append(j)
    k, v = k[hull], v[hull]
    best = np.searchsorted(np.diff(v) / np.diff(k), -x)
    return np.asarray(x * k[best] + v[best])


def _collect(local: Sequence[np.ndarray], prices: np.ndarray) -> LowerBound:
    """The bound (sum of the groups' minima minus the prices), and the reduced cost of every width."""
    least = [float(values.min()) for values in local]
    reduced = tuple(values - low for values, low in zip(local, least, strict=True))
    return LowerBound(sum(least) - float(prices.sum()), reduced)

"""The linear constraints of a ReLU and of a maximum.

For `h = max(r, 0)` with bounds `L <= r <= U` and a gate `v` (integer, or relaxed to [0, 1]):

    h >= 0,   h <= v U,   h >= r,   h <= r - (1 - v) L.

Where the bounds have one sign the gate is decided, and `h` is 0 or `r` without any column. If the bounds hold for all
scores (`Bounds.VALID`) that is all; bounds of the original network (`Bounds.EPS`, the paper's) are themselves imposed
by the rows above: a unit that is off stays off and not below `L`, one that is on stays within `[0, U]`. A relaxed gate
is eliminated (Fourier-Motzkin): `h (U - L) <= U (r - L)`, the triangle relaxation.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.sparse import csr_array

from onnxprune.importance.oamip.affine import AffineFunctions, Builder, sparse, widened


class Bounds(Enum):
    """What bounds hold for: the original network near the image (EPS), or all scores in [0, 1] (VALID)."""

    EPS = "eps"
    VALID = "valid"


@dataclass(frozen=True, slots=True)
class Gating:
    """How ReLUs are modelled: what bounds hold for, and whether the on/off variables are integer."""

    bounds: Bounds = Bounds.EPS
    integer: bool = False

    @property
    def imposed(self) -> bool:
        """Whether the program has constraints that enforce the bounds."""
        return self.bounds is Bounds.EPS


def relu(r: AffineFunctions, gating: Gating, builder: Builder, node: str) -> AffineFunctions:
    """`max(r, 0)` in the program. Adds columns and rows where the sign of `r` is not known."""
    off = r.upper <= 0
    on = ~off & (r.lower >= 0)
    depends = r.depends
    if gating.imposed:
        closed = np.flatnonzero((off | on) & depends)
        low, high = np.where(off, r.lower, 0.0)[closed], np.where(off, 0.0, r.upper)[closed]
        builder.add_rows(node, r.constant[closed], r.matrix[closed], low, high)
    unsure = np.flatnonzero(~off & ~on & depends)
    passed = np.where(depends, on, r.constant > 0)
    constant = np.where(passed, r.constant, 0.0)
    matrix = _scale_rows(r.matrix, passed.astype(float))
    if len(unsure):
        h = _open_gates(r, unsure, gating, builder, node)
        size = (len(constant), builder.columns)
        matrix = widened(matrix, builder.columns) + sparse(unsure, h, np.ones(len(h)), size)
    return AffineFunctions(constant, csr_array(matrix), np.maximum(r.lower, 0.0), np.maximum(r.upper, 0.0))


def _open_gates(r: AffineFunctions, at: np.ndarray, gating: Gating, builder: Builder, node: str) -> np.ndarray:
    """Add columns `h = max(r, 0)` for positions whose sign is not known, with their constraints."""
    low, high, constant, matrix = r.lower[at], r.upper[at], r.constant[at], r.matrix[at]
    value = builder.at_start(constant, matrix)
    n = np.arange(len(at))
    h = builder.add_columns(np.zeros(len(at)), high, np.clip(value, 0.0, high))
    if gating.integer:
        v = builder.add_columns(np.zeros(len(at)), np.ones(len(at)), (value > 0).astype(float), integer=True)
        size = (len(at), builder.columns)
        pick = sparse(n, h, np.ones(len(at)), size)
        infinite = np.full(len(at), np.inf)
        wide = widened(matrix, builder.columns)
        builder.add_rows(node, np.zeros(len(at)), pick - sparse(n, v, high, size), -infinite, np.zeros(len(at)))
        builder.add_rows(node, -constant, pick - wide, np.zeros(len(at)), infinite)
        builder.add_rows(node, -constant, pick - wide - sparse(n, v, low, size), -infinite, -low)
    else:
        size = (len(at), builder.columns)
        pick = sparse(n, h, np.ones(len(at)), size)
        infinite = np.full(len(at), np.inf)
        wide = widened(matrix, builder.columns)
        slope = high / (high - low)
        builder.add_rows(node, -constant, pick - wide, np.zeros(len(at)), infinite)
        builder.add_rows(node, -slope * constant, pick - _scale_rows(wide, slope), -infinite, -slope * low)
    return h


def maximum(x: AffineFunctions, windows: np.ndarray, gating: Gating, builder: Builder, node: str) -> AffineFunctions:
    """The maximum over each window's positions.

    The position that is largest in the original network is put in its place where it is largest for all values of the
    columns, or where bounds of the original network say so (and rows then keep it so). Else a column `p` with selectors
    `u`: `p >= x_j`, `p <= x_j + (1 - u_j) (max U - L_j)`, `sum u = 1`.
    """
    value = np.append(builder.at_start(x.constant, x.matrix), -np.inf)
    lower, upper = np.append(x.lower, -np.inf), np.append(x.upper, -np.inf)
    count = np.arange(len(windows))
    best = windows[count, np.argmax(value[windows], axis=1)]
    rows, others = np.nonzero((windows >= 0) & (windows != best[:, None]))
    k, j = best[rows], windows[rows, others]
    ahead_matrix, ahead_constant = csr_array(x.matrix[k] - x.matrix[j]), x.constant[k] - x.constant[j]
    always = builder.least(ahead_constant, ahead_matrix) >= -1e-12
    decided = always | (gating.imposed & (lower[k] >= upper[j]))
    unsure = np.unique(rows[~decided])
    kept = decided & ~always & ~np.isin(rows, unsure)
    if kept.any():
        size = int(kept.sum())
        builder.add_rows(
            node, ahead_constant[kept], ahead_matrix[np.flatnonzero(kept)], np.zeros(size), np.full(size, np.inf)
        )
    low, high = lower[windows].max(axis=1), upper[windows].max(axis=1)
    constant, matrix = x.constant[best], x.matrix[best]
    if len(unsure):
        p = _selected(x, windows[unsure], low[unsure], high[unsure], gating, builder, node)
        taken = np.ones(len(windows))
        taken[unsure] = 0.0
        constant = constant * taken
        size_of = (len(windows), builder.columns)
        matrix = widened(_scale_rows(matrix, taken), builder.columns) + sparse(unsure, p, np.ones(len(p)), size_of)
    return AffineFunctions(constant, csr_array(matrix), low, high)


def _selected(
    x: AffineFunctions,
    windows: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    gating: Gating,
    builder: Builder,
    node: str,
) -> np.ndarray:
    """Add columns `p = max` for windows whose largest position is not known, with their constraints."""
    rows, taps = np.nonzero(windows >= 0)
    j = windows[rows, taps]
    value = builder.at_start(x.constant, x.matrix)
    at_start = np.where(windows >= 0, value[windows], -np.inf)
    p = builder.add_columns(low, high, at_start.max(axis=1))
    first = (np.argmax(at_start, axis=1)[rows] == taps).astype(float)
    u = builder.add_columns(np.zeros(len(j)), np.ones(len(j)), first, integer=gating.integer)
    size, n = (len(j), builder.columns), np.arange(len(j))
    ahead = sparse(n, p[rows], np.ones(len(j)), size) - widened(x.matrix[j], builder.columns)
    reach = high[rows] - x.lower[j]
    infinite = np.full(len(j), np.inf)
    builder.add_rows(node, -x.constant[j], csr_array(ahead), np.zeros(len(j)), infinite)
    builder.add_rows(node, -x.constant[j], csr_array(ahead + sparse(n, u, reach, size)), -infinite, reach)
    choose = sparse(rows, u, np.ones(len(j)), (len(windows), builder.columns))
    builder.add_rows(node, np.zeros(len(windows)), choose, np.ones(len(windows)), np.ones(len(windows)))
    return p


def _scale_rows(matrix: csr_array, factors: np.ndarray) -> csr_array:
    """The matrix with each row multiplied by a factor; rows times 0 become empty."""
    scaled = csr_array(matrix, copy=True)
    scaled.data *= np.repeat(factors, np.diff(scaled.indptr))
    if not np.all(factors):
        scaled.eliminate_zeros()
    return scaled

"""Solves the relaxed program with an interior-point method (primal-dual), treating log-sum-exp as a smooth function.

Minimises `c x + w sum_m f_m(x)` over `lower <= A x <= upper` and the columns' bounds, with `f_m` the images' losses.
The Newton system has one row a column (the scores and little else), whatever the number of rows, which is why this is
fast where the simplex method walks through thousands of degenerate vertices (Mehrotra, "On the implementation of a
primal-dual interior point method", SIAM J. Optim. 1992). The multipliers give a lower bound that does not rest on
convergence:

    min f >= f(x) - g x + min_(bounds) (c + g + A' y) x' - y+ upper + y- lower,        g = gradient of w sum_m f_m at x.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.sparse import csr_array

from onnxprune.importance.oamip.program import OamipProgram

_ITERATIONS = 200
_TO_BOUNDARY = 0.99
_DENSE = 0.1  # share of nonzeros above which rows are better held densely
_MOST_COLUMNS = 4000


@dataclass(frozen=True, slots=True)
class Interior:
    """The result: the best point, its objective and a lower bound.

    Attributes:
        x: `(n,)` feasible within the solver's tolerance, losses and sparsity columns at their implied values.
        objective: its value.
        bound: lower bound on the program's optimum.
        prices: `(m,)` multipliers of the rows, positive where the upper side is active.
    """

    x: np.ndarray
    objective: float
    bound: float
    prices: np.ndarray


def applicable(program: OamipProgram) -> bool:
    """Whether the method fits the program: few enough columns, and no equality constraints."""
    linear = program.linear
    return len(linear.c) <= _MOST_COLUMNS and bool(np.all(linear.row_lower < linear.row_upper))


class _Smooth:
    """The losses and their derivatives, as functions of the other columns."""

    def __init__(self, program: OamipProgram) -> None:
        self.kept = np.setdiff1d(np.arange(len(program.linear.c)), program.loss_columns)
        self.weight = program.loss_weight
        self.targets = np.stack(program.targets)
        self.classes = len(program.offsets[0])
        self.jacobian = np.concatenate([matrix.toarray()[:, self.kept] for matrix in program.logits])
        self.offset = np.concatenate(program.offsets)

    def at(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient, and a factor `F` of the Hessian `F' F` at a point."""
        z = (self.jacobian @ x + self.offset).reshape(-1, self.classes)
        target_logits = np.sum(self.targets * z, axis=1)
        top = z.max(axis=1, keepdims=True)
        p = np.exp(z - top)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        value = self.weight * float(np.sum(np.log(total[:, 0]) + top[:, 0] - target_logits))
        slope = p - self.targets
        gradient = self.weight * (self.jacobian.T @ slope.ravel())
        # diag(p) - p p' = R' R with R = diag(sqrt p) (I - 1 p'), since p sums to 1.
        rows = self.jacobian.reshape(len(z), self.classes, -1)
        centred = rows - np.einsum("mk,mkn->mn", p, rows)[:, None, :]
        factor = np.sqrt(self.weight * p)[:, :, None] * centred
        return value, gradient, factor.reshape(len(self.jacobian), -1)


class _Rows:
    """The constraint matrix, stored dense or sparse, whichever multiplies faster."""

    def __init__(self, matrix: csr_array) -> None:
        size = max(1, matrix.shape[0] * matrix.shape[1])
        self.matrix = matrix.toarray() if matrix.nnz > _DENSE * size else matrix
        self.transposed = self.matrix.T if isinstance(self.matrix, np.ndarray) else csr_array(matrix.T.tocsr())

    def gram(self, weights: np.ndarray) -> np.ndarray:
        """`A' diag(weights) A`."""
        if isinstance(self.matrix, np.ndarray):
            scaled = self.matrix * np.sqrt(weights)[:, None]
            return np.asarray(scaled.T @ scaled)
        scaled = csr_array(self.matrix, copy=True)
        scaled.data *= np.repeat(weights, np.diff(scaled.indptr))
        return np.asarray((self.transposed @ scaled).toarray())


class _Sides:
    """Slacks and multipliers of the finite sides of the constraints, `sign * (value - side) <= 0`."""

    def __init__(self, value: np.ndarray, side: np.ndarray, sign: float) -> None:
        self.at = np.flatnonzero(np.isfinite(side))
        self.sign, self.side = sign, side[self.at]
        gap = sign * (self.side - value[self.at])
        self.slack = np.maximum(gap, 1.0)
        self.price = np.full(len(self.at), 1e-2)
        self.ds = self.dz = np.zeros(len(self.at))
        self.residual = np.zeros(len(self.at))

    def measure(self, value: np.ndarray) -> None:
        self.residual = self.sign * (value[self.at] - self.side) + self.slack

    def weights(self, size: int) -> np.ndarray:
        full = np.zeros(size)
        full[self.at] = self.price / self.slack
        return full

    def force(self, size: int, target: np.ndarray) -> np.ndarray:
        """Right-hand side of the Newton system from `slack * price = target` and the residual."""
        full = np.zeros(size)
        full[self.at] = self.sign * (self.price * self.residual + target - self.slack * self.price) / self.slack
        return full

    def priced(self, size: int) -> np.ndarray:
        full = np.zeros(size)
        full[self.at] = self.sign * self.price
        return full

    def follow(self, change: np.ndarray, target: np.ndarray) -> None:
        self.ds = -self.residual - self.sign * change[self.at]
        self.dz = (target - self.slack * self.price - self.price * self.ds) / self.slack

    def reach(self) -> tuple[float, float]:
        return _reach(self.slack, self.ds), _reach(self.price, self.dz)

    def move(self, primal: float, dual: float) -> None:
        self.slack = self.slack + primal * self.ds
        self.price = self.price + dual * self.dz


def _reach(value: np.ndarray, change: np.ndarray) -> float:
    """The longest step of at most 1 that keeps `value` positive."""
    falling = change < 0
    return float(np.min(-value[falling] / change[falling], initial=1.0 / _TO_BOUNDARY)) * _TO_BOUNDARY


def interior_point(program: OamipProgram, tolerance: float, time_limit: float | None = None) -> Interior:
    """Minimise until objective and bound agree within a relative `tolerance`. Integer variables are relaxed.

    Args:
        program: the program.
        tolerance: relative gap.
        time_limit: seconds; the best point so far is returned when they have passed.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    deadline = np.inf if time_limit is None else perf_counter() + time_limit
    linear = program.linear
    smooth = _Smooth(program)
    kept = smooth.kept
    cost = linear.c[kept]
    low, high = linear.column_lower[kept], linear.column_upper[kept]
    rows = _Rows(csr_array(linear.A[:, kept]))
    n, m = len(kept), linear.A.shape[0]
    x = np.clip(program.start[kept], low + 0.05 * (high - low), high - 0.05 * (high - low))
    activity = np.asarray(rows.matrix @ x)
    sides = [
        (_Sides(activity, linear.row_upper, 1.0), True),
        (_Sides(activity, linear.row_lower, -1.0), True),
        (_Sides(x, high, 1.0), False),
        (_Sides(x, low, -1.0), False),
    ]
    count = sum(len(side.at) for side, _ in sides)
    best = Interior(program.start, program.objective(program.start), -np.inf, np.zeros(m))
    for _ in range(_ITERATIONS):
        value, gradient, factor = smooth.at(x)
        activity = np.asarray(rows.matrix @ x)
        prices = sum((side.priced(m) for side, of_rows in sides if of_rows), np.zeros(m))
        reduced = cost + gradient + rows.transposed @ prices
        bound = value - float(gradient @ x) + float(np.minimum(reduced * low, reduced * high).sum())
        bound -= float(sum(side.sign * side.price @ side.side for side, of_rows in sides if of_rows))
        best = _improved(program, best, kept, x, bound, prices)
        if best.objective - best.bound <= tolerance * max(1.0, abs(best.objective)) or perf_counter() > deadline:
            break
        dual = reduced + sum((side.priced(n) for side, of_rows in sides if not of_rows), np.zeros(n))
        for side, of_rows in sides:
            side.measure(activity if of_rows else x)
        matrix = (
            rows.gram(sum((side.weights(m) for side, of_rows in sides if of_rows), np.zeros(m))) + factor.T @ factor
        )
        matrix[np.diag_indices(n)] += sum(side.weights(n) for side, of_rows in sides if not of_rows) + 1e-12
        try:
            decomposed = cho_factor(matrix, check_finite=False)
        except LinAlgError:
            break
        gap = sum(float(side.slack @ side.price) for side, _ in sides) / count

        def solve(targets: list[np.ndarray], decomposed: object = decomposed, dual: np.ndarray = dual) -> np.ndarray:
            force = -dual
            for (side, of_rows), target in zip(sides, targets, strict=True):
                part = side.force(m if of_rows else n, target)
                force = force - (rows.transposed @ part if of_rows else part)
            return np.asarray(cho_solve(decomposed, force, check_finite=False))

        def follow(dx: np.ndarray, targets: list[np.ndarray]) -> tuple[float, float]:
            change = np.asarray(rows.matrix @ dx)
            for (side, of_rows), target in zip(sides, targets, strict=True):
                side.follow(change if of_rows else dx, target)
            reaches = [side.reach() for side, _ in sides]
            return min(1.0, *(r for r, _ in reaches)), min(1.0, *(r for _, r in reaches))

        zero = [np.zeros(len(side.at)) for side, _ in sides]
        primal, dual_step = follow(solve(zero), zero)
        after = (
            sum(float((side.slack + primal * side.ds) @ (side.price + dual_step * side.dz)) for side, _ in sides)
            / count
        )
        centre = (after / gap) ** 3 * gap
        targets = [centre - side.ds * side.dz for side, _ in sides]
        dx = solve(targets)
        primal, dual_step = follow(dx, targets)
        x = x + primal * dx
        for side, _ in sides:
            side.move(primal, dual_step)
    return best


def _improved(
    program: OamipProgram, best: Interior, kept: np.ndarray, x: np.ndarray, bound: float, prices: np.ndarray
) -> Interior:
    """The better of two feasible points, and the better of two bounds."""
    bound = max(bound, best.bound)
    full = program.start.copy()
    full[kept] = np.clip(x, program.linear.column_lower[kept], program.linear.column_upper[kept])
    full = program.completed(full)
    objective = program.objective(full)
    if objective < best.objective and float(program.linear.violation(full).max(initial=0.0)) <= 1e-7:
        return Interior(full, objective, bound, prices)
    return Interior(best.x, best.objective, bound, prices)

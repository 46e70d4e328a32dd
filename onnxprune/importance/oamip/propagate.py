"""Propagates one image through a network: each tensor as affine functions of the scores, with the paper's constraints.

A scored activation with input `a`, bounds `L <= a <= U` and `U+ = max(U, 0)` works on `r = a - (1 - s) U+`
(ElAraby, Wolf, Carvalho: "Identifying Critical Neurons in ANN Architectures using Mixed Integer Programming"). The last
row of its gate uses `L` for bounds of the original network, as the paper does, and the least value of `r`, `L - U+`,
for bounds that hold for all scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from onnxprune.core.errors import ModelError
from onnxprune.graph.order import last_uses
from onnxprune.importance.oamip.affine import UNLIMITED, AffineFunctions, Builder, Limits, sparse, widened
from onnxprune.importance.oamip.relu_constraints import Gating, maximum, relu
from onnxprune.importance.oamip.steps import Activation, LinearStep, Maximum, StepNetwork
from onnxprune.importance.oamip.tighten import tightened

_LARGEST = 60_000_000  # coefficients of one tensor; about 0.7 GB


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """For each unit, the column that holds its score, or its constant score.

    Attributes:
        column: `(units,)` number of the program's column, -1 where the score is a constant.
        value: `(units,)` the constant.
    """

    column: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class Propagation:
    """Options of the propagation.

    Attributes:
        gating: what bounds mean and whether gates are integer.
        epsilon: half-width of the box around the image that bounds are propagated from.
        tighten: tighten bounds of open gates by linear programs.
        exact: what comes before the first score is computed for the image itself, not for the box of half-width
            `epsilon` around it. With the box, a unit with a small value `a > 0` could be less than 0 somewhere in the
            box, and its score would be bounded below by `radius / (a + radius)`; without it every score may be 0.
        raw: where no activation cuts negative values off, a score of 0 takes `U` away whatever its sign, as in the
            authors' code, not `U+`.
        limits: of the model's inputs that the box is cut to, by name; others have none.
    """

    gating: Gating = field(default_factory=Gating)
    epsilon: float = 1e-5
    tighten: bool = False
    exact: bool = False
    raw: bool = False
    limits: Mapping[str, Limits] = field(default_factory=dict)


def propagate(
    network: StepNetwork,
    image: Mapping[str, np.ndarray],
    scores: ScoreColumns,
    how: Propagation,
    builder: Builder,
) -> tuple[AffineFunctions, np.ndarray]:
    """Propagate one image to the network's output; adds the columns and rows that activations need.

    Args:
        network: the steps.
        image: value of each of the network's input tensors.
        scores: columns of the scores.
        how: bounds and gates.
        builder: gets the columns and rows.

    Returns:
        The output, and `(units,)` the largest activation of each scored unit.

    Raises:
        ModelError: the program would be too large.
        SolverError: the original network breaks a row.
    """
    first = len(builder.blocks)
    values = {
        name: AffineFunctions.fixed(image[tensor], how.epsilon, how.limits.get(tensor, UNLIMITED))
        for tensor, name in network.inputs
    }
    reads = (step.inputs if isinstance(step, LinearStep) else (step.input,) for step in network.steps)
    remaining = last_uses(reads, (network.output,))
    largest = np.zeros(len(scores.column))
    for index, step in enumerate(network.steps):
        match step:
            case LinearStep():
                result = _linear(step, [values[name] for name in step.inputs], builder)
                used = step.inputs
            case Activation():
                result, active = _activation(step, values[step.input], scores, how, builder, first)
                np.maximum.at(largest, step.units, active)
                used = (step.input,)
            case Maximum():
                result = maximum(values[step.input], step.windows, how.gating, builder, step.node)
                used = (step.input,)
        values[step.output] = result
        for name in used:
            if remaining[name] == index:
                values.pop(name, None)
    largest[0] = 0.0
    return values[network.output], largest


def _linear(step: LinearStep, operands: list[AffineFunctions], builder: Builder) -> AffineFunctions:
    """`sum_i maps[i] operands[i] + bias`, with bounds by interval arithmetic."""
    constant = np.array(step.bias, dtype=np.float64)
    middle, radius = constant.copy(), np.zeros_like(constant)
    matrix: csr_array | None = None
    for operand, map_ in zip(operands, step.maps, strict=True):
        half = (operand.upper - operand.lower) / 2
        centre = (operand.upper + operand.lower) / 2
        wide = widened(operand.matrix, builder.columns)
        if map_ is None:
            constant += operand.constant
            middle += centre
            radius += half
            part = wide
        else:
            constant += map_ @ operand.constant
            middle += map_ @ centre
            radius += abs(map_) @ half
            part = csr_array((map_.shape[0], builder.columns)) if wide.nnz == 0 else csr_array(map_ @ wide)
        matrix = part if matrix is None else csr_array(matrix + part)
        if matrix.nnz > _LARGEST:
            raise ModelError(
                f"the program of layer {step.node!r} would hold {matrix.nnz:,} coefficients for one image; "
                "use --oamip-decoupled, or another --importance"
            )
    if matrix is None:
        matrix = csr_array((len(constant), builder.columns))
    return AffineFunctions(constant, matrix, middle - radius, middle + radius)


def _activation(
    step: Activation, a: AffineFunctions, scores: ScoreColumns, how: Propagation, builder: Builder, first: int
) -> tuple[AffineFunctions, np.ndarray]:
    """Propagate through a scored activation; also returns `U+`, the largest activation, per position."""
    gating = how.gating
    if how.exact:
        depends = a.depends
        a = a.with_bounds(np.where(depends, a.lower, a.constant), np.where(depends, a.upper, a.constant))
    if how.tighten:
        a = tightened(a, builder, first)
    if np.isfinite(step.cap):
        over = relu(_shifted(a, -step.cap), gating, builder, step.node)
        a = AffineFunctions(
            a.constant - over.constant,
            csr_array(widened(a.matrix, builder.columns) - widened(over.matrix, builder.columns)),
            np.minimum(a.lower, step.cap),
            np.minimum(a.upper, step.cap),
        )
    # What a score of 1 leaves and a score of 0 takes away.
    active = a.upper if how.raw and not np.isfinite(step.floor) else np.maximum(a.upper, 0.0)
    r = _scored(a, active, step.units, scores, gating, builder)
    if np.isfinite(step.floor):
        return _shifted(relu(_shifted(r, -step.floor), gating, builder, step.node), step.floor), active
    if np.all(step.slope == 1):
        return r, active
    # slope * r + (1 - slope) * max(r, 0)
    slope = np.broadcast_to(step.slope, r.constant.shape)
    gate = relu(r, gating, builder, step.node)
    ends = [np.where(end > 0, end, slope * end) for end in (r.lower, r.upper)]
    lower, upper = np.minimum(*ends), np.maximum(*ends)
    crosses = (r.lower < 0) & (r.upper > 0)
    matrix = _by_row(widened(r.matrix, builder.columns), slope)
    matrix = matrix + _by_row(widened(gate.matrix, builder.columns), 1 - slope)
    return AffineFunctions(
        slope * r.constant + (1 - slope) * gate.constant,
        csr_array(matrix),
        np.where(crosses, np.minimum(lower, 0.0), lower),
        np.where(crosses, np.maximum(upper, 0.0), upper),
    ), active


def _scored(
    a: AffineFunctions,
    active: np.ndarray,
    units: np.ndarray,
    scores: ScoreColumns,
    gating: Gating,
    builder: Builder,
) -> AffineFunctions:
    """Apply scores: `r = a - (1 - s) active`.

    Intervals stay those of `a` where bounds are those of the original network.
    """
    scored = units > 0
    column = np.where(scored, scores.column[units], -1)
    variable = column >= 0
    value = np.where(scored & ~variable, scores.value[units], 1.0)
    drop = np.where(variable, active, (1.0 - value) * active)
    rows = np.flatnonzero(variable)
    shape = (len(units), builder.columns)
    matrix = widened(a.matrix, builder.columns)
    if len(rows):
        matrix = csr_array(matrix + sparse(rows, column[rows], active[rows], shape))
    lower = a.lower if gating.imposed else a.lower - np.maximum(drop, 0.0)
    fallen = np.where(variable, np.minimum(drop, 0.0), drop)  # a variable score may be 1
    upper = a.upper if gating.imposed else a.upper - fallen
    return AffineFunctions(a.constant - drop, matrix, lower, upper)


def _shifted(a: AffineFunctions, by: float) -> AffineFunctions:
    """The functions plus a number."""
    return a if by == 0 else AffineFunctions(a.constant + by, a.matrix, a.lower + by, a.upper + by)


def _by_row(matrix: csr_array, factors: np.ndarray) -> csr_array:
    """The matrix with each row multiplied by a factor."""
    scaled = csr_array(matrix, copy=True)
    scaled.data *= np.repeat(factors, np.diff(scaled.indptr))
    return scaled

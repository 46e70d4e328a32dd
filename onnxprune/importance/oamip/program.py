"""The paper's optimisation problem as plain data.

Minimise `lambda * mean_m(logsumexp(z_m) - z_m[y_m]) + S` over scores and what propagation added, where `z_m` are the
logits of image `m` and `S` is the sum of the (layers - 1) largest of the layers' terms `T_l = sum_i (s_i - 2) / n_l`
(of one layer, its term). The sum of the `k` largest is `min_t k t + sum_l max(T_l - t, 0)`, hence linear. The
log-sum-exp of each image is bounded by a column `e_m`, which `solve` supports by tangents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, vstack

from onnxprune.core.errors import ModelError
from onnxprune.importance.oamip.affine import Builder, contradiction, sparse, widened
from onnxprune.importance.oamip.propagate import Propagation, ScoreColumns, propagate
from onnxprune.importance.oamip.steps import StepNetwork
from onnxprune.programs.linear import LinearProgram

_FEASIBILITY = 1e-6  # violation that arithmetic may leave, relative to the row's terms


@dataclass(frozen=True, slots=True)
class OamipProgram:
    """The optimisation problem: a cross-entropy term for each image, a sparsity term, and linear constraints.

    The loss of image `m` at `x` is `logsumexp(z) - targets[m] . z` with `z = offsets[m] + logits[m] x`.

    Attributes:
        linear: columns, rows and costs; the log-sum-exp terms are missing.
        start: `(n,)` the original network: all scores at 1.
        layers: per layer, the columns of its units' scores.
        sizes: per layer, the neurons `n_l` that its term is divided by.
        sparsity: columns that carry the sparsity term.
        logits: per image, `(classes, n)`.
        offsets: per image, `(classes,)`.
        targets: per image, `(classes,)` probabilities that add up to 1: 1 for the label, or the original's softmax.
        loss_columns: `(M,)` columns `e_m`.
        loss_weight: lambda / M.
        blocks: layer and number of rows of each run of rows, in their order.
    """

    linear: LinearProgram
    start: np.ndarray
    layers: tuple[np.ndarray, ...]
    sizes: tuple[float, ...]
    sparsity: np.ndarray
    logits: tuple[csr_array, ...]
    offsets: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]
    loss_columns: np.ndarray
    loss_weight: float
    blocks: tuple[tuple[str, int], ...]

    def check(self, name: str) -> None:
        """Check that the original network (all scores 1), from which every solver starts, is feasible.

        Args:
            name: what messages call the program.

        Raises:
            SolverError: it breaks a row.
        """
        violation = self.linear.violation(self.start)
        excess = violation - _FEASIBILITY * (1 + abs(self.linear.A) @ np.abs(self.start))
        worst = int(np.argmax(excess))
        if excess[worst] > 0:
            ends = np.cumsum([rows for _, rows in self.blocks])
            layer = self.blocks[int(np.searchsorted(ends, worst, side="right"))][0]
            raise contradiction(layer, float(violation[worst]), name)

    def losses(self, x: np.ndarray) -> np.ndarray:
        """`(M,)` the loss of each image at `x`, without weights."""
        return np.array([self._loss(m, x)[0] for m in range(len(self.targets))])

    def tangents(self, x: np.ndarray, images: np.ndarray) -> tuple[csr_array, np.ndarray]:
        """Tangent planes of the losses at `x`, as linear constraints: matrix and right-hand sides.

        One row per image: `e_m - gradient . x' >= loss - gradient . x`.
        """
        gradients = np.zeros((len(images), len(x)))
        sides = np.zeros(len(images))
        for row, m in enumerate(images):
            loss, softmax = self._loss(m, x)
            gradient = self.logits[m].T @ (softmax - self.targets[m])
            gradients[row] = -gradient
            gradients[row, self.loss_columns[m]] += 1.0
            sides[row] = loss - gradient @ x
        return csr_array(gradients), sides

    def sparsity_term(self, x: np.ndarray) -> float:
        """The sparsity term `S` at `x`."""
        return sparsity_term(self._terms(x))

    def loss_term(self, x: np.ndarray) -> float:
        """Lambda times the mean loss at `x`."""
        return float(self.loss_weight * self.losses(x).sum())

    def objective(self, x: np.ndarray) -> float:
        """The objective at a feasible `x`."""
        return self.sparsity_term(x) + self.loss_term(x)

    def completed(self, x: np.ndarray) -> np.ndarray:
        """`x` with the columns of losses and of the sparsity term set to what the other columns imply."""
        full = x.copy()
        full[self.loss_columns] = self.losses(x)
        full[self.sparsity] = _sparsity_columns(self._terms(x))
        return full

    def _terms(self, x: np.ndarray) -> np.ndarray:
        """The layers' terms `T_l`."""
        pairs = zip(self.layers, self.sizes, strict=True)
        return np.array([(np.sum(x[columns]) - 2.0 * len(columns)) / size for columns, size in pairs])

    def _loss(self, m: int, x: np.ndarray) -> tuple[float, np.ndarray]:
        z = self.offsets[m] + self.logits[m] @ x
        top = z.max()
        weights = np.exp(z - top)
        total = weights.sum()
        return float(top + np.log(total) - self.targets[m] @ z), weights / total


def sparsity_term(terms: np.ndarray) -> float:
    """The sparsity term `S` of the layers' terms."""
    ordered = np.sort(terms)
    return float(ordered[1:].sum() if len(ordered) > 1 else ordered.sum())


def _sparsity_columns(terms: np.ndarray) -> np.ndarray:
    """Values of the columns `t` and `max(T_l - t, 0)`. With one layer, `t` is its term."""
    if len(terms) == 1:
        return terms
    t = float(np.min(terms))
    # k = layers - 1: any t between the least and the second least term is optimal.
    return np.concatenate([[t], terms - t])


def build(
    network: StepNetwork,
    images: Sequence[Mapping[str, np.ndarray]],
    labels: np.ndarray,
    layers: Sequence[np.ndarray],
    fixed: np.ndarray,
    lambda_: float,
    how: Propagation,
    areas: Sequence[float] | None = None,
) -> tuple[OamipProgram, np.ndarray]:
    """Build the optimisation problem of a network and a set of images.

    Args:
        network: steps to the logits.
        images: per image, values of the network's inputs.
        labels: `(M,)` class of each image.
        layers: per layer, units whose scores are columns (each unit in one layer).
        fixed: `(units,)` scores of units that are in no layer.
        lambda_: weight of the loss.
        how: bounds and gates.
        areas: per layer, the neurons that a unit counts for in the sparsity term; 1 by default.

    Returns:
        The program, and `(units,)` the largest activation of each unit over the images.

    Raises:
        ModelError: the program would be too large, or the output is not a vector of at least two logits.
        SolverError: the original network breaks a row.
    """
    builder = Builder()
    columns = start_columns(builder, layers, len(images), areas)
    column = np.full(len(fixed), -1)
    for units, numbers in zip(layers, columns.scores, strict=True):
        column[units] = numbers
    outputs = []
    largest = np.zeros(len(fixed))
    for image in images:
        output, active = propagate(network, image, ScoreColumns(column, fixed), how, builder)
        if len(output.constant) < 2:
            raise ModelError(
                f"--importance oamip needs a classifier; {network.output!r} has {len(output.constant)} value(s), not "
                "a logit for each of two or more classes; use another --importance"
            )
        outputs.append(output)
        largest = np.maximum(largest, active)

    targets = [one_hot(int(label), len(output.constant)) for label, output in zip(labels, outputs, strict=True)]
    logits = [(output.constant, output.matrix) for output in outputs]
    return assemble(builder, columns, logits, targets, lambda_), largest


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers of the columns that every problem has.

    Attributes:
        scores: per layer, of its units.
        sizes: per layer, its neurons.
        sparsity: those that carry the sparsity term.
        losses: one an image.
    """

    scores: tuple[np.ndarray, ...]
    sizes: tuple[float, ...]
    sparsity: np.ndarray
    losses: np.ndarray


def start_columns(
    builder: Builder, layers: Sequence[np.ndarray], images: int, areas: Sequence[float] | None = None
) -> Columns:
    """Add the columns of the scores, of the sparsity term and of the losses."""
    each = np.ones(len(layers)) if areas is None else np.asarray(areas, np.float64)
    scores = [builder.add_columns(np.zeros(n), np.ones(n), np.ones(n)) for n in map(len, layers)]
    start = _sparsity_columns(-1.0 / each)
    # A term is between -2 and -1 of its share, t is between the least and the greatest, and no excess is above that.
    least, greatest = float(np.min(-2.0 / each)), float(np.max(-1.0 / each))
    low, high = (np.where(np.arange(len(start)) == 0, a, b) for a, b in ((least, 0.0), (greatest, greatest - least)))
    sparsity = builder.add_columns(low, high, start)
    sizes = tuple(float(len(units) * area) for units, area in zip(layers, each, strict=True))
    losses = builder.add_columns(np.zeros(images), np.full(images, np.inf), np.zeros(images))
    return Columns(tuple(scores), sizes, sparsity, losses)


def one_hot(label: int, classes: int) -> np.ndarray:
    """`(classes,)` a vector of zeros with 1 at the label."""
    return np.asarray(np.arange(classes) == label, np.float64)


def assemble(
    builder: Builder,
    columns: Columns,
    logits: Sequence[tuple[np.ndarray, csr_array]],
    targets: Sequence[np.ndarray],
    lambda_: float,
) -> OamipProgram:
    """Combine all collected rows and columns into the problem.

    Args:
        builder: columns and rows.
        columns: which of the columns are scores, sparsity and losses.
        logits: per image, `(classes,)` constants and a matrix `(classes, n)`.
        targets: per image, `(classes,)` probabilities.
        lambda_: weight of the loss.
    """
    layers = columns.scores
    rows, row_lower, row_upper = builder.rows()
    linking = _linking_rows(layers, columns.sizes, columns.sparsity, builder.columns)
    shares = np.array([len(layer) / size for layer, size in zip(layers, columns.sizes, strict=True)])
    c = np.zeros(builder.columns)
    c[columns.sparsity] = 1.0
    c[columns.sparsity[0]] = max(1, len(layers) - 1)
    c[columns.losses] = lambda_ / len(logits)
    linear = LinearProgram(
        c=c,
        A=csr_array(vstack([linking, rows], format="csr")),
        row_lower=np.concatenate([np.full(len(layers), -np.inf), row_lower]),
        row_upper=np.concatenate([2.0 * shares, row_upper]),
        column_lower=builder.lower,
        column_upper=builder.upper,
        integer=builder.integer,
    )
    program = OamipProgram(
        linear=linear,
        start=builder.start,
        layers=layers,
        sizes=columns.sizes,
        sparsity=columns.sparsity,
        logits=tuple(widened(matrix, builder.columns) for _, matrix in logits),
        offsets=tuple(constant for constant, _ in logits),
        targets=tuple(targets),
        loss_columns=columns.losses,
        loss_weight=lambda_ / len(logits),
        blocks=(("sparsity term", len(layers)), *((b.node, b.matrix.shape[0]) for b in builder.blocks)),
    )
    return replace(program, start=program.completed(builder.start))


def _linking_rows(
    scores: Sequence[np.ndarray], sizes: Sequence[float], sparsity: np.ndarray, columns: int
) -> csr_array:
    """Rows `T_l <= t + max(T_l - t, 0)`, one per layer, with the constant of `T_l` on the right."""
    counts = [len(layer) for layer in scores]
    n = np.arange(len(counts))
    rows = [np.repeat(n, counts), n]
    cols = [np.concatenate(scores), np.full(len(n), sparsity[0])]
    values = [np.repeat(1.0 / np.array(sizes), counts), np.full(len(n), -1.0)]
    if len(n) > 1:
        rows, cols, values = [*rows, n], [*cols, sparsity[1:]], [*values, np.full(len(n), -1.0)]
    return sparse(np.concatenate(rows), np.concatenate(cols), np.concatenate(values), (len(n), columns))

"""Refits a recurrent layer: its gates' values before their activation, towards those that the original's gates have.

Least squares of what the gates read, with the states that the original's kept units have, then, in turns, with the
states that the refitted layer has itself. Sequences kept apart choose among turns and ridges: the layer runs on them
with each candidate's weights, and its states are compared with the original's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.recurrent_matrix import Block, GateMatrices, Sequences
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import Engine
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node, is_float
from onnxprune.graph.subgraph import subgraph
from onnxprune.ops.linear import Recurrence
from onnxprune.structure.analysis import Analysis

_RIDGES = (1e-4, 1e-2)
_TURNS = 3
_MOST_ROWS = 1 << 15
_ROWS_PER_COLUMN = 24

Constants = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class RecurrentRows:
    """A recurrent layer's rows of one batch.

    Attributes:
        known: what the pruned layer reads, by name.
        original: what the original layer reads and makes.
    """

    known: Constants
    original: Sequences


class _Layer:
    """The pruned layer, which runs with any weights."""

    def __init__(
        self, model: Model, node: Node, recurrence: Recurrence, rows: Sequence[RecurrentRows], engine: Engine
    ) -> None:
        self._names = [name for name in (recurrence.weight, recurrence.recurrent, recurrence.bias) if name]
        part = subgraph(model, [node], rows[0].known, [recurrence.output], self._names)
        self._runner = Runner(part, [recurrence.output], engine=engine.on_one_thread)
        self._inputs = [value.name for value in part.proto.graph.input if value.name not in self._names]
        self._recurrence = recurrence
        self._rows = rows

    def sequences(self, constants: Constants) -> list[Sequences]:
        """What the layer reads and makes with these weights, batch by batch."""
        sequences = []
        for rows in self._rows:
            feed = {name: constants[name] for name in self._names} | {name: rows.known[name] for name in self._inputs}
            values = self._runner.run_feed(feed)
            for name in filter(None, (self._recurrence.input, self._recurrence.states)):
                values[name] = rows.known[name] if name in rows.known else constants[name]
            sequences.append(Sequences.read(self._recurrence, values))
        return sequences


def refit_recurrent(
    model: Model,
    node: Node,
    recurrence: Recurrence,
    original: GateMatrices,
    kept: np.ndarray,
    rows: Sequence[RecurrentRows],
    first: int,
    *,
    last_only: bool,
    generator: np.random.Generator,
    engine: Engine,
) -> dict[str, np.ndarray]:
    """New weights and biases of a recurrent layer; empty where none does better on the sequences kept apart.

    Args:
        model: the pruned model.
        node: the layer's node in it.
        recurrence: the layer.
        original: the original's weights.
        kept: `(H,)` True for hidden units that stay.
        rows: all batches.
        first: how many of them are fitted; the others choose, or the same ones where there are no others.
        last_only: whether only the last states are read.
        generator: draws steps.
        engine: what the layer runs on, on one thread.
    """
    layer = _Layer(model, node, recurrence, rows, engine)
    targets = [_kept_states(batch_rows.original, kept) for batch_rows in rows]
    sizes = [batch_rows.original.inputs.shape[1] for batch_rows in rows]
    fitted = np.arange(sum(sizes)) < sum(sizes[:first])
    apart = fitted if fitted.all() else ~fitted

    def error(changed_rows: Sequence[Sequences]) -> float:
        pairs = zip(changed_rows, targets, strict=True)
        differences = [_outcome(f.states - t.states, recurrence, last_only=last_only) for f, t in pairs]
        # Batches may differ in length: where time is the first axis, the last one has fewer steps.
        squares = [np.square(each, dtype=np.float64).sum(axis=0) for each in differences]
        return float(np.concatenate(squares)[apart].sum())

    current: Constants = {**model.constants}
    now = layer.sequences(current)
    least, best = error(now), dict[str, np.ndarray]()
    at = _steps(rows, fitted, max(_MOST_ROWS // 4, _ROWS_PER_COLUMN * original.hidden), generator)
    states: list[Sequences] = [Sequences(n.inputs, t.states, t.before) for n, t in zip(now, targets, strict=True)]
    for _ in range(_TURNS):
        tried = []
        for ridge in _RIDGES:
            gates = GateMatrices(recurrence, current)
            changes = [_refit(block, gates, original, kept, states, rows, at, ridge) for block in gates.blocks]
            candidate = gates.changed(changes)
            changed_rows = layer.sequences({**current, **candidate})
            tried.append((error(changed_rows), candidate, changed_rows))
        reached, candidate, changed_rows = min(tried, key=lambda attempt: attempt[0])
        if not reached < least:
            break
        least, best, states, current = reached, candidate, changed_rows, {**current, **candidate}
    return best


def _kept_states(sequences: Sequences, kept: np.ndarray) -> Sequences:
    return Sequences(sequences.inputs, sequences.states[..., kept], sequences.before[..., kept])


def _outcome(states: np.ndarray, recurrence: Recurrence, *, last_only: bool) -> np.ndarray:
    """`(N, B)` states, or those of each direction's last step, sequences last."""
    if last_only:
        states = np.stack([states[0 if b else -1, d] for d, b in enumerate(recurrence.backward)])[None]
    return np.moveaxis(states, 2, -1).reshape(-1, states.shape[2])


def _steps(
    rows: Sequence[RecurrentRows], fitted: np.ndarray, most: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Positions among each batch's steps, drawn from the sequences that may be fitted."""
    positions, start = [], 0
    share = min(1.0, most / max(1, sum(r.original.rows for r in rows) * fitted.mean()))
    for batch_rows in rows:
        length, batch = batch_rows.original.inputs.shape[:2]
        may_fit = np.broadcast_to(fitted[start : start + batch], (length, batch)).ravel()
        positions.append(np.flatnonzero(may_fit & (generator.random(may_fit.size) < share)))
        start += batch
    return positions


def _refit(
    block: Block,
    gates: GateMatrices,
    original: GateMatrices,
    kept: np.ndarray,
    states: Sequence[Sequences],
    rows: Sequence[RecurrentRows],
    at: Sequence[np.ndarray],
    ridge: float,
) -> tuple[Block, np.ndarray, np.ndarray]:
    """Weights of a block that come closest to the original's values, and how its bias shifts."""
    columns, values = [], []
    matrix, bias = original.matrix(block), original.bias(block)
    made = np.tile(kept, block.end - block.first)
    for states_here, batch_rows, steps in zip(states, rows, at, strict=True):
        columns.append(gates.columns(block, states_here, steps).astype(np.float64))
        values.append((original.columns(block, batch_rows.original, steps) @ matrix + bias)[:, made])
    x, wanted = np.concatenate(columns), np.concatenate(values)
    before = gates.matrix(block)
    rest = wanted - (x @ before + gates.bias(block))
    has_bias = gates.recurrence.bias is not None
    centre = x.mean(axis=0) if has_bias else np.zeros(x.shape[1])
    shift = rest.mean(axis=0) if has_bias else np.zeros(rest.shape[1])
    x -= centre
    gram = x.T @ x
    gram[np.diag_indices(len(gram))] += ridge * max(np.trace(gram) / len(gram), 1e-30)
    change = np.linalg.solve(gram, x.T @ (rest - shift))
    return block, before + change, shift - centre @ change


def refittable(
    analysis: Analysis, smaller: Analysis, recurrences: Sequence[Recurrence]
) -> dict[str, tuple[Recurrence, Recurrence]]:
    """Recurrent layers of the smaller model whose weights it stores and reads once, and the original's, by node."""
    before = {recurrence.node: recurrence for recurrence in analysis.recurrences}
    layers = {}
    for recurrence in recurrences:
        names = [name for name in (recurrence.weight, recurrence.recurrent, recurrence.bias) if name]
        constants = [smaller.model.constants.get(name) for name in names]
        read_once = all(smaller.graph.reads(name) == 1 for name in names)
        if read_once and all(c is not None and is_float(c) for c in constants) and recurrence.node in before:
            layers[recurrence.node] = (recurrence, before[recurrence.node])
    return layers

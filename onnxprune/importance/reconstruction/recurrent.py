"""Recurrent layers as consumers: of their input with W, and of their own states with R.

The values that gates have before their activation are what removal changes, so these are reconstructed. A hidden unit
that goes takes its own gates along: what they lose does not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.recurrent_matrix import Block, GateMatrices, Sequences
from onnxprune.calibration.replay import Replay
from onnxprune.calibration.statistics import Moments, MomentSums
from onnxprune.importance.reconstruction.elimination import Consumer, Corrected
from onnxprune.ops.linear import Recurrence
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Group, Ids

_LEAST_ROWS = 8192
_ROWS_PER_COLUMN = 16


@dataclass(frozen=True, slots=True)
class RecurrentStatistics:
    """A recurrent layer and where units lie among what its gates read and make.

    Attributes:
        recurrence: the layer.
        gates: its weights.
        inputs: `(I,)` units of the input; fixed ones where it has none.
        states: `(H,)` hidden units.
        has_bias: whether there is a bias that may change.
    """

    recurrence: Recurrence
    gates: GateMatrices
    inputs: Ids
    states: Ids
    has_bias: bool

    def consumers(self, group: Group, moments: Sequence[Moments]) -> list[Consumer]:
        """Every block that reads units of the group."""
        reading = []
        for block, block_moments in zip(self.gates.blocks, moments, strict=True):
            columns = self._columns(block)
            if not np.isin(group.units, columns).any():
                continue
            made = np.tile(self.states, block.end - block.first)
            reading.append(
                Consumer(
                    gram=block_moments.covariance[0] if self.has_bias else block_moments.second()[0],
                    mean=block_moments.mean[0] if self.has_bias else np.zeros(len(columns)),
                    weight=self.gates.matrix(block),
                    blocks=_places(columns, group.units),
                    metric=np.ones(len(made)),
                    outputs=_places(made, group.units) if np.isin(group.units, made).any() else None,
                )
            )
        return reading

    def count(self, group: Group) -> int:
        """How many consumers a group has here."""
        return sum(bool(np.isin(group.units, self._columns(block)).any()) for block in self.gates.blocks)

    def constants(
        self,
        group: Group,
        corrected: Sequence[Corrected],
        removed: Ids,  # noqa: ARG002 (their weights are zero)
        current: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """The layer's constants with units removed and the other columns corrected."""
        reading = (block for block in self.gates.blocks if np.isin(group.units, self._columns(block)).any())
        changes = [(block, columns.weight, columns.shift) for block, columns in zip(reading, corrected, strict=True)]
        return GateMatrices(self.recurrence, current).changed(changes)

    def _columns(self, block: Block) -> Ids:
        parts = [self.inputs] * block.reads_input + [self.states] * block.reads_states
        return np.concatenate(parts)


def _places(ids: Ids, units: Ids) -> np.ndarray:
    """`(n, b)` positions of each unit."""
    return np.array([np.flatnonzero(ids == unit) for unit in units])


def collect_recurrent(
    replay: Replay,
    recurrence: Recurrence,
    analysis: Analysis,
    generator: np.random.Generator,
    known: Sequence[Moments] | None = None,
) -> tuple[RecurrentStatistics, tuple[Moments, ...]]:
    """Moments of what each block of a recurrent layer reads, at sampled steps of all rows.

    Args:
        replay: the original's run, which stands before the layer.
        recurrence: the layer.
        analysis: the original's; its model stores the layer's weights.
        generator: draws steps.
        known: the moments, where they are known already; then `replay` is not read.
    """
    constants = analysis.model.constants
    gates = GateMatrices(recurrence, constants)
    width = constants[recurrence.weight].shape[2]
    inputs, states = analysis.labels[recurrence.weight][2], analysis.labels[recurrence.recurrent][2]
    may_shift = recurrence.bias is not None and analysis.graph.reads(recurrence.bias) == 1
    statistics = RecurrentStatistics(
        recurrence,
        gates,
        np.zeros(width, np.int64) if inputs is None else inputs,
        np.zeros(gates.hidden, np.int64) if states is None else states,
        may_shift,
    )
    if known is not None:
        return statistics, tuple(known)
    count = -(-max(_LEAST_ROWS, _ROWS_PER_COLUMN * (width + gates.hidden)) // len(replay.batches))
    sums = [MomentSums() for _ in gates.blocks]
    names = [name for name in (recurrence.input, recurrence.output, recurrence.states) if name]
    for values in replay.peek(replay.before(recurrence.node) + 1, names):
        sequences = Sequences.read(recurrence, values)
        rows = sequences.rows
        at = np.arange(rows) if rows <= count else np.sort(generator.choice(rows, count, replace=False))
        for block, sum_ in zip(gates.blocks, sums, strict=True):
            sum_.add(gates.columns(block, sequences, at)[None])
    return statistics, tuple(sum_.finish() for sum_ in sums)

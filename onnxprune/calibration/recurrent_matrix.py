"""A recurrent layer as matrix products: rows of what its gates read at sampled steps, and its weights as matrices.

`gates[r, :] = rows[r, :] @ matrix + bias` for every *block*: some gates of one direction that read the same. A row is
a step of a sequence; of the columns those of the input come first, then those of the states of the step before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.ops.linear import Reads, Recurrence


@dataclass(frozen=True, slots=True)
class Block:
    """Gates of one direction that read the same: those from `first` to before `end`."""

    direction: int
    first: int
    end: int
    reads: Reads

    @property
    def reads_input(self) -> bool:
        """Whether the input is among the columns."""
        return self.reads in (Reads.BOTH, Reads.INPUT)

    @property
    def reads_states(self) -> bool:
        """Whether the states are among the columns."""
        return self.reads is not Reads.INPUT


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a recurrent layer reads and makes on some rows.

    Attributes:
        inputs: `(T, B, I)`.
        states: `(T, directions, B, H)`.
        before: `(directions, B, H)` states before the first step.
    """

    inputs: np.ndarray
    states: np.ndarray
    before: np.ndarray

    @classmethod
    def read(cls, recurrence: Recurrence, values: Mapping[str, np.ndarray]) -> "Sequences":
        """From tensors by name; states before the first step are zero where the layer is given none."""
        states = values[recurrence.output]
        before = values[recurrence.states] if recurrence.states else np.zeros(1, states.dtype)
        return cls(values[recurrence.input], states, np.broadcast_to(before, states.shape[1:]))

    @property
    def rows(self) -> int:
        """Steps of all sequences."""
        return int(self.inputs.shape[0] * self.inputs.shape[1])

    def earlier(self, direction: int, *, backward: bool) -> np.ndarray:
        """`(T, B, H)` states that each step of a direction starts from."""
        states, first = self.states[:, direction], self.before[direction][None]
        return np.concatenate([states[1:], first] if backward else [first, states[:-1]])


class GateMatrices:
    """Weights and biases of a recurrent layer, block by block.

    Attributes:
        recurrence: the layer.
        blocks: all blocks, direction by direction.
        hidden: number of hidden units.
    """

    def __init__(self, recurrence: Recurrence, constants: Mapping[str, np.ndarray]) -> None:
        self.recurrence = recurrence
        self.blocks = tuple(Block(d, *gates) for d in range(len(recurrence.backward)) for gates in recurrence.gates)
        self._constants = constants
        self.hidden = int(constants[recurrence.recurrent].shape[2])

    def gates(self, block: Block) -> slice:
        """Where a block's gates lie among those of all gates."""
        return slice(block.first * self.hidden, block.end * self.hidden)

    def matrix(self, block: Block) -> np.ndarray:
        """`(K, C)` float64 weights of a block."""
        parts = [self._constants[name][block.direction, self.gates(block)] for name in self._read(block)]
        return np.concatenate(parts, axis=1).astype(np.float64).T

    def bias(self, block: Block) -> np.ndarray:
        """`(C,)` what is added to a block's products."""
        if self.recurrence.bias is None:
            return np.zeros((block.end - block.first) * self.hidden)
        halves = self._constants[self.recurrence.bias][block.direction].astype(np.float64).reshape(2, -1)
        chosen = [reads for reads in (0, 1) if (block.reads_input, block.reads_states)[reads]]
        return np.asarray(halves[chosen, self.gates(block)].sum(axis=0))

    def columns(self, block: Block, sequences: Sequences, at: np.ndarray) -> np.ndarray:
        """`(P, K)` what a block's gates read at rows `at`, `(P,)` positions among all of them."""
        inputs = _single(sequences.inputs.reshape(sequences.rows, -1)[at])
        if not block.reads_states:
            return inputs
        earlier = sequences.earlier(block.direction, backward=self.recurrence.backward[block.direction])
        states = _single(earlier.reshape(sequences.rows, -1)[at])
        if block.reads is Reads.RESET_STATES:
            reset = Block(block.direction, self.recurrence.reset, self.recurrence.reset + 1, Reads.BOTH)
            values = np.concatenate([inputs, states], axis=1) @ self.matrix(reset) + self.bias(reset)
            states = (states / (1 + np.exp(-values))).astype(states.dtype)
        return np.concatenate([inputs, states], axis=1) if block.reads_input else states

    def changed(self, changes: Sequence[tuple[Block, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """The layer's constants where blocks have other weights `(K, C)`, and biases shifted by `(C,)`."""
        names = [self.recurrence.weight, self.recurrence.recurrent]
        names += [] if self.recurrence.bias is None else [self.recurrence.bias]
        constants = {name: np.array(self._constants[name], np.float64) for name in names}
        for block, matrix, shift in changes:
            start = 0
            for name in self._read(block):
                rows = constants[name][block.direction, self.gates(block)]
                rows[:] = matrix[start : start + rows.shape[1]].T
                start += rows.shape[1]
            if self.recurrence.bias is not None:
                halves = constants[self.recurrence.bias][block.direction].reshape(2, -1)
                halves[0 if block.reads_input else 1, self.gates(block)] += shift
        return {name: value.astype(self._constants[name].dtype) for name, value in constants.items()}

    def _read(self, block: Block) -> list[str]:
        names = (self.recurrence.weight, block.reads_input), (self.recurrence.recurrent, block.reads_states)
        return [name for name, read in names if read]


def _single(values: np.ndarray) -> np.ndarray:
    """Half precision as float32, other types as they are."""
    return np.asarray(values, dtype=values.dtype if values.dtype in (np.float32, np.float64) else np.float32)

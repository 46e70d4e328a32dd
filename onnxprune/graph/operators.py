"""What folding and shape inference ask of operators. The graph knows none; `onnxprune.ops` answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxprune.graph.nodes import Node


class Rules(Protocol):
    """What the graph asks of one operator: the part of `ops.base.OpHandler` that needs no labels."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the first output has the first input's shape and type, which onnx does not infer."""

    @property
    def reference_opset(self) -> int:
        """The oldest version of the operator set that onnx's reference implementation has; 0 for any."""

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:
        """Whether computing the node from these constants is cheap, its result of at most about `limit` elements."""

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The node's value where the operator computes it itself; None: ask onnx's reference implementation."""

    def reads_shape(self, node: Node) -> bool:
        """Whether the node reads only the shape of its first input."""

    def shape_value(self, node: Node, shape: tuple[int, ...]) -> np.ndarray:
        """What a node that reads only a shape gives for this one."""

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:
        """Whether the node only shows a stored weight in another type, and stays in the file."""

    def fits(self, node: Node, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> bool:
        """False where the node cannot run on inputs of these shapes, though onnx's inference finds no fault."""


Operators = Callable[[str], Rules]
"""From an operator's name to its rules; those of an unknown one say nothing."""

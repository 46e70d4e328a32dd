"""What folding and shape inference ask of operators. The graph knows none; `onnxprune.ops` answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxprune.graph.nodes import Node

Shape = tuple[int, ...]


class Rules(Protocol):
    """What the graph asks of one operator: the part of `ops.base.OpHandler` that needs no labels."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the first output has the first input's shape and type, which onnx does not infer."""

    @property
    def reference_opset(self) -> int:
        """The oldest version of the operator set that onnx's reference implementation has; 0 for any."""

    @property
    def deterministic(self) -> bool:
        """Whether equal inputs always give equal results."""

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:
        """Whether computing the node from these constants is cheap, its result of at most about `limit` elements."""

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The node's value where the operator computes it itself; None: ask onnx's reference implementation."""

    def reads_shape(self, node: Node) -> bool:
        """Whether the node reads only the shape of its first input."""

    def shape_value(self, node: Node, shape: Shape) -> np.ndarray:
        """What a node that reads only a shape gives for this one."""

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:
        """Whether the node only shows a stored weight in another type, and stays in the file."""

    def fits(self, node: Node, shapes: Mapping[str, Shape], values: Mapping[str, np.ndarray]) -> bool:
        """False where the node cannot run on inputs of these shapes, though onnx's inference finds no fault."""


Operators = Callable[[str], Rules]
"""From an operator's name to its rules; those of an unknown one say nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The shape and element type of a tensor that onnx's inference does not tell.

    Attributes:
        shape: its shape.
        dtype: ONNX element type.
        varies: axes whose size may be another one for other data.
    """

    shape: Shape
    dtype: int
    varies: frozenset[int] = frozenset()


class Runtime(Protocol):
    """What the graph asks of onnxruntime, which knows operators of its own."""

    def shapes(self, inputs: Mapping[str, Shape], wanted: Sequence[str]) -> Mapping[str, Seen]:
        """Shapes of tensors in a run on inputs of these shapes; none where it fails."""

    def values(
        self, nodes: Sequence[Node], known: Mapping[str, np.ndarray], wanted: Sequence[str], limit: int
    ) -> Mapping[str, np.ndarray]:
        """Results of nodes that read nothing but `known` constants and each other; none where that fails.

        Args:
            nodes: the nodes, in topological order.
            known: what they read.
            wanted: tensors that they make.
            limit: elements that the results may have in all.
        """

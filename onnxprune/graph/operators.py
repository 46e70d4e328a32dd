"""What constant folding and shape inference need to know about operators; implemented by the handlers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxprune.graph.nodes import Node

Shape = tuple[int, ...]

OpenShapes = Mapping[str, tuple[int | None, ...]]
"""Shapes by input name; None where a size is not told."""


class Rules(Protocol):
    """What folding and inference need to know about one operator: the part of `OpHandler` that involves no channels."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the first output has the shape and type of the first input, though onnx does not infer it."""

    @property
    def reference_opset(self) -> int:
        """The oldest operator set version that onnx's reference implementation supports; 0 for any."""

    def deterministic(self, node: Node) -> bool:
        """Whether equal inputs always give equal results."""

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:
        """Whether evaluating the node on these constants is cheap, and gives at most about `limit` elements."""

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The node's value for constant inputs; None to use onnx's reference implementation instead."""

    def reads_shape(self, node: Node) -> bool:
        """Whether the node reads only the shape of its first input."""

    def shape_value(self, node: Node, shape: Shape) -> np.ndarray:
        """Result of a node that reads only a shape, for the given shape."""

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:
        """Whether the node only converts a stored weight to another type, and so stays in the file."""

    def fits(self, node: Node, shapes: Mapping[str, Shape], values: Mapping[str, np.ndarray]) -> bool:
        """False where the node cannot run on these input shapes although onnx's shape inference accepts them."""


Operators = Callable[[str], Rules]
"""From an operator's name to its rules; those of an unknown one say nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Shape and element type of a tensor as seen in a run, where onnx's inference does not find them.

    Attributes:
        shape: its shape.
        dtype: ONNX element type.
        varies: axes whose size may be another one for other data.
    """

    shape: Shape
    dtype: int
    varies: frozenset[int] = frozenset()


class Runtime(Protocol):
    """What folding and inference ask onnxruntime, which knows further operators."""

    def shapes(self, inputs: Mapping[str, Shape], wanted: Sequence[str]) -> Mapping[str, Seen]:
        """Shapes of tensors in a run on inputs of these shapes; empty where the run fails."""

    def values(
        self, nodes: Sequence[Node], known: Mapping[str, np.ndarray], wanted: Sequence[str], limit: int
    ) -> Mapping[str, np.ndarray]:
        """Results of nodes that depend only on `known` constants; empty where the run fails.

        Args:
            nodes: the nodes, in topological order.
            known: what they read.
            wanted: tensors that they make.
            limit: elements that the results may have in all.
        """

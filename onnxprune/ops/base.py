"""What an operator's handler says: how labels pass, what it contracts, what to rewrite after removal.

A handler is one class in one file of this package; it is found automatically. Most need only `op_types` and `couple`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.shapes import Sizes
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.window import Window


@dataclass(frozen=True, slots=True)
class Linear:
    """How a node contracts: see `structure.analysis.Layer`, whose fields these become."""

    input: str
    weight: str
    bias: str | None
    output: str
    in_axis: int
    out_axis: int
    input_axis: int
    output_axis: int
    factors: tuple[int | Ids, ...]
    group: int = 1
    window: Window | None = None
    transposed: bool = False


class ChannelUse(Enum):
    """How kernels go through the channels of an axis: it decides which numbers of channels they are fast at."""

    CONVOLVED = "input of a convolution"
    DEPTHWISE = "depthwise convolution"
    GROUPED = "one group of a grouped convolution"
    POOLED = "pooling"
    JOINED = "operand of a join along channels"
    MULTIPLIED = "outer axis of a matrix product"


class Rewriting(Protocol):
    """What `OpHandler.rewrite` may ask and change. Shapes and constants are those before removal."""

    def kept(self, tensor: str, axis: int) -> np.ndarray | None:
        """`(size,)` mask of the positions that stay; None where the axis carries no labels."""

    def width(self, tensor: str, axis: int) -> int | None:
        """Size of an axis after removal where it carries labels, else None."""

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Concrete shape before removal (batch pinned)."""

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant before removal."""

    def sizes(self, tensor: str) -> Sizes | None:
        """An integer vector before removal, with which elements vary with the inputs; None where it is not known."""

    def set_attribute(self, name: str, value: Any) -> None:
        """Give the node a new attribute value; None removes it."""

    def set_input(self, position: int, value: np.ndarray) -> None:
        """Give the node a constant of its own as this input, where it differs from the present one."""

    def set_elements(self, position: int, elements: Mapping[int, int]) -> None:
        """Give elements of an integer vector that the node reads other values, where they differ."""


TorchRule = Callable[..., Any]
"""A node in torch: input tensors (None where omitted) to its output tensor, or a tuple of them."""


class OpHandler(ABC):
    """Rules of one operator family. Handlers hold no state."""

    op_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def couple(self, node: Node, labels: Labels) -> None:
        """Place the labels of the node's weights and outputs, tie and freeze ids."""

    def linear(self, node: Node, labels: Labels) -> Linear | None:  # noqa: ARG002 (the default ignores its arguments)
        """The node's contraction with a constant weight, None where it has none."""
        return None

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:  # noqa: ARG002
        """Axes whose number of channels decides how fast the node's kernels are, by their ids (None: no channels)."""
        return ()

    def rewrite(self, node: Node, edit: Rewriting) -> None:  # noqa: B027 (optional)
        """Adapt attributes and constants that spell out widths."""

    def torch(self, node: Node) -> TorchRule | None:  # noqa: ARG002
        """The node as a function of torch tensors, None where there is no rule; attributes are read once, here."""
        return None

    def torch_training(self, node: Node) -> TorchRule | None:
        """The same while weights are trained, where that differs (BatchNormalization)."""
        return self.torch(node)

    def trained(self, node: Node) -> tuple[str, ...]:  # noqa: ARG002
        """Inputs that fine-tuning changes where they are constants: weights, biases, scales."""
        return ()

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of inputs whose values the outputs consist of: moved, selected, repeated or interpolated.

        Empty where values are computed.
        """
        return ()

    def scales(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of inputs that the output is a scaled and shifted copy of wherever all others are constant."""
        return ()

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Small models with the operator in the middle of prunable layers, for the contract test."""
        yield from ()


def pass_through(labels: Labels, node: Node, source: str, *outputs: str) -> None:
    """Give each output the labels of `source`, axis by axis; axes that adapt go on adapting."""
    for axis, ids in enumerate(labels.get(source)):
        for output in (name for name in outputs if labels.rank(name) == labels.rank(source)):
            if ids is None and labels.adapts(source, axis):
                labels.adapt(output, axis, node, source, axis)
            labels.set(output, axis, ids)


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis."""
    return axis + rank if axis < 0 else axis

"""What an operator's handler says: how labels pass, what it contracts, what to rewrite after removal.

A handler is one class in one file of this package; it is found automatically. Most need only `op_types` and `couple`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.shapes import Sizes
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.traits import Affine, Carried, ChannelValues, Flow, Kinks, Range
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
    gain: float = 1.0
    bias_gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Product:
    """Values that a node makes by multiplying one tensor with another and summing: where units are made and used.

    Attributes:
        node: the node's name.
        weight: the constant factor; where both are computed, the second; "" where the source is summed as it is.
        source: the other factor; "" where rows of the weight are picked as they are.
        contracted: `(axis of the weight, axis of the source)` of the sums; -1 where there is no weight.
        made: axes of the weight that reach the result.
    """

    node: str
    weight: str
    source: str
    contracted: tuple[tuple[int, int], ...]
    made: tuple[int, ...]


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

    def read_instead(self, position: int, tensor: str) -> None:
        """Let the node read another tensor as this input."""

    def set_elements(self, position: int, elements: Mapping[int, int]) -> None:
        """Give elements of an integer vector that the node reads other values, where they differ."""

    def after(self, position: int) -> np.ndarray | None:
        """Value after removal of an input that is a stored constant, else None."""

    def drop_input(self, position: int) -> None:
        """Leave out an input; those behind it move up."""

    def drop_output(self, position: int) -> None:
        """Leave out an output; those behind it move up."""


class Known(Protocol):
    """What `OpHandler.at_zero` and `at_constant` may ask. Constants are those after removal."""

    def value(self, tensor: str) -> np.ndarray | None:
        """A constant; of a tensor that became one, a small array of the same rank that broadcasts to it."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Concrete shape before removal (batch pinned)."""

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """Type of the elements."""

    def evaluate(self, node: Node) -> np.ndarray | None:
        """A node's first output from the values of its inputs; None where that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Change:
    """`factor * x + shift`, channel by channel.

    Attributes:
        axis: the axis of channels; None where all elements change alike.
        factor: `(C,)`, or `(1,)` without an axis; and `shift` alike.
        shift: see `factor`.
    """

    axis: int | None
    factor: np.ndarray
    shift: np.ndarray

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return not self.shift.any() and self.only_shifts

    @property
    def only_shifts(self) -> bool:
        """Whether every factor is 1."""
        return bool((self.factor == 1).all())

    def along(self, axis: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """`(width,)` factor and shift along an axis; None where another one has the channels."""
        if self.axis not in (None, axis):
            return None
        return np.broadcast_to(self.factor, (width,)), np.broadcast_to(self.shift, (width,))


class Backward(Protocol):
    """What `OpHandler.backward` may ask and add: ONNX nodes behind those of the model, whose tensors it may read."""

    def needs(self, tensor: str) -> bool:
        """Whether an input's gradient is wanted."""

    def gradient(self, output: str) -> str:
        """The gradient that arrived at an output; zeros where nothing that counts reads it."""

    def add(self, tensor: str, gradient: str) -> None:
        """Add to an input's gradient."""

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node, and return its output."""

    def nodes(self, op_type: str, inputs: Sequence[str], count: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs."""

    def sum(self, tensor: str, axes: Iterable[int], *, keep: bool) -> str:
        """Add a sum over axes."""

    def constant(self, value: Any) -> str:
        """Add a constant: integer arrays as they are, numbers in the type of the gradients."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Concrete shape, with the batch that the model was analysed at."""

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a constant."""


TorchRule = Callable[..., Any]
"""A node in torch: input tensors (None where omitted) to its output tensor, or a tuple of them."""


class OpHandler(ABC):
    """Rules of one operator family. Handlers hold no state."""

    op_types: ClassVar[tuple[str, ...]]
    joins: ClassVar[bool] = False
    """Whether inputs (or outputs) without channels can be left out."""

    follows: ClassVar[bool] = True
    """Whether channels are followed through the operator; if not, all it touches stay."""

    @abstractmethod
    def couple(self, node: Node, labels: Labels) -> None:
        """Place the labels of the node's weights and outputs, tie and freeze ids."""

    def linear(self, node: Node, labels: Labels) -> Linear | None:  # noqa: ARG002 (the default ignores its arguments)
        """The node's contraction with a constant weight, None where it has none."""
        return None

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """All products that the node sums, by default that of `linear`."""
        found = self.linear(node, labels)
        if found is None:
            return ()
        contracted = ((found.in_axis, found.input_axis),)
        return (Product(node.name, found.weight, found.input, contracted, (found.out_axis,)),)

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:  # noqa: ARG002
        """Axes whose number of channels decides how fast the node's kernels are, by their ids (None: no channels)."""
        return ()

    def rewrite(self, node: Node, edit: Rewriting) -> None:  # noqa: B027 (optional)
        """Adapt attributes and constants that spell out widths."""

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:  # noqa: ARG002
        """What the node gives where all that it contracts is zero, as `Known.value` has it; None where that varies."""
        return None

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """What the node gives where its inputs are constants, as `Known.value` has it; None where that is not small."""
        return known.evaluate(node) if self.flow(node) is Flow.ELEMENTWISE else None

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:  # noqa: ARG002
        """Make the node's own constants do what a node behind it does; False where they cannot."""
        return False

    def torch(self, node: Node) -> TorchRule | None:  # noqa: ARG002
        """The node as a function of torch tensors, None where there is no rule; attributes are read once, here."""
        return None

    def torch_training(self, node: Node) -> TorchRule | None:
        """The same while weights are trained, where that differs (BatchNormalization)."""
        return self.torch(node)

    def trained(self, node: Node) -> tuple[str, ...]:  # noqa: ARG002
        """Inputs that fine-tuning changes where they are constants: weights, biases, scales."""
        return ()

    def reads(self, node: Node, axis: int, labels: Labels) -> np.ndarray | None:  # noqa: ARG002
        """`(size,)` True at the positions of an axis of the first input that the node reads; None: at all."""
        return None

    trains_numbers: ClassVar[bool] = True
    """Whether fine-tuning changes a constant of one number too; beside Add and Mul it is part of a formula."""

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of inputs whose values the outputs consist of: moved, selected, repeated or interpolated.

        Empty where values are computed.
        """
        return ()

    def scales(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of inputs that the output is a scaled and shifted copy of wherever all others are constant."""
        return ()

    # What values are: each default says nothing, which is always safe

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """What each element or channel of the first output is a function of; None where that is more than its own."""
        return None

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:  # noqa: ARG002
        """Bounds of the first output's channels, for an operator with a `flow`.

        Args:
            node: the node.
            operands: bounds of each input's part in a channel; None where nothing is known, or the input is omitted.
        """
        return None

    def carried(self, node: Node, axis: int, widths: Sequence[int], shape: Sequence[int]) -> Carried | None:  # noqa: ARG002
        """Where the first output's channels come from, for an operator that `moves` values.

        Args:
            node: the node.
            axis: the axis of channels in the inputs that it moves.
            widths: how many channels each of them has.
            shape: shape of the output.
        """
        return None

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:  # noqa: ARG002
        """How the first output depends on the input at `position`, of the same shape; None where that is not affine."""
        return None

    def kinks(self, node: Node, constant: Callable[[str], np.ndarray | None]) -> Kinks | None:  # noqa: ARG002
        """The function of the first input, for activations made of straight pieces."""
        return None

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """Whether onnxruntime may run what follows in the same kernel."""
        return False

    def joins_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """Whether onnxruntime may run the node in the kernel of a convolution or product right before it."""
        return False

    def jumps(self, node: Node) -> bool:  # noqa: ARG002
        """Whether a rounding error of an input can change the result by much: rounding, comparing, ordering."""
        return False

    # What the graph asks before any label is placed: see `graph.operators`

    folds_up_to: ClassVar[float] = 0
    """Elements of constant inputs up to which a node is computed at once; 0 where that is not cheap."""

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Whether a node whose inputs are all constants is computed at once: cheap, with a result of bounded size.

        Args:
            node: the node.
            inputs: its different inputs, in order.
            limit: elements that they, and the result, may have.
        """
        return self.folds_up_to > 0 and sum(value.size for value in inputs) <= min(limit, self.folds_up_to)

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:  # noqa: ARG002
        """The node's value for constant inputs; None leaves it to onnx's reference implementation."""
        return None

    deterministic: ClassVar[bool] = True
    """Whether equal inputs always give equal results, so that results of constants are constants."""

    reference_opset: ClassVar[int] = 0
    """Oldest version that onnx's reference implementation has; older ones must mean the same. 0: it has them all."""

    def reads_shape(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the node reads only the shape of its first input; then `shape_value` gives its result."""
        return False

    def shape_value(self, node: Node, shape: tuple[int, ...]) -> np.ndarray:
        """What a node that reads only a shape gives for this one."""
        raise NotImplementedError(f"{node} reads more than a shape")

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:  # noqa: ARG002
        """Whether a node on constants only shows a stored weight in another type, and so stays in the file."""
        return False

    keeps_shape: ClassVar[bool] = False
    """Whether the first output has the first input's shape and type; needed only where onnx does not infer that."""

    def fits(
        self,
        node: Node,  # noqa: ARG002
        shapes: Mapping[str, tuple[int, ...]],  # noqa: ARG002
        values: Mapping[str, np.ndarray],  # noqa: ARG002
    ) -> bool:
        """False where the node cannot run on inputs of these shapes, though onnx's inference finds no fault."""
        return True

    def backward(self, node: Node, back: Backward) -> bool:  # noqa: ARG002
        """Carry the outputs' gradient on to every input that needs one; False where there is no rule.

        Piecewise-linear operators are taken as they are at the point (a gate of ReLU, a route of max pooling); smooth
        ones are linearised there.
        """
        return False

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Small models with the operator in the middle of prunable layers, for the contract test."""
        yield from ()


class Unknown(OpHandler):
    """An operator that channels are not followed through: what it touches stays."""

    op_types: ClassVar[tuple[str, ...]] = ()
    follows = False

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze everything."""
        labels.freeze_node(node, f"operator {node.op_type} is not supported")


def pass_through(labels: Labels, node: Node, source: str, *outputs: str) -> None:
    """Give each output the labels of `source`, axis by axis; axes that adapt go on adapting."""
    for axis in range(labels.rank(source)):
        for output in (name for name in outputs if labels.rank(name) == labels.rank(source)):
            labels.follow(node, source, axis, output, axis)


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis."""
    return axis + rank if axis < 0 else axis

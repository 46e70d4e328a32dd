"""The interface of operator handlers: how channels pass through an operator, and what to adjust after removal.

A handler is one class in one file of this package; it is found automatically. Most need only `op_types` and `couple`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.shapes import Sizes
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Linear, Product, Recurrence
from onnxprune.ops.traits import (
    Affine,
    Carried,
    Change,
    ChannelUse,
    ChannelValues,
    Flow,
    Kinks,
    LinearMap,
    Operands,
    Range,
    WindowMaximum,
)
from onnxprune.ops.window import Pooling


class Rewriting(Protocol):
    """Access to a node for `OpHandler.rewrite`. Shapes and constants are those before removal."""

    def kept(self, tensor: str, axis: int) -> np.ndarray | None:
        """Mask `(size,)` of the positions of an axis that stay; None for an axis without channels."""

    def width(self, tensor: str, axis: int) -> int | None:
        """Size of a channel axis after removal; None for an axis without channels."""

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Shape before removal, at the batch size that was analysed."""

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant before removal."""

    def sizes(self, tensor: str) -> Sizes | None:
        """A vector of sizes before removal, and which elements depend on the input; None where it is unknown."""

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute of the node; None removes it."""

    def set_input(self, position: int, value: np.ndarray) -> None:
        """Replace an input of the node by a constant, unless it has that value already."""

    def read_instead(self, position: int, tensor: str) -> None:
        """Connect an input of the node to another tensor."""

    def set_elements(self, position: int, elements: Mapping[int, int]) -> None:
        """Change single elements of an integer vector that the node reads."""

    def after(self, position: int) -> np.ndarray | None:
        """Value, after removal, of an input that is a stored constant; None for other inputs."""

    def drop_input(self, position: int) -> None:
        """Remove an input; the inputs behind it move up."""

    def drop_output(self, position: int) -> None:
        """Remove an output; the outputs behind it move up."""


class Known(Protocol):
    """Values and shapes after a removal, for `OpHandler.at_zero` and `at_constant`."""

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a constant after removal.

        A tensor that became constant is a small array of the same rank that broadcasts to it.
        """

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape before removal, at the batch size that was analysed."""

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """Element type of a tensor, as a numpy type."""

    def evaluate(self, node: Node) -> np.ndarray | None:
        """The node's first output, computed from constant inputs; None where that is not possible."""


class Backward(Protocol):
    """Access for `OpHandler.backward`: builds ONNX nodes that compute gradients, which may read forward tensors."""

    def needs(self, tensor: str) -> bool:
        """Whether the gradient of an input is needed."""

    def gradient(self, output: str) -> str:
        """Name of the gradient of an output; a tensor of zeros where nothing contributed to it."""

    def add(self, tensor: str, gradient: str) -> None:
        """Add a contribution to the gradient of an input."""

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node to the backward pass, and return the name of its output."""

    def nodes(self, op_type: str, inputs: Sequence[str], count: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs, and return their names."""

    def sum(self, tensor: str, axes: Iterable[int], *, keep: bool) -> str:
        """Add a sum over axes, and return the name of its output."""

    def constant(self, value: Any) -> str:
        """Add a constant. Integer arrays keep their type; other numbers get the type of the gradients."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor at the batch size that was analysed."""

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a constant, None for other tensors."""


TorchRule = Callable[..., Any]
"""A node in torch: input tensors (None where omitted) to its output tensor, or a tuple of them."""


class OpHandler(ABC):
    """Everything onnxprune knows of one family of operators. Handlers hold no state."""

    op_types: ClassVar[tuple[str, ...]]
    joins: ClassVar[bool] = False
    """Whether inputs (or outputs) without channels can be left out."""

    follows: ClassVar[bool] = True
    """Whether channels are followed through the operator; if not, all it touches stay."""

    @abstractmethod
    def couple(self, node: Node, labels: Labels) -> None:
        """Say which channels the node's weights and outputs have, and which must be removed together."""

    def linear(self, node: Node, labels: Labels) -> Linear | None:  # noqa: ARG002 (the default ignores its arguments)
        """The node as a layer with a constant weight; None where it is none."""
        return None

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Multiply-adds of the node at the analysed sizes: a sum of products of `Factors`.

        Counted are products that are summed: with weights, and of two computed tensors. Biases, element-wise
        operators, pools and normalisations are not.

        Returns:
            None where the node sums products, but their number is not known; by default what `linear` tells.
        """
        found = self.linear(node, labels)
        return () if found is None else (found.factors,)

    channel_axis: ClassVar[int] = -1
    """The axis of input and output whose width reports show beside the multiply-adds, where there is no `linear`."""

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """All products of two tensors that the node computes; by default the one of `linear`."""
        layer = self.linear(node, labels)
        if layer is None:
            return ()
        contracted = ((layer.in_axis, layer.input_axis),)
        return (Product(node.name, layer.weight, layer.input, contracted, (layer.out_axis,)),)

    def recurrence(self, node: Node, labels: Labels) -> Recurrence | None:  # noqa: ARG002
        """What a recurrent layer multiplies; None for other nodes, and for forms whose products are not known."""
        return None

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:  # noqa: ARG002
        """Channel axes whose size decides how fast the node's kernels are (ids None: no channels there)."""
        return ()

    def rewrite(self, node: Node, edit: Rewriting) -> None:  # noqa: B027 (optional)
        """Adjust attributes and constants of the node that hold numbers of channels, after removal."""

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:  # noqa: ARG002
        """The node's constant result once all channels that it sums over are removed; None where it varies."""
        return None

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """The node's result for constant inputs, as a small array; None where it is not small."""
        return known.evaluate(node) if self.flow(node) is Flow.ELEMENTWISE else None

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:  # noqa: ARG002
        """Merge an affine change that follows the node into the node's own constants; False if impossible."""
        return False

    def torch(self, node: Node) -> TorchRule | None:  # noqa: ARG002
        """A function that computes the node in torch; None where there is none. Attributes are read once, here."""
        return None

    def torch_training(self, node: Node) -> TorchRule | None:
        """Like `torch`, but for training, where that computes something else (BatchNormalization)."""
        return self.torch(node)

    def trained(self, node: Node) -> tuple[str, ...]:  # noqa: ARG002
        """Names of the inputs that fine-tuning may change where they are constants: weights, biases, scales."""
        return ()

    def reads(self, node: Node, axis: int, labels: Labels) -> np.ndarray | None:  # noqa: ARG002
        """Mask `(size,)` of the positions of an axis of the first input that the node uses; None where unknown."""
        return None

    trains_numbers: ClassVar[bool] = True
    """Whether fine-tuning changes a constant of one number too; beside Add and Mul it is part of a formula."""

    def trains(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the node computes as in training, so that a row's result depends on the other rows of a run."""
        return False

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of the inputs whose values the node only moves, selects, repeats or interpolates, if any."""
        return ()

    def lookups(self, node: Node) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        """Positions of tables (of embeddings) whose rows the node picks, each with that of the numbers of the rows."""
        return ()

    def scales(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Positions of the inputs in which the node is affine (scale and shift) if all others are constant."""
        return ()

    # What values are: each default says nothing, which is always safe

    aliases: ClassVar[tuple[str, ...]] = ()
    """Operators that give on what they read, as it is: their output is another name for it."""
    converts: ClassVar[tuple[str, ...]] = ()
    """Operators that only give what they read another element type."""
    picks: ClassVar[tuple[str, ...]] = ()
    """Operators that give the place of the largest entry along `axis`, as the number of a class."""

    is_view: ClassVar[bool] = False
    """Whether the result is the first input's values in the same order, which take no memory of their own."""

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Which input values one output element or channel depends on; None where it mixes channels."""
        return None

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:  # noqa: ARG002
        """Lower and upper bounds of each output channel, from those of the inputs. Only with a `flow`.

        Args:
            node: the node.
            operands: bounds of each input's part in a channel; None where nothing is known, or the input is omitted.
        """
        return None

    def carried(self, node: Node, axis: int, widths: Sequence[int], shape: Sequence[int]) -> Carried | None:  # noqa: ARG002
        """For a node that only moves values: which input channel each output channel is.

        Args:
            node: the node.
            axis: the axis of channels in the inputs that it moves.
            widths: how many channels each of them has.
            shape: shape of the output.
        """
        return None

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:  # noqa: ARG002
        """Slope and shift of the output as a function of one input, per channel; None where it is not affine."""
        return None

    def kinks(self, node: Node, constant: Callable[[str], np.ndarray | None]) -> Kinks | None:  # noqa: ARG002
        """The node as a piecewise-linear activation function; None where it is none."""
        return None

    def matrices(self, node: Node, operands: Operands) -> LinearMap | WindowMaximum | None:  # noqa: ARG002
        """The node as matrices, or as a maximum over windows, for the paper's program; None where it is neither."""
        return None

    def pooling(self, node: Node, sizes: Sequence[int]) -> Pooling | None:  # noqa: ARG002
        """The windows over which the node takes maxima or means; None for other nodes, and where padding counts.

        Args:
            node: the node.
            sizes: of the input's spatial axes, which begin at 2.
        """
        return None

    def activates(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the operator is the activation behind a layer: scores of the paper's program apply to its result."""
        return False

    def normalises_batches(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the operator is a BatchNormalization: scores of the paper's program may apply in front of it."""
        return False

    def normalises_scores(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the operator makes class probabilities, or their logarithms, of scores."""
        return False

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """Whether onnxruntime may fuse the nodes that follow into the same kernel."""
        return False

    def joins_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """Whether onnxruntime may fuse the node into the convolution or product directly before it."""
        return False

    def jumps(self, node: Node) -> bool:  # noqa: ARG002
        """Whether a tiny change of an input can change the result by much (rounding, comparing, sorting)."""
        return False

    selects: ClassVar[Literal["number", "order"] | None] = None
    """What the values of an input decide about the result: how many values it has, or which stands first."""

    # What the graph asks before any label is placed: see `graph.operators`

    folds_up_to: ClassVar[float] = 0
    """Elements of constant inputs up to which a node is computed at once; 0 where that is not cheap."""

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Whether a node with constant inputs is evaluated when the model is analysed: cheap, and small.

        Args:
            node: the node.
            inputs: its different inputs, in order.
            limit: elements that they, and the result, may have.
        """
        return self.folds_up_to > 0 and sum(value.size for value in inputs) <= min(limit, self.folds_up_to)

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:  # noqa: ARG002
        """The node's value for constant inputs; None to use onnx's reference implementation instead."""
        return None

    def deterministic(self, node: Node) -> bool:  # noqa: ARG002
        """Whether equal inputs always give equal results, so that results of constants are constants."""
        return True

    reference_opset: ClassVar[int] = 0
    """Oldest version that onnx's reference implementation has; older ones must mean the same. 0: it has them all."""

    def reads_shape(self, node: Node) -> bool:  # noqa: ARG002
        """Whether the node reads only the shape of its first input; `shape_value` then gives its result."""
        return False

    def shape_value(self, node: Node, shape: tuple[int, ...]) -> np.ndarray:
        """Result of a node that reads only a shape, for the given shape."""
        raise NotImplementedError(f"{node} reads more than a shape")

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:  # noqa: ARG002
        """Whether the node only converts a stored weight to another type, and so stays in the file."""
        return False

    def undoes(self, node: Node, maker: Node) -> bool:  # noqa: ARG002
        """Whether the node gives back, but for rounding, what the maker of its first input read."""
        return False

    keeps_shape: ClassVar[bool] = False
    """Whether the first output has the first input's shape and type; needed only where onnx does not infer that."""

    def fits(
        self,
        node: Node,  # noqa: ARG002
        shapes: Mapping[str, tuple[int, ...]],  # noqa: ARG002
        values: Mapping[str, np.ndarray],  # noqa: ARG002
    ) -> bool:
        """False where the node cannot run on these input shapes although onnx's shape inference accepts them."""
        return True

    def backward(self, node: Node, back: Backward) -> bool:  # noqa: ARG002
        """Add nodes that compute the gradients of the node's inputs; False where there is no rule.

        Piecewise-linear operators are taken as they are at the point (a gate of ReLU, a route of max pooling); smooth
        ones are linearised there.
        """
        return False

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Small models with the operator between prunable layers, used by the contract test."""
        yield from ()


class Unknown(OpHandler):
    """An operator without a handler: all channels that it touches stay."""

    op_types: ClassVar[tuple[str, ...]] = ()
    follows = False

    def couple(self, node: Node, labels: Labels) -> None:
        """Mark all channels that the node touches as never removed."""
        labels.freeze_node(node, f"operator {node.op_type} is not supported")


def pass_through(labels: Labels, node: Node, source: str, *outputs: str) -> None:
    """Give each output the same channels as `source`, axis by axis."""
    for axis in range(labels.rank(source)):
        for output in (name for name in outputs if labels.rank(name) == labels.rank(source)):
            labels.follow(node, source, axis, output, axis)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the start, where negative ones count from the end."""
    return axis + rank if axis < 0 else axis

"""Labels: for every position of every channel axis, the id of the channel that lies there.

A label array holds one unit id per position of one axis. Ids that must live or die together are tied; the classes of
the ties are the units. Id 0 is the fixed unit: what is tied to it is never removed, for a reason that the user can
read. Handlers (`onnxprune.ops`) only place and tie labels; `structure.analysis` makes units and groups of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.graph.operators import Shape
from onnxprune.graph.shapes import Facts, Sizes

Ids = np.ndarray
AxisLabels = list[Ids | None]
Reads = Callable[["Labels", str, int], np.ndarray | None]
"""`(size,)` True at the positions of a tensor's axis that any node reads, None: at all."""

Place = tuple[str, int]
"""Where one of several ways to follow channels is taken: the node's name, and the output axis where the ways part."""

FIXED = 0
# Positions of all labelled axes together, at eight bytes each: what a file from anywhere may take.
_MOST_POSITIONS = 1 << 27


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why some channels cannot be removed: `reason` in plain words, and the node and tensor where that was found.

    `node` is empty for inputs and outputs of the graph.

    `limitation` tells what the handlers do not understand from what lies in the model's nature.
    """

    tensor: str
    reason: str
    node: str
    limitation: bool = False


@dataclass(frozen=True, slots=True)
class Contraction:
    """A node that sums over a channel axis: setting a removed channel to zero there is the same as removing it.

    Attributes:
        node: the node's name.
        tensor: the tensor to mask (the weight, or an activation where both operands are computed).
        axis: the masked axis of `tensor`.
        ids: unit ids along that axis (for a grouped convolution, those of one group stand for all).
    """

    node: str
    tensor: str
    axis: int
    ids: Ids


class Labels:
    """Assigns channel ids to the axes of all tensors while the nodes are visited in topological order."""

    def __init__(
        self, model: Model, facts: Facts, reads: Reads | None = None, choices: Mapping[Place, int] | None = None
    ) -> None:
        self._model = model
        self._choices = choices or {}
        self.options: dict[Place, tuple[int, Ids]] = {}
        self._facts = facts
        self._reads = reads
        self._next = 1
        self._room = _MOST_POSITIONS
        self.arrays: dict[str, AxisLabels] = {}
        self.ties: list[tuple[Ids, Ids]] = []
        self.freezes: list[tuple[Ids, Freeze]] = []
        self.origins: list[tuple[int, int, Node, str]] = []
        self.contractions: list[Contraction] = []
        self.placed: set[tuple[str, str, int]] = set()
        self.omitted: set[tuple[str, int]] = set()
        self._opaque: dict[str, Freeze] = {}
        self._adaptable: dict[tuple[str, int], list[tuple[str, int, Node | None]]] = {}
        self._zero: set[str] = set()
        self._node: Node | None = None
        self._read: dict[tuple[str, int], Ids] = {}
        self._named: list[Ids] = []

    @contextmanager
    def visiting(self, node: Node) -> Iterator[None]:
        """Context in which a node's handler runs; channels that the handler does not deal with are frozen.

        An axis is placed where its ids are passed on, tied, contracted or frozen. Ids that lie on several of the axes
        that the node reads are handed out under a name of their own for each, so that none is placed by another.
        """
        places = self._labelled_axes(node)
        self._read, self._named = self._told_apart(places), []
        with self._placing(node):
            yield
        for (tensor, axis), ids in places.items():
            if tensor not in self._opaque and not self._is_named(self._read.get((tensor, axis), ids)):
                reason = f"{node.op_type} does not follow channels on axis {axis} of {tensor!r}"
                self.freeze_ids(ids, tensor, reason, node)
        self._read, self._named = {}, []

    def _is_named(self, ids: Ids) -> bool:
        """Whether the handler named any of these ids. Most arrays are named as they are, which is quick to see."""
        if not self._named or any(named is ids for named in self._named):
            return bool(self._named)
        return bool(np.isin(ids, np.concatenate(self._named)).any())

    @contextmanager
    def _placing(self, node: Node | None) -> Iterator[None]:
        """Context that records `(node, tensor, axis)` in `placed` for every axis that gets labels."""
        outer, self._node = self._node, node
        yield
        self._node = outer

    def _labelled_axes(self, node: Node) -> dict[tuple[str, int], Ids]:
        """The channel axes of a node's inputs that its handler must deal with. Constants are not among them."""
        return {
            (tensor, axis): ids
            for tensor in dict.fromkeys((*node.inputs, *node.captured))
            for axis, ids in enumerate(self.arrays.get(tensor, ()))
            if ids is not None and len(ids) and not self.adapts(tensor, axis)
        }

    def _told_apart(self, places: Mapping[tuple[str, int], Ids]) -> dict[tuple[str, int], Ids]:
        """Temporary ids for channels that lie on several of a node's axes, tied to the real ones."""
        if len(places) < 2:
            return {}
        distinct, counts = np.unique(np.concatenate([np.unique(ids) for ids in places.values()]), return_counts=True)
        several = distinct[counts > 1]
        temporary = {}
        for place, ids in places.items() if len(several) else ():
            if np.isin(ids, several).any():
                temporary[place] = np.arange(self._next, self._next + len(ids))
                self._next += len(ids)
                self.tie(ids, temporary[place])
        return temporary

    # What is known of tensors

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor of the visited node at the analysed batch size; () for an omitted tensor."""
        return self._facts.shapes.get(tensor, ())

    def rank(self, tensor: str) -> int:
        """Number of axes of a tensor; 0 where it is unknown."""
        return len(self._facts.shapes.get(tensor, ()))

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant, stored or computed from constants; None for other tensors."""
        value = self._model.constants.get(tensor)
        return self._facts.folded.get(tensor) if value is None else value

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor's value does not depend on the graph's inputs."""
        return tensor in self._model.constants or tensor in self._facts.folded

    def is_stored(self, tensor: str) -> bool:
        """Whether a tensor that nodes compute from constants is stored in their place, as a weight with channels."""
        facts = self._facts
        return tensor in facts.folded and tensor not in facts.transparent and self.is_labelled(tensor)

    def is_free(self, tensor: str, axis: int) -> bool:
        """Whether the size of an axis depends on the sizes of the graph's inputs."""
        return axis in self._facts.free.get(tensor, ())

    def sizes(self, tensor: str) -> Sizes | None:
        """An integer vector of sizes, and which of its elements depend on the input; None where it is unknown."""
        value = self.constant(tensor)
        return self._facts.sizes.get(tensor) if value is None else Sizes(value, np.zeros(value.shape, bool))

    def is_zero(self, tensor: str) -> bool:
        """Whether a tensor is known to be zero everywhere."""
        value = self.constant(tensor)
        return tensor in self._zero if value is None else value.dtype.kind in "fiu" and not value.any()

    def set_zero(self, tensor: str) -> None:
        """Record that a tensor is zero everywhere."""
        self._zero.add(tensor)

    def read_positions(self, tensor: str, axis: int) -> np.ndarray | None:
        """Mask `(size,)` of the positions of an axis that any reader uses; None where that is unknown."""
        return None if self._reads is None else self._reads(self, tensor, axis)

    # Reading and placing labels

    def get(self, tensor: str) -> AxisLabels:
        """Channel ids of every axis of a tensor; None for an axis without channels."""
        arrays = self.arrays.get(tensor, [None] * self.rank(tensor))
        return [self._read.get((tensor, axis), ids) for axis, ids in enumerate(arrays)]

    def axis(self, tensor: str, axis: int) -> Ids | None:
        """Channel ids of one axis (negative counts from the end); None where it has none."""
        arrays = self.get(tensor)
        return arrays[axis] if -len(arrays) <= axis < len(arrays) else None

    def is_labelled(self, tensor: str) -> bool:
        """Whether a tensor has any channel axis."""
        return any(ids is not None for ids in self.arrays.get(tensor, ()))

    def set(self, tensor: str, axis: int, ids: Ids | None) -> None:
        """Assign channel ids to an axis, and to axes that follow it. Existing ids are tied to the new ones."""
        if ids is None:
            return
        waiting = [(tensor, axis, self._node)]
        while waiting:
            tensor, axis, node = waiting.pop()
            with self._placing(node):
                waiting.extend(reversed(self._place(tensor, axis, ids)))

    def _place(self, tensor: str, axis: int, ids: Ids) -> Sequence[tuple[str, int, Node | None]]:
        """Assign ids to one axis; returns the axes that follow it, each with the node that passes the ids on."""
        arrays = self.arrays.setdefault(tensor, [None] * self.rank(tensor))
        axis = axis % max(1, len(arrays))
        if not arrays or len(ids) != self.shape(tensor)[axis]:
            size = self.shape(tensor)
            raise ValueError(f"axis {axis} of {tensor!r} with shape {size} should have {len(ids)} channels")
        self.placed.add((self._node.name if self._node else "", tensor, axis))
        self._named.append(ids)
        current = self._read.get((tensor, axis), arrays[axis])
        if current is not None:
            self.tie(current, ids)
            return ()
        self._room -= len(ids)
        if self._room < 0:
            reason = f"the model has too many tensors of the size of {tensor!r} to follow all their channels"
            self.freeze_ids(np.unique(ids), tensor, reason, self._node)
            return ()
        arrays[axis] = ids
        if self.is_free(tensor, axis):
            reason = f"axis {axis} of {tensor!r} counts channels together with positions that vary with the input"
            self.freeze_ids(ids, tensor, reason, self._node)
        return self._adaptable.get((tensor, axis), ())

    def set_all(self, tensor: str, arrays: Sequence[Ids | None]) -> None:
        """Assign channel ids to all axes of a tensor."""
        for axis, ids in enumerate(arrays):
            self.set(tensor, axis, ids)

    def fresh(self, count: int, node: Node, tensor: str) -> Ids:
        """New channel ids for the output channels of `tensor`, which `node` computes."""
        ids = np.arange(self._next, self._next + count)
        self._next += count
        self.origins.append((int(ids[0]) if count else self._next, self._next, node, tensor))
        return ids

    def fixed(self, count: int) -> Ids:
        """Ids for channels that can never be removed (all 0)."""
        return np.zeros(count, dtype=np.int64)

    @property
    def count(self) -> int:
        """Number of ids in use, id 0 (never removed) included."""
        return self._next

    def adapts(self, tensor: str, axis: int) -> bool:
        """Whether an axis has no channels of its own and simply gets the size that its readers need.

        That holds for constants (a bias is cut like the tensor that it is added to), and for tensors that a node fills
        to a given size (ConstantOfShape, Expand).
        """
        return self.is_constant(tensor) or (tensor, axis % max(1, self.rank(tensor))) in self._adaptable

    def follow(self, node: Node, source: str, source_axis: int, output: str, axis: int) -> None:
        """Let an axis of the output have the channels of an axis of the input, now or once these are known."""
        ids = self.axis(source, source_axis)
        if ids is None and self.adapts(source, source_axis):
            self.adapt(output, axis, node, source, source_axis)
        self.set(output, axis, ids)

    def adapt(self, tensor: str, axis: int, node: Node, source: str = "", source_axis: int = 0) -> None:
        """Mark an axis of an output as one that gets whatever size its readers need; see `adapts`.

        Args:
            tensor: the output.
            axis: its axis.
            node: what makes it.
            source: an input whose axis `source_axis` is cut alike; "" where there is none.
            source_axis: that axis.
        """
        followers = self._adaptable.setdefault((tensor, axis % max(1, self.rank(tensor))), [])
        if source:
            followers.append((source, source_axis, node))

    # Relations

    def choice(self, node: Node, axis: int, count: int) -> int:
        """Which of `count` ways to follow channels a handler takes: the first, unless another turned out better.

        The handler reports by `chosen` what it follows, so that `structure.coupling` can see what became of it.

        Args:
            node: the node.
            axis: the output axis where the ways part; tells several decisions at one node apart.
            count: how many ways there are.
        """
        return min(self._choices.get((node.name, axis), 0), count - 1)

    def chosen(self, node: Node, axis: int, count: int, ids: Ids) -> None:
        """Record the channels that are followed after a choice among `count` ways."""
        self.options[(node.name, axis)] = (count, ids)

    def tie(self, first: Ids, second: Ids) -> None:
        """Record that channels at the same position of two id arrays must be removed together.

        Raises:
            ValueError: the arrays differ in length; shape inference of some versions of onnx lets such files pass.
        """
        if len(first) != len(second):
            raise ValueError(f"{len(first)} channels meet {len(second)}")
        self.ties.append((first, second))
        self._named += [first, second]

    def freeze_ids(self, ids: Ids | None, tensor: str, reason: str, node: Node | None) -> None:
        """Mark channels as never removed, with the reason that the user is shown."""
        if ids is not None and len(ids):
            self.freezes.append((ids, Freeze(tensor, reason, node.name if node else "")))
            self._named.append(ids)

    def freeze(self, tensor: str, reason: str, node: Node | None, *, limitation: bool = False) -> None:
        """Mark all channels of a tensor as never removed, also those that are assigned to it later."""
        self._opaque.setdefault(tensor, Freeze(tensor, reason, node.name if node else "", limitation))

    def freeze_node(self, node: Node, reason: str) -> None:
        """Mark all channels that a node touches as never removed, because the node is not supported."""
        for tensor in (*node.inputs, *node.captured, *node.outputs):
            if tensor:
                self.freeze(tensor, reason, node, limitation=True)

    def is_frozen(self, tensor: str) -> bool:
        """Whether all channels of a tensor are marked as never removed."""
        return tensor in self._opaque

    def leave(self, node: Node, tensor: str) -> None:
        """Record that a node reads only the size of a tensor, so that its channels may be removed freely."""
        self._named += [ids for ids in self.get(tensor) if ids is not None]
        self.placed.update((node.name, tensor, axis) for axis in range(self.rank(tensor)))

    def omit(self, node: Node, position: int) -> None:
        """Record that the node gives the same result without an optional input, which the pruned model drops."""
        self.omitted.add((node.name, position))
        self.leave(node, node.input(position))

    def contract(self, node: Node, tensor: str, axis: int, ids: Ids | None) -> None:
        """Record that `node` sums over the channels on `axis` of `tensor`."""
        if ids is not None:
            self.contractions.append(Contraction(node.name, tensor, axis, ids))
            self._named.append(ids)

    def finish(self) -> None:
        """Turn frozen tensors into frozen channels. Called once, after the last node."""
        for tensor, freeze in self._opaque.items():
            for ids in self.arrays.get(tensor, ()):
                if ids is not None and len(ids):
                    self.freezes.append((ids, freeze))


def classes(count: int, ties: Sequence[tuple[Ids, Ids]], fixed: Sequence[Ids]) -> Ids:
    """Number the sets of channels that are tied together (connected components); set 0 is never removed.

    Everything in `fixed` belongs to set 0.

    Returns:
        `(count,)` class numbers in order of first appearance, so that the fixed class is 0.
    """
    pairs = [*ties, *((ids, np.zeros_like(ids)) for ids in fixed)]
    rows = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, np.int64)
    cols = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, np.int64)
    _, numbers = np.unique(_least_of_component(count, rows, cols), return_inverse=True)
    return numbers


def _least_of_component(count: int, first: Ids, second: Ids) -> Ids:
    """`(count,)` the least id that each is connected with, where `first[i]` is tied to `second[i]`.

    Trees of ids, each below a lesser one, are flattened and joined at their roots until no tie leads out of a tree.
    (scipy's `connected_components` does the same, but takes longer to import than most models to analyse.)
    """
    root = np.arange(count)
    while True:
        a, b = root[first], root[second]
        open_ = a != b
        if not open_.any():
            return root
        first, second = first[open_], second[open_]
        np.minimum.at(root, np.maximum(a, b)[open_], np.minimum(a, b)[open_])
        while not np.array_equal(above := root[root], root):
            root = above


def tensors_of(arrays: Mapping[str, AxisLabels]) -> list[tuple[str, int, Ids]]:
    """All channel axes as `(tensor, axis, ids)`."""
    return [(t, axis, ids) for t, axes in arrays.items() for axis, ids in enumerate(axes) if ids is not None]

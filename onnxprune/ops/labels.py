"""Labels: which unit each position of each axis belongs to.

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

FIXED = 0
# Positions of all labelled axes together, at eight bytes each: what a file from anywhere may take.
_MOST_POSITIONS = 1 << 27


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why ids are fixed: `reason` in plain words, at `node` (empty for graph inputs and outputs), first on `tensor`.

    `limitation` tells what the handlers do not understand from what lies in the model's nature.
    """

    tensor: str
    reason: str
    node: str
    limitation: bool = False


@dataclass(frozen=True, slots=True)
class Contraction:
    """A node that sums over an axis: where a removed unit is seen as zero.

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
    """The labels of one graph while its nodes are visited in topological order."""

    def __init__(self, model: Model, facts: Facts, reads: Reads | None = None) -> None:
        self._model = model
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
        """While a node's handler runs. What it does not place is frozen: every labelled axis that the node reads.

        An axis is placed where its ids are passed on, tied, contracted or frozen. Ids that lie on several of the axes
        that the node reads are handed out under a name of their own for each, so that none is placed by another.
        """
        places = self._labelled_axes(node)
        self._read, self._named = self._told_apart(places), []
        with self._placing(node):
            yield
        named = np.concatenate([*self._named, np.zeros(0, np.int64)])
        for (tensor, axis), ids in places.items():
            if tensor not in self._opaque and not np.isin(self._read.get((tensor, axis), ids), named).any():
                reason = f"{node.op_type} does not follow channels on axis {axis} of {tensor!r}"
                self.freeze_ids(ids, tensor, reason, node)
        self._read, self._named = {}, []

    @contextmanager
    def _placing(self, node: Node | None) -> Iterator[None]:
        """Record `(node, tensor, axis)` in `placed` for what is labelled."""
        outer, self._node = self._node, node
        yield
        self._node = outer

    def _labelled_axes(self, node: Node) -> dict[tuple[str, int], Ids]:
        """What a node must place; constants, and what adapts like them, follow where their readers agree."""
        return {
            (tensor, axis): ids
            for tensor in dict.fromkeys((*node.inputs, *node.captured))
            for axis, ids in enumerate(self.arrays.get(tensor, ()))
            if ids is not None and len(ids) and not self.adapts(tensor, axis)
        }

    def _told_apart(self, places: Mapping[tuple[str, int], Ids]) -> dict[tuple[str, int], Ids]:
        """Other names for ids that lie on several axes, tied to them."""
        if len(places) < 2:
            return {}
        own, counts = np.unique(np.concatenate([np.unique(ids) for ids in places.values()]), return_counts=True)
        several = own[counts > 1]
        found = {}
        for place, ids in places.items():
            if np.isin(ids, several).any():
                found[place] = np.arange(self._next, self._next + len(ids))
                self._next += len(ids)
                self.tie(ids, found[place])
        return found

    # What is known of tensors

    def shape(self, tensor: str) -> Shape:
        """Concrete shape (batch pinned) of a tensor of the node that is visited; () for an omitted one."""
        return self._facts.shapes.get(tensor, ())

    def rank(self, tensor: str) -> int:
        """Number of axes; 0 where unknown."""
        return len(self._facts.shapes.get(tensor, ()))

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant (an initializer, a Constant node, or computed from these), else None."""
        value = self._model.constants.get(tensor)
        return self._facts.folded.get(tensor) if value is None else value

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor has a value that does not depend on the graph's inputs."""
        return tensor in self._model.constants or tensor in self._facts.folded

    def is_free(self, tensor: str, axis: int) -> bool:
        """Whether the size of an axis varies with the graph's inputs."""
        return axis in self._facts.free.get(tensor, ())

    def sizes(self, tensor: str) -> Sizes | None:
        """An integer vector with pinned values and which of them vary; None where it is not known."""
        value = self.constant(tensor)
        return self._facts.sizes.get(tensor) if value is None else Sizes(value, np.zeros(value.shape, bool))

    def is_zero(self, tensor: str) -> bool:
        """Whether a tensor, of whatever size, is known to be zero everywhere."""
        value = self.constant(tensor)
        return tensor in self._zero if value is None else value.dtype.kind in "fiu" and not value.any()

    def set_zero(self, tensor: str) -> None:
        """Say that a tensor is zero everywhere."""
        self._zero.add(tensor)

    def read_positions(self, tensor: str, axis: int) -> np.ndarray | None:
        """`(size,)` True at the positions of an axis that the nodes behind a tensor read; None: at all."""
        return None if self._reads is None else self._reads(self, tensor, axis)

    # Reading and placing labels

    def get(self, tensor: str) -> AxisLabels:
        """Labels of every axis, None for an axis without; all None for a tensor not labelled so far."""
        arrays = self.arrays.get(tensor, [None] * self.rank(tensor))
        return [self._read.get((tensor, axis), ids) for axis, ids in enumerate(arrays)]

    def axis(self, tensor: str, axis: int) -> Ids | None:
        """Labels of one axis (negative counts from the end), None where it has none."""
        arrays = self.get(tensor)
        return arrays[axis] if -len(arrays) <= axis < len(arrays) else None

    def is_labelled(self, tensor: str) -> bool:
        """Whether any axis carries labels."""
        return any(ids is not None for ids in self.arrays.get(tensor, ()))

    def set(self, tensor: str, axis: int, ids: Ids | None) -> None:
        """Label an axis, and the axes that follow it; where one already has labels, tie them to the new ones."""
        if ids is None:
            return
        waiting = [(tensor, axis, self._node)]
        while waiting:
            tensor, axis, node = waiting.pop()
            with self._placing(node):
                waiting.extend(reversed(self._place(tensor, axis, ids)))

    def _place(self, tensor: str, axis: int, ids: Ids) -> Sequence[tuple[str, int, Node | None]]:
        """Label one axis; gives the axes that now follow, each with the node that passes the labels on."""
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
        """Label all axes of a tensor."""
        for axis, ids in enumerate(arrays):
            self.set(tensor, axis, ids)

    def fresh(self, count: int, node: Node, tensor: str) -> Ids:
        """New ids for the output channels of `tensor`, produced by `node`."""
        ids = np.arange(self._next, self._next + count)
        self._next += count
        self.origins.append((int(ids[0]) if count else self._next, self._next, node, tensor))
        return ids

    def fixed(self, count: int) -> Ids:
        """Ids of positions that can never be removed."""
        return np.zeros(count, dtype=np.int64)

    @property
    def count(self) -> int:
        """Number of ids given out, the fixed one included."""
        return self._next

    def adapts(self, tensor: str, axis: int) -> bool:
        """Whether an axis can be cut to any width: its readers decide which channels it carries.

        That holds for constants (a bias is cut like the tensor that it is added to), and for tensors that a node fills
        to a given size (ConstantOfShape, Expand).
        """
        return self.is_constant(tensor) or (tensor, axis % max(1, self.rank(tensor))) in self._adaptable

    def follow(self, node: Node, source: str, source_axis: int, output: str, axis: int) -> None:
        """Say that an axis of the output is that of the source: labels pass, and what adapts goes on adapting."""
        ids = self.axis(source, source_axis)
        if ids is None and self.adapts(source, source_axis):
            self.adapt(output, axis, node, source, source_axis)
        self.set(output, axis, ids)

    def adapt(self, tensor: str, axis: int, node: Node, source: str = "", source_axis: int = 0) -> None:
        """Mark an axis of an output as one that can be cut to any width; see `adapts`.

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

    def tie(self, first: Ids, second: Ids) -> None:
        """Ids at the same position live or die together."""
        self.ties.append((first, second))
        self._named += [first, second]

    def freeze_ids(self, ids: Ids | None, tensor: str, reason: str, node: Node | None) -> None:
        """Fix ids, with the reason to show."""
        if ids is not None and len(ids):
            self.freezes.append((ids, Freeze(tensor, reason, node.name if node else "")))
            self._named.append(ids)

    def freeze(self, tensor: str, reason: str, node: Node | None, *, limitation: bool = False) -> None:
        """Fix every id of a tensor, also those that are placed on it later."""
        self._opaque.setdefault(tensor, Freeze(tensor, reason, node.name if node else "", limitation))

    def freeze_node(self, node: Node, reason: str) -> None:
        """Fix every id that a node touches, because it is not understood."""
        for tensor in (*node.inputs, *node.captured, *node.outputs):
            if tensor:
                self.freeze(tensor, reason, node, limitation=True)

    def leave(self, node: Node, tensor: str) -> None:
        """Say that channels of a tensor that the node reads are of no concern to it: it looks at sizes only."""
        self._named += [ids for ids in self.get(tensor) if ids is not None]
        self.placed.update((node.name, tensor, axis) for axis in range(self.rank(tensor)))

    def omit(self, node: Node, position: int) -> None:
        """Say that a node does the same without an optional input, which removal leaves out."""
        self.omitted.add((node.name, position))
        self.leave(node, node.input(position))

    def contract(self, node: Node, tensor: str, axis: int, ids: Ids | None) -> None:
        """Record that `node` sums over `axis` of `tensor`."""
        if ids is not None:
            self.contractions.append(Contraction(node.name, tensor, axis, ids))
            self._named.append(ids)

    def finish(self) -> None:
        """Turn frozen tensors into frozen ids. Called once, after the last node."""
        for tensor, freeze in self._opaque.items():
            for ids in self.arrays.get(tensor, ()):
                if ids is not None and len(ids):
                    self.freezes.append((ids, freeze))


def classes(count: int, ties: Sequence[tuple[Ids, Ids]], fixed: Sequence[Ids]) -> Ids:
    """Class of every id: connected components of the ties, with everything in `fixed` joined to id 0.

    Returns:
        `(count,)` class numbers in order of first appearance, so that the fixed class is 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [*ties, *((ids, np.zeros_like(ids)) for ids in fixed)]
    rows = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, np.int64)
    cols = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, cols)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def tensors_of(arrays: Mapping[str, AxisLabels]) -> list[tuple[str, int, Ids]]:
    """All labelled axes as `(tensor, axis, ids)`."""
    return [(t, axis, ids) for t, axes in arrays.items() for axis, ids in enumerate(axes) if ids is not None]

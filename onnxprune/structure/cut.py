"""Finds which nodes a graph can do without once some channel axes lose all their channels: whole branches.

A tensor is *empty* where an axis has no channels left. A layer that contracts over an empty axis gives its bias, which
is a *constant*, and so is what other operators make of constants alone. Where a constant meets a tensor that varies
(the sum behind a residual branch, the product with a gate), a small array stands for it; an empty part of a Concat is
left out. What feeds nothing else is *gone*.

That works where every constant meets such a tensor, of the shape of the result, before it reaches an output, and where
every output still depends on every input of the model that it depended on. Only the surroundings of the empty tensors
are looked at, unless a node is left with fewer of the model's inputs than before.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from heapq import heappop, heappush
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.folding import evaluate
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.ops.traits import Flow
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a graph that is left out after a removal, and what takes its place.

    Attributes:
        empty: tensors without channels.
        constants: computed tensors that do not vary any more, each as a small array of its rank that broadcasts to it;
            as after the removal of units.
        gone: names of nodes that go.
        losses: nodes that go on without some of their inputs, and these inputs.
        removed: `(units,)` True for what was removed, and for what only feeds that.
        problem: why it cannot be done; None where it can.
    """

    empty: frozenset[str]
    constants: Mapping[str, np.ndarray]
    gone: frozenset[str]
    losses: Mapping[str, frozenset[str]]
    removed: Ids
    problem: str | None


class Cuts:
    """Finds the parts of one graph that can be left out, for any number of removals.

    Args:
        analysis: the model's.
        apart: whether every output must go on depending on each of the model's inputs; where not, any of them will do.
    """

    def __init__(self, analysis: Analysis, *, apart: bool = True) -> None:
        self.analysis = analysis
        self.apart = apart
        graph = analysis.graph
        self.place = {node.name: index for index, node in enumerate(graph.nodes)}
        self.outputs = frozenset(graph.outputs)
        self.omitted = frozenset(analysis.omitted)
        self.depends = self.dependence({}, ())
        self.groups: dict[str, list[int]] = {}
        for index, group in enumerate(analysis.groups):
            for tensor in dict.fromkeys(tensor for tensor, _ in group.places):
                self.groups.setdefault(tensor, []).append(index)

    def find(self, removed: Ids) -> Cut:
        """The part that is left out when these units are removed."""
        return _Search(self, removed).find()

    def dependence(self, losses: Mapping[str, Collection[str]], gone: Collection[str]) -> dict[str, int]:
        """For each tensor, a bit mask of the model inputs that it depends on; one bit for all where not `apart`.

        Args:
            losses: inputs that nodes do not read any more, by node.
            gone: nodes that are not there any more.
        """
        graph = self.analysis.graph
        found = {name: 1 << (index if self.apart else 0) for index, name in enumerate(graph.inputs)}
        for node in graph.nodes:
            if node.name not in gone:
                reads = {*node.inputs, *node.captured}.difference(losses.get(node.name, ()))
                own = reduce(lambda bits, name: bits | found.get(name, 0), reads, 0)
                found.update(dict.fromkeys((name for name in node.outputs if name), own))
        return found


def find_cut(analysis: Analysis, removed: Ids) -> Cut:
    """The part that is left out when these units are removed; for a single removal. See `Cuts`."""
    return Cuts(analysis).find(removed)


class _Search:
    """The search for the part that one removal leaves out."""

    def __init__(self, cuts: Cuts, removed: Ids) -> None:
        self._cuts, self._analysis = cuts, cuts.analysis
        self._graph = self._analysis.graph
        self._removed = removed
        self._empty: set[str] = set()
        self._constants: dict[str, np.ndarray] = {}
        self._broken: dict[str, str] = {}
        self._gone: set[str] = set()
        self._losses: dict[str, frozenset[str]] = {}
        self._weakened: list[str] = []
        self._queue: list[int] = []
        self._queued: set[str] = set()

    def find(self) -> Cut:
        """Run the search."""
        whole = [group for group in self._analysis.groups if self._removed[group.units].all()]
        for tensor, axis in dict.fromkeys(place for group in whole for place in group.places):
            ids = self._analysis.labels[tensor][axis]
            if ids is not None and len(ids) and self._removed[ids].all():
                self._mark_empty(tensor)
        while self._queue:
            self._visit(self._graph.nodes[heappop(self._queue)])
        self._drop_unread()
        return Cut(
            frozenset(self._empty),
            self._constants,
            frozenset(self._gone),
            {name: lost for name, lost in self._losses.items() if name not in self._gone},
            self._with_dead_units(),
            self._problem(),
        )

    # Forward: what becomes of tensors

    def _mark_empty(self, tensor: str) -> None:
        self._empty.add(tensor)
        producer = self._graph.producer.get(tensor)
        self._enqueue([*self._graph.consumers.get(tensor, ()), *([] if producer is None else [producer])])

    def _enqueue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.name not in self._queued:
                self._queued.add(node.name)
                heappush(self._queue, self._cuts.place[node.name])

    def _visit(self, node: Node) -> None:
        if self._analysis.facts.is_folded(node):  # its value is stored where it is needed
            return
        used = self._used(node)
        if all(name in self._empty for name in used):
            self._gone.add(node.name)
            return
        reads = list(dict.fromkeys(self._reads(node)))
        lost = frozenset(name for name in reads if name in self._empty or name in self._constants)
        handler = handler_of(node.op_type)
        if any(name in node.captured for name in lost):
            self._break(node, f"{node} reads it")
            return
        known = _Known(self._analysis, self._removed, self._constants)
        empty = lost & self._empty
        if handler.joins:
            if lost - empty:
                self._break(node, f"{node} joins constants")
            elif empty:
                self._lose(node, lost, [name for name in reads if name not in lost])
            return
        value: np.ndarray | None = None
        varying = [name for name in reads if name not in lost and self._analysis.value(name) is None]
        if empty:
            value = handler.at_zero(node, known)
        elif not varying:
            value = handler.at_constant(node, known)
        elif handler.flow(node) is Flow.ELEMENTWISE and self._covers(node, varying, known):
            self._lose(node, lost, varying)
            return
        if value is None or not np.isfinite(value.astype(np.float64)).all():
            self._break(node, f"{node} needs it")
            return
        self._constants[node.output()] = value
        self._gone.add(node.name)
        self._enqueue(self._graph.consumers.get(node.output(), ()))

    def _used(self, node: Node) -> list[str]:
        """The node's outputs that are read; all of them where none is."""
        named = [name for name in node.outputs if name]
        return [n for n in named if n in self._graph.consumers or n in self._cuts.outputs] or named

    def _break(self, node: Node, reason: str) -> None:
        """Record that a node cannot run without its lost inputs. This does not matter if its outputs go unread."""
        for name in self._used(node):
            if name not in self._empty:
                self._broken[name] = reason

    def _lose(self, node: Node, lost: frozenset[str], rest: Collection[str]) -> None:
        """Record that a node runs on without some of its inputs."""
        self._losses[node.name] = lost
        depends = self._cuts.depends
        if reduce(lambda bits, name: bits | depends.get(name, 0), rest, 0) != depends.get(node.output(), 0):
            self._weakened.append(node.name)

    def _covers(self, node: Node, varying: Collection[str], known: "_Known") -> bool:
        """Whether the remaining inputs broadcast to the output's shape, for all sizes of the model's inputs."""
        facts = self._analysis.facts
        shape, symbolic = facts.shapes[node.output()], facts.free.get(node.output(), frozenset())
        for axis, size in enumerate(shape):
            back = axis - len(shape)
            if any(
                -back <= len(facts.shapes[name])
                and facts.shapes[name][back] == size
                and (axis not in symbolic or len(facts.shapes[name]) + back in facts.free.get(name, frozenset()))
                for name in varying
            ):
                continue
            sizes = [value.shape for name in node.inputs if name and (value := known.value(name)) is not None]
            if axis in symbolic or not any(
                -back <= len(sizes_there) and sizes_there[back] == size for sizes_there in sizes
            ):
                return False
        return True

    # Backward: what nothing reads any more

    def _drop_unread(self) -> None:
        left = [name for node in self._gone for name in self._reads(self._node(node))] + [*self._broken]
        while left:
            tensor = left.pop()
            producer = self._graph.producer.get(tensor)
            if producer is None or producer.name in self._gone:
                continue
            if not any(self._is_read(name) for name in producer.outputs if name):
                self._gone.add(producer.name)
                left += self._reads(producer)

    def _node(self, name: str) -> Node:
        return self._graph.nodes[self._cuts.place[name]]

    def _reads(self, node: Node) -> list[str]:
        """Names of the tensors that a node reads, without those that removal drops anyway."""
        omitted = self._cuts.omitted
        inputs = (name for at, name in enumerate(node.inputs) if name and (node.name, at) not in omitted)
        return [*inputs, *node.captured]

    def _is_read(self, tensor: str) -> bool:
        """Whether any remaining node still needs a tensor."""
        if tensor in self._empty or tensor in self._constants:
            return False
        if tensor in self._cuts.outputs:
            return True
        return any(node.name not in self._gone for node in self._graph.consumers.get(tensor, ()))

    def _problem(self) -> str | None:
        depends = self._cuts.depends
        if any(name not in self._gone for name in self._weakened):
            depends = self._cuts.dependence(self._losses, self._gone)
        for name in self._graph.outputs:
            if depends.get(name) != self._cuts.depends.get(name) or name in self._empty or name in self._constants:
                return f"output {name!r} would not depend on the model's inputs as before"
        for name, reason in self._broken.items():
            if self._graph.producer[name].name not in self._gone:
                return reason
        return None

    def _with_dead_units(self) -> Ids:
        """The removal mask extended by the groups that appear on no remaining tensor."""
        touched = {name for node in self._gone for name in (*self._reads(self._node(node)), *self._node(node).outputs)}
        removed = self._removed
        for index in sorted({g for name in touched for g in self._cuts.groups.get(name, ())}):
            group = self._analysis.groups[index]
            if removed[group.units].all() or any(self._is_left(tensor) for tensor, _ in group.places):
                continue
            removed = removed.copy() if removed is self._removed else removed
            removed[group.units] = True
        return removed

    def _is_left(self, tensor: str) -> bool:
        """Whether a tensor still exists, perhaps as a constant."""
        if tensor in self._empty or tensor in self._constants:
            return tensor in self._constants
        producer = self._graph.producer.get(tensor)
        if producer is None:
            read = any(node.name not in self._gone for node in self._graph.consumers.get(tensor, ()))
            return read or tensor in self._cuts.outputs
        return producer.name not in self._gone


@dataclass(frozen=True, slots=True)
class _Known:
    """Values and shapes after one removal; implements `ops.base.Known`."""

    analysis: Analysis
    removed: Ids
    constants: Mapping[str, np.ndarray]

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a constant after removal.

        A tensor that became constant is a small array of the same rank that broadcasts to it.
        """
        if tensor in self.constants:
            return self.constants[tensor]
        value = self.analysis.value(tensor)
        return None if value is None else self.analysis.compressed(tensor, value, self.removed)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape before removal, at the batch size that was analysed."""
        return self.analysis.facts.shapes.get(tensor, ())

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """Element type of a tensor, as a numpy type."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.analysis.facts.dtypes[tensor]))

    def evaluate(self, node: Node) -> np.ndarray | None:
        """The node's first output, computed from constant inputs; None where that is not possible."""
        feeds = {name: self.value(name) for name in node.inputs if name}
        known = {name: value for name, value in feeds.items() if value is not None}
        results = evaluate(self.analysis.model, node, known, handler_of) if len(known) == len(feeds) else None
        return None if results is None else results[node.output()]

"""The analysis of a model: its graph, which channels must be removed together, and the exact cost after any removal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from onnxprune.core.costs import Costs, Countable, Sizes, Stored, counted
from onnxprune.core.errors import ModelError
from onnxprune.core.results import NotPruned
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.shapes import Facts
from onnxprune.ops.linear import Product, Recurrence
from onnxprune.ops.traits import ChannelUse
from onnxprune.structure.units import Group, Ids, Layer, Mask, Operation


@dataclass(frozen=True, slots=True, repr=False)
class Analysis:
    """A model, its graph, and the channels that can be removed from it.

    Attributes:
        model: the model.
        graph: its nodes.
        units: number of units; unit 0 is the fixed one.
        groups: prunable groups, in graph order.
        labels: units along each axis of each labelled tensor (None: axis without channels).
        constants: what is stored, by name.
        layers: layers with a constant weight that is a matrix or a filter, in graph order.
        operations: all nodes with multiply-adds, in graph order; the layers are among them.
        products: all products with constants or of two activations, in graph order.
        recurrences: recurrent layers, in graph order.
        masks: all places where consumers contract over units.
        not_pruned: what is frozen, and why.
        total: number of units, had nothing been frozen.
        facts: shapes and folded constants that the analysis used.
        uses: how kernels go through units, each use once.
        omitted: `(node, position)` of inputs that nodes can do without, and that removal leaves out.
        uncounted: nodes that sum products, but how many is not known.

    Example:
        ```python
        analysis = onnxprune.analyze("model.onnx")
        for group in analysis.groups:
            print(group.name, len(group), "channels, made by", group.producers)
        print(analysis.costs().macs, "multiply-adds for one row")
        ```
    """

    model: Model
    graph: Graph
    units: int
    groups: tuple[Group, ...]
    labels: Mapping[str, tuple[Ids | None, ...]]
    constants: Mapping[str, Stored]
    layers: tuple[Layer, ...]
    operations: tuple[Operation, ...]
    products: tuple[Product, ...]
    recurrences: tuple[Recurrence, ...]
    masks: tuple[Mask, ...]
    not_pruned: tuple[NotPruned, ...]
    total: int
    facts: Facts
    uses: tuple[tuple[ChannelUse, Ids], ...] = ()
    omitted: tuple[tuple[str, int], ...] = ()
    uncounted: tuple[Node, ...] = ()
    _by_node: Mapping[str, Operation] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_node", {operation.node: operation for operation in self.operations})

    def __repr__(self) -> str:
        return f"Analysis({self.name!r}: {self.prunable} of {self.total} units prunable, in {len(self.groups)} groups)"

    @property
    def name(self) -> str:
        """The model's name, as used in messages."""
        return self.model.name

    def value(self, name: str) -> np.ndarray | None:
        """Value of a constant, stored or computed from constants; None where the tensor depends on the input."""
        stored = self.model.constants.get(name)
        return self.facts.folded.get(name) if stored is None else stored

    def pinned_value(self, name: str) -> np.ndarray | None:
        """Value of a tensor that depends only on constants and on the analysed input sizes, else None."""
        value = self.value(name)
        if value is None and name in self.facts.sizes:
            value = self.facts.sizes[name].value
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor at the input sizes that were analysed.

        Raises:
            ModelError: it is not known before the model runs.
        """
        shape = self.facts.shapes.get(name)
        if shape is None:
            raise ModelError(
                f"{self.name}: the shape of {name!r} is not known before the model runs; "
                "use another --importance, or fix the model's input sizes"
            )
        return shape

    def with_model(self, model: Model) -> "Analysis":
        """The same analysis for a model of the same graph and shapes, but with other weights."""
        return self if model is self.model else replace(self, model=model)

    def with_facts(self, facts: Facts) -> "Analysis":
        """The same analysis with the shapes and values of other input sizes."""
        return self if facts is self.facts else replace(self, facts=facts)

    @property
    def prunable(self) -> int:
        """Number of prunable units. Of each group, at least one must stay."""
        return sum(len(group) for group in self.groups)

    @property
    def row_bytes(self) -> int:
        """Memory, in bytes, of the largest activation for one input row, counted as float32."""
        sizes = [prod(shape) for name, shape in self.facts.shapes.items() if name not in self.constants]
        return 4 * max(sizes, default=1) // max(1, self.facts.batch)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """What the count of multiply-adds leaves out, in a sentence; none where it is complete."""
        if not self.uncounted:
            return ()
        more = f" and {len(self.uncounted) - 1} more" if len(self.uncounted) > 1 else ""
        it = "them" if more else "it"
        return (
            f"MACs leave out {self.uncounted[0]}{more}, which cannot be counted; a budget on MACs does not see {it}",
        )

    def none_removed(self) -> Ids:
        """The removal mask `(units,)` that removes nothing (all False)."""
        return np.zeros(self.units, dtype=bool)

    def removal(self, removed: Mapping[str, Sequence[int]]) -> Ids:
        """The removal mask `(units,)` for the given positions within each named group.

        Raises:
            KeyError: an unknown group.
        """
        mask = self.none_removed()
        by_name = {group.name: group for group in self.groups}
        for name, positions in removed.items():
            mask[by_name[name].units[np.asarray(positions, dtype=np.int64)]] = True
        return mask

    def kept(self, removed: Ids) -> tuple[int, ...]:
        """Number of units that each group keeps under a removal mask."""
        return tuple(int(np.count_nonzero(~removed[group.units])) for group in self.groups)

    def same_copies(self, removed: Ids) -> set[str]:
        """Copies of constants (see `graph.separate`) that lose the same positions as the original does."""
        copies = set()
        for copy, original in self.model.copies.items():
            if copy in self.constants and original in self.constants:
                pair = [
                    [None if ids is None else removed[ids] for ids in self.labels.get(name, ())]
                    for name in (copy, original)
                ]
                gone = [[mask for mask in axes if mask is not None and mask.any()] for axes in pair]
                if len(gone[0]) == len(gone[1]) and all(map(np.array_equal, *gone)):
                    copies.add(copy)
        return copies

    def shape_after(self, tensor: str, shape: Sequence[int], removed: Ids) -> tuple[int, ...]:
        """Shape that a tensor has once the units of a removal mask are gone."""
        axes = self.labels.get(tensor, (None,) * len(shape))
        return tuple(
            int(size) if ids is None else int(np.count_nonzero(~removed[ids]))
            for size, ids in zip(shape, axes, strict=True)
        )

    def compressed(self, tensor: str, array: np.ndarray, removed: Ids) -> np.ndarray:
        """The positions of a labelled tensor that stay."""
        for axis, ids in enumerate(self.labels.get(tensor, ())):
            if ids is not None and removed[ids].any():
                array = np.compress(~removed[ids], array, axis=axis)
        return array

    def macs(self, operation: Operation, removed: Ids) -> int:
        """Multiply-adds (MACs) of a node for one input row, after a removal."""
        total = sum(
            prod(f if isinstance(f, int) else int(np.count_nonzero(~removed[f])) for f in factors)
            for factors in operation.terms
        )
        return total // max(1, self.facts.batch)

    def group_macs(self, group: Group, removed: Ids) -> int:
        """Multiply-adds of the nodes that sum over a group's channels, after a removal."""
        return sum(self.macs(self._by_node[node], removed) for node in group.consumers if node in self._by_node)

    def params(self, operation: Operation, removed: Ids) -> int:
        """Number of elements in a node's weights and bias, after a removal."""
        return sum(prod(self.shape_after(name, self.shape(name), removed)) for name in operation.weights)

    def width(self, operation: Operation, removed: Ids) -> int:
        """Number of output channels of a node, after a removal; 0 where it is not known."""
        shape = self.facts.shapes.get(operation.output)
        if shape is None or not -len(shape) <= operation.axis < len(shape):
            return 0
        return self.shape_after(operation.output, shape, removed)[operation.axis]

    def costs(self, removed: Ids | None = None) -> Costs:
        """Exact costs of the model after a removal; of the original by default."""
        mask = self.none_removed() if removed is None else removed
        return counted(
            self.countable(self.operations, self.constants.keys() - self.same_copies(mask)),
            self.facts.batch,
            lambda size: size if isinstance(size, int) else int(np.count_nonzero(~mask[size])),
        )

    def countable(
        self, operations: Sequence[Operation] | None = None, constants: Iterable[str] | None = None
    ) -> Countable:
        """What costs are counted on.

        Args:
            operations: those that count; all by default.
            constants: names of those that count; all by default.
        """
        operations = self.operations if operations is None else operations
        names = self.constants if constants is None else constants
        return Countable(
            [sizes for operation in operations for sizes in operation.terms],
            [(self.constants[name], self.axes(name)) for name in names],
        )

    def axes(self, constant: str) -> Sizes:
        """The sizes of a constant's axes: units where it has channels, numbers elsewhere."""
        shape = self.constants[constant].shape
        labels = self.labels.get(constant, (None,) * len(shape))
        return tuple(size if ids is None else ids for size, ids in zip(shape, labels, strict=True))

"""What can be pruned: units, groups, layers, and exact costs. Plain arrays, no protobuf; picklable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.core.costs import Costs
from onnxprune.core.results import NotPruned
from onnxprune.graph.shapes import Facts
from onnxprune.ops.window import Window

Ids = np.ndarray


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator that contracts over channels with a constant weight (Conv, ConvTranspose, Gemm, MatMul).

    Attributes:
        node: the node's name.
        op_type: its operator.
        input: the contracted activation.
        weight: the weight's tensor name.
        bias: the bias' tensor name; None where the operator has no constant bias (a later Add may still be one).
        output: the result.
        in_axis: the weight's axis that is contracted.
        out_axis: the weight's axis of output channels.
        input_axis: the contracted axis of `input`.
        output_axis: the axis of `output` that carries `out_axis`.
        group: number of convolution groups.
        window: geometry for Conv and ConvTranspose, else None.
        transposed: ConvTranspose.
        factors: MACs at batch 1 are the product over these: a number, or the units along an axis (kept ones count).
    """

    node: str
    op_type: str
    input: str
    weight: str
    bias: str | None
    output: str
    in_axis: int
    out_axis: int
    input_axis: int
    output_axis: int
    group: int
    window: Window | None
    transposed: bool
    factors: tuple[int | Ids, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Units that appear in the same places, hence cost the same.

    Attributes:
        name: the first producer's name (made unique).
        units: unit numbers, in the order of their channels.
        producers: nodes that make the units' values.
        consumers: nodes that contract over them.
        places: `(tensor, axis)` where the units appear.
    """

    name: str
    units: Ids
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    places: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True)
class Stored:
    """A constant as stored: shape, bytes per element, and whether it counts in `Costs.params` and `Costs.bytes`."""

    shape: tuple[int, ...]
    itemsize: int
    is_float: bool
    is_weight: bool


@dataclass(frozen=True, slots=True)
class Mask:
    """Where a removed unit is seen as zero: `axis` of `tensor`, read by `node`, with one unit per position."""

    node: str
    tensor: str
    axis: int
    units: Ids


@dataclass(frozen=True, slots=True)
class PruneSpace:
    """The result of analysis.

    Attributes:
        model: the model's name, for messages.
        units: number of units; unit 0 is the fixed one.
        groups: prunable groups, in graph order.
        labels: units along each axis of each labelled tensor (None: axis without channels).
        constants: what is stored, by name.
        layers: contracting operators, in graph order.
        masks: all places where consumers contract over units.
        not_pruned: what is frozen, and why.
        total: number of units, had nothing been frozen.
        facts: shapes and folded constants that the analysis used.
    """

    model: str
    units: int
    groups: tuple[Group, ...]
    labels: Mapping[str, tuple[Ids | None, ...]]
    constants: Mapping[str, Stored]
    layers: tuple[Layer, ...]
    masks: tuple[Mask, ...]
    not_pruned: tuple[NotPruned, ...]
    total: int
    facts: Facts

    @property
    def prunable(self) -> int:
        """Number of units that may be removed (each group keeps at least one)."""
        return sum(len(group) for group in self.groups)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's largest computed tensor, at four bytes an element."""
        sizes = [prod(shape) for name, shape in self.facts.shapes.items() if name not in self.constants]
        return 4 * max(sizes, default=1) // max(1, self.facts.batch)

    def none_removed(self) -> Ids:
        """`(units,)` mask in which nothing is removed."""
        return np.zeros(self.units, dtype=bool)

    def removal(self, removed: Mapping[str, Sequence[int]]) -> Ids:
        """`(units,)` mask from positions per group name.

        Raises:
            KeyError: an unknown group.
        """
        mask = self.none_removed()
        by_name = {group.name: group for group in self.groups}
        for name, positions in removed.items():
            mask[by_name[name].units[np.asarray(positions, dtype=np.int64)]] = True
        return mask

    def kept(self, removed: Ids) -> tuple[int, ...]:
        """Kept units per group."""
        return tuple(int(np.count_nonzero(~removed[group.units])) for group in self.groups)

    def shape_after(self, tensor: str, shape: Sequence[int], removed: Ids) -> tuple[int, ...]:
        """Shape of a tensor once units are removed."""
        axes = self.labels.get(tensor, (None,) * len(shape))
        return tuple(
            int(size) if ids is None else int(np.count_nonzero(~removed[ids]))
            for size, ids in zip(shape, axes, strict=True)
        )

    def layer_macs(self, layer: Layer, removed: Ids) -> int:
        """Multiply-adds of a layer at batch 1."""
        return prod(f if isinstance(f, int) else int(np.count_nonzero(~removed[f])) for f in layer.factors)

    def layer_params(self, layer: Layer, removed: Ids) -> int:
        """Elements of a layer's weight and bias."""
        names = [name for name in (layer.weight, layer.bias) if name is not None and name in self.constants]
        return sum(prod(self.shape_after(name, self.constants[name].shape, removed)) for name in names)

    def costs(self, removed: Ids | None = None) -> Costs:
        """Costs with the masked units removed (none by default). Exact."""
        removed = self.none_removed() if removed is None else removed
        sizes = {name: prod(self.shape_after(name, s.shape, removed)) for name, s in self.constants.items()}
        weights = {name for name, stored in self.constants.items() if stored.is_weight}
        return Costs(
            params=sum(size for name, size in sizes.items() if self.constants[name].is_float),
            macs=sum(self.layer_macs(layer, removed) for layer in self.layers),
            bytes=sum(sizes[name] * self.constants[name].itemsize for name in weights),
        )

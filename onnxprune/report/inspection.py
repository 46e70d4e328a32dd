"""The content of the `inspect` report: costs per layer, groups, the smallest possible model, and what must stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.core.costs import Costs
from onnxprune.core.results import InputSize, NotPruned
from onnxprune.graph.sizes import input_sizes
from onnxprune.outputs.meaning import KINDS, Meaning
from onnxprune.outputs.not_by_row import not_by_row
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.heads import head_groups

if TYPE_CHECKING:
    from onnxprune.config import OutputConfig
    from onnxprune.graph.operators import Shape
    from onnxprune.graph.sizes import Given
    from onnxprune.structure.analysis import Analysis
    from onnxprune.structure.units import Layer, Operation


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: its channels, costs, and which share of its channels is prunable."""

    node: str
    op_type: str
    inputs: int
    outputs: int
    macs: int
    params: int
    inputs_prunable: bool
    outputs_prunable: bool


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group; `macs` are those of the layers that contract over its units, each a channel or a head (`kind`)."""

    name: str
    units: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    macs: int
    kind: str = "channel"


@dataclass(frozen=True, slots=True)
class OutputRow:
    """What one part of an output is recognised as; `beside` names outputs with scores that weigh it."""

    output: str
    kind: str
    columns: int
    positions: tuple[int, ...]
    weight: float
    beside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What can be pruned in a model.

    Attributes:
        model: its name.
        costs: of the model.
        floor: costs with one unit left in each group.
        units: channels in all; `prunable` of them may go.
        prunable: see above.
        layers: nodes with multiply-adds, in graph order.
        groups: in graph order.
        not_pruned: what stays and why.
        op_types: operator by node name, for `not_pruned`.
        outputs: what the outputs are taken for.
        sizes: the sizes of inputs that the file leaves open, as they were taken.
        notes: what was put right when the file was read, and what is not counted.
        warnings: what makes the model, or figures of the data, something else than they seem.
    """

    model: str
    costs: Costs
    floor: Costs
    units: int
    prunable: int
    layers: tuple[LayerRow, ...]
    groups: tuple[GroupRow, ...]
    not_pruned: tuple[NotPruned, ...]
    op_types: dict[str, str]
    outputs: tuple[OutputRow, ...]
    notes: tuple[str, ...] = ()
    sizes: tuple[InputSize, ...] = ()
    warnings: tuple[str, ...] = ()


def inspection(
    analysis: "Analysis",
    outputs: "OutputConfig | None" = None,
    shapes: "Given" = (),
    data: "Mapping[str, Shape] | None" = None,
    notes: Iterable[str] = (),
    warnings: Iterable[str] = (),
) -> Inspection:
    """Collect what `inspect` shows.

    Args:
        analysis: of the model.
        outputs: what the user says of outputs.
        shapes: what the user says of sizes.
        data: shapes of one row, by input, where there are data.
        notes: what is said of the data.
        warnings: what is to be feared of the data.
    """
    nothing = analysis.none_removed()
    most = analysis.removal({group.name: range(1, len(group)) for group in analysis.groups})
    layers, heads = {layer.node: layer for layer in analysis.layers}, head_groups(analysis)
    return Inspection(
        model=analysis.name,
        costs=analysis.costs(),
        floor=analysis.costs(most),
        units=analysis.total,
        prunable=analysis.prunable,
        layers=tuple(
            _layer(analysis, operation, layers.get(operation.node), analysis.macs(operation, nothing))
            for operation in analysis.operations
        ),
        groups=tuple(
            GroupRow(
                name=group.name,
                units=len(group),
                producers=group.producers,
                consumers=group.consumers,
                macs=analysis.group_macs(group, nothing),
                kind="head" if group.name in heads else "channel",
            )
            for group in analysis.groups
        ),
        not_pruned=analysis.not_pruned,
        op_types={node.name: node.op_type for node in analysis.graph.nodes},
        notes=(*analysis.model.notes, *analysis.incomplete, *notes),
        outputs=_outputs(read_meaning(analysis, outputs)),
        sizes=input_sizes(analysis.model, analysis.facts.shapes, shapes, data),
        warnings=(*not_by_row(analysis, outputs), *warnings),
    )


def _outputs(meaning: Meaning) -> tuple[OutputRow, ...]:
    return tuple(
        OutputRow(
            output=part.output,
            kind=KINDS[part.kind],
            columns=part.width,
            positions=part.positions,
            weight=weight,
            beside=tuple(dict.fromkeys(meaning.parts[number].output for number in part.confidence)),
        )
        for part, weight in zip(meaning.parts, meaning.weights, strict=True)
    )


def _layer(analysis: "Analysis", operation: "Operation", layer: "Layer | None", macs: int) -> LayerRow:
    """Widths are those of the weight where it is a matrix or a filter, else those of what is read and made."""
    if layer is None:
        read, made = ((name, operation.axis) for name in (operation.input, operation.output))
        repeats = 1, 1
    else:
        read, made = (layer.weight, layer.in_axis), (layer.weight, layer.out_axis)
        repeats = (1, layer.group) if layer.transposed else (layer.group, 1)
    return LayerRow(
        node=operation.node,
        op_type=operation.op_type,
        inputs=_width(analysis, *read) * repeats[0],
        outputs=_width(analysis, *made) * repeats[1],
        macs=macs,
        params=analysis.params(operation, analysis.none_removed()),
        inputs_prunable=_is_prunable(analysis, *(read if repeats[0] == 1 else (operation.input, operation.axis))),
        outputs_prunable=_is_prunable(analysis, *(made if repeats[1] == 1 else (operation.output, operation.axis))),
    )


def _width(analysis: "Analysis", tensor: str, axis: int) -> int:
    shape = analysis.shape(tensor)
    return shape[axis] if shape else 1


def _is_prunable(analysis: "Analysis", tensor: str, axis: int) -> bool:
    axes = analysis.labels.get(tensor)
    ids = axes[axis] if axes else None
    return ids is not None and bool(ids.any())

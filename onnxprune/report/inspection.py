"""The content of the `inspect` report: costs per layer, groups, the smallest possible model, and what must stay."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.core.costs import Costs
from onnxprune.core.results import NotPruned
from onnxprune.outputs.meaning import KINDS, Meaning
from onnxprune.outputs.reading import read_meaning

if TYPE_CHECKING:
    from onnxprune.config import OutputConfig
    from onnxprune.structure.analysis import Analysis
    from onnxprune.structure.units import Layer


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
    """One group; `macs` are those of the layers that contract over its channels."""

    name: str
    units: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    macs: int


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
        layers: contracting operators, in graph order.
        groups: in graph order.
        not_pruned: what stays and why.
        op_types: operator by node name, for `not_pruned`.
        outputs: what the outputs are taken for.
        notes: what was put right when the file was read, and what is not counted.
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


def inspection(analysis: "Analysis", outputs: "OutputConfig | None" = None) -> Inspection:
    """Collect what `inspect` shows.

    Args:
        analysis: of the model.
        outputs: what the user says of outputs.
    """
    nothing = analysis.none_removed()
    most = analysis.removal({group.name: range(1, len(group)) for group in analysis.groups})
    return Inspection(
        model=analysis.name,
        costs=analysis.costs(),
        floor=analysis.costs(most),
        units=analysis.total,
        prunable=analysis.prunable,
        layers=tuple(_layer(analysis, layer, analysis.layer_macs(layer, nothing)) for layer in analysis.layers),
        groups=tuple(
            GroupRow(
                name=group.name,
                units=len(group),
                producers=group.producers,
                consumers=group.consumers,
                macs=analysis.group_macs(group, nothing),
            )
            for group in analysis.groups
        ),
        not_pruned=analysis.not_pruned,
        op_types={node.name: node.op_type for node in analysis.graph.nodes},
        notes=(*analysis.model.notes, *analysis.incomplete),
        outputs=_outputs(read_meaning(analysis, outputs)),
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


def _layer(analysis: "Analysis", layer: "Layer", macs: int) -> LayerRow:
    shape = analysis.shape(layer.weight)
    labels = analysis.labels.get(layer.weight, (None,) * len(shape))
    prunable = [ids is not None and bool(ids.any()) for ids in labels]
    grouped_inputs = 1 if layer.transposed else layer.group
    return LayerRow(
        node=layer.node,
        op_type=layer.op_type,
        inputs=shape[layer.in_axis] * grouped_inputs,
        outputs=shape[layer.out_axis] * (layer.group if layer.transposed else 1),
        macs=macs,
        params=analysis.layer_params(layer, analysis.none_removed()),
        inputs_prunable=prunable[layer.in_axis],
        outputs_prunable=prunable[layer.out_axis],
    )

"""A model as scoring and repair run it: weights that nodes compute are stored, recurrent layers hand out all states."""

from dataclasses import replace
from itertools import chain

from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.ops.linear import Recurrence
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


def completed(analysis: Analysis) -> Analysis:
    """The analysis of a model that computes the same, in which every layer's weight is a constant of its own.

    Nodes keep their names. Where nothing is missing, the analysis is given back as it is.
    """
    constants, folded = analysis.model.constants, analysis.facts.folded
    recurrent = chain.from_iterable((r.weight, r.recurrent, r.bias) for r in analysis.recurrences)
    weights = {name for name in (*(layer.weight for layer in analysis.layers), *recurrent) if name}
    stored = sorted(name for name in weights if name not in constants and name in folded)
    silent = [recurrence for recurrence in analysis.recurrences if not recurrence.output]
    if not stored and not silent:
        return analysis
    edit = GraphEdit(analysis.model, analysis.graph)
    for name in stored:
        edit.set_value(name, folded[name])
    nodes = {node.name: node for node in analysis.graph.nodes}
    names = {recurrence.node: edit.fresh_name(f"{recurrence.node}_states") for recurrence in silent}
    for node, name in names.items():
        edit.hand_out(nodes[node], 0, name)
    model = edit.apply()
    return replace(
        analysis,
        model=model,
        graph=_in(model, analysis.graph, names),
        recurrences=tuple(replace(r, output=names.get(r.node, r.output)) for r in analysis.recurrences),
        labels={**analysis.labels, **{names[r.node]: _labels(analysis, r) for r in silent}},
    )


def _labels(analysis: Analysis, recurrence: Recurrence) -> tuple[Ids | None, ...]:
    return None, None, None, analysis.labels[recurrence.recurrent][2]


def _in(model: Model, graph: Graph, handed_out: dict[str, str]) -> Graph:
    """The graph's nodes where they stand in an edited model."""
    position = {o: index for index, node in enumerate(model.proto.graph.node) for o in node.output if o}
    nodes = []
    for node in graph.nodes:
        outputs = (handed_out[node.name], *node.outputs[1:]) if node.name in handed_out else node.outputs
        index = next((position[o] for o in outputs if o in position), None)
        if index is not None:
            nodes.append(replace(node, index=index, outputs=outputs))
    consumers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in dict.fromkeys((*node.inputs, *node.captured)):
            if name:
                consumers.setdefault(name, []).append(node)
    return Graph(
        nodes=tuple(nodes),
        inputs=graph.inputs,
        outputs=graph.outputs,
        producer={name: node for node in nodes for name in node.outputs if name},
        consumers={name: tuple(users) for name, users in consumers.items()},
    )

"""Says so where outputs depend on more than their row: on the other rows, as in training mode, or on random numbers."""

from collections.abc import Sequence

from onnxprune.core.text import several
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis


def not_by_row(analysis: Analysis) -> tuple[str, ...]:
    """A warning where nodes take their statistics from each batch, as in training, or draw numbers; else nothing."""
    warnings = []
    nodes = analysis.graph.nodes
    if trains := [node for node in nodes if handler_of(node.op_type).trains(node)]:
        warnings.append(
            f"{analysis.name} was exported in training mode: the results of {_named(trains)} for a row depend on the "
            "other rows of a run; export the model after model.eval()"
        )
    draws = [node for node in nodes if node not in trains and not handler_of(node.op_type).deterministic(node)]
    if draws:
        warnings.append(
            f"{analysis.name} may draw random numbers in every run ({_named(draws)}): repair and figures are about "
            "these too; export it without, or with the numbers as an input"
        )
    return tuple(warnings)


def _named(nodes: Sequence[Node]) -> str:
    return f"{nodes[0]} and {several(len(nodes) - 1, 'more node')}" if len(nodes) > 1 else str(nodes[0])

"""Says so where figures of outputs say less than they seem to.

Where outputs depend on more than their row (on the other rows, as in training mode, or on random numbers), or hold a
set whose entries cannot be matched.
"""

from collections.abc import Sequence

from onnxprune.config import OutputConfig
from onnxprune.core.text import several
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.sets import not_matched
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import sorted_within


def not_by_row(analysis: Analysis, config: OutputConfig | None = None) -> tuple[str, ...]:
    """Warnings where nodes take their statistics from each batch, as in training, draw numbers, or sort entries.

    Args:
        analysis: of the model.
        config: what the user says of its outputs.
    """
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
    meaning = read_meaning(analysis, config) if sorted_within(analysis) else None
    if meaning is not None and (sorts := not_matched(meaning.parts, meaning.sets, analysis)):
        warnings.append(
            f"{analysis.name} sorts by value what layers go on with ({_named(sorts)}): outputs are compared place by "
            "place, and entries that change places count as errors, so that losses look larger than they are, and "
            "floors stop early; a --metric that matches entries tells more"
        )
    return tuple(warnings)


def _named(nodes: Sequence[Node]) -> str:
    return f"{nodes[0]} and {several(len(nodes) - 1, 'more node')}" if len(nodes) > 1 else str(nodes[0])

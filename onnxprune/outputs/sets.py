"""Which outputs list the entries of a set in an order that values decide, as the queries of a detector."""

from collections.abc import Sequence

from onnxprune.graph.nodes import Node
from onnxprune.outputs.meaning import EntrySet, Part
from onnxprune.outputs.rows import row_axis
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import behind, sorted_within


def sets_of(parts: Sequence[Part], analysis: Analysis) -> tuple[EntrySet, ...]:
    """The sets that parts tell the entries of: those that have one position for each that was sorted.

    Args:
        parts: of all outputs.
        analysis: of the model.
    """
    sizes, found = sorted_within(analysis), []
    for node, axes in _listed(parts, sizes, analysis).items():
        telling = [n for n, p in enumerate(parts) if p.output in axes and p.positions and p.count == sizes[node]]
        if telling:
            found.append(EntrySet(tuple(telling), axes, node.name))
    return tuple(found)


def not_matched(parts: Sequence[Part], sets: Sequence[EntrySet], analysis: Analysis) -> list[Node]:
    """The nodes that sort the entries of outputs which nothing tells apart; arguments as in `sets_of`."""
    matched = {each.sort for each in sets}
    return [node for node in _listed(parts, sorted_within(analysis), analysis) if node.name not in matched]


def _listed(parts: Sequence[Part], sizes: dict[Node, int], analysis: Analysis) -> dict[Node, dict[str, int]]:
    """The outputs that list what a node sorted, with the axis of the entries: each by the last such node before it."""
    after = {node: behind([node], analysis) for node in sizes}
    listed: dict[Node, dict[str, int]] = {}
    for part in parts:
        if not part.axis and part.columns is not None:
            continue
        for node in reversed(sizes):
            axes = _axes(part, sizes[node], analysis) if part.output in after[node] else []
            if axes:
                listed.setdefault(node, {}).setdefault(part.output, axes[0])
                break
    return listed


def _axes(part: Part, size: int, analysis: Analysis) -> list[int]:
    """The axes of a part's output, rows first, that have an entry for each of a set."""
    shape, rows = analysis.facts.shapes.get(part.output, ()), row_axis(part.output, analysis)
    lengths = [length for axis, length in enumerate(shape) if axis != rows]
    return [axis for axis, length in enumerate(lengths, 1) if axis != part.axis and length == size]

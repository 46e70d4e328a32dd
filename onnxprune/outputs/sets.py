"""Which outputs list the entries of a set in an order that values decide, as the queries of a detector."""

from collections.abc import Sequence

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
    after: dict[int, set[str]] = {}
    for node in sorted_within(analysis):
        for size in analysis.facts.shapes[node.output()][1:]:
            if size > 1:
                after.setdefault(size, set()).update(behind([node], analysis))
    found = []
    for size, tensors in after.items():
        listing = [part for part in parts if part.output in tensors and (part.axis > 0 or part.columns is None)]
        axes = {part.output: along[0] for part in listing if (along := _axes(part, size, analysis))}
        telling = [n for n, part in enumerate(parts) if part.output in axes and part.positions and part.count == size]
        if telling:
            found.append(EntrySet(tuple(telling), axes))
    return tuple(found)


def _axes(part: Part, size: int, analysis: Analysis) -> list[int]:
    """The axes of a part's output, rows first, that have an entry for each of a set."""
    shape, rows = analysis.facts.shapes.get(part.output, ()), row_axis(part.output, analysis)
    lengths = [length for axis, length in enumerate(shape) if axis != rows]
    return [axis for axis, length in enumerate(lengths, 1) if axis != part.axis and length == size]

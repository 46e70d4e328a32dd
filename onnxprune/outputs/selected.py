"""Outputs that are selected by value, such as the detections that NonMaxSuppression leaves, and what stands in front.

How many values such an output has, or which of them stand first, depends on the values: a tiny change of one score adds
or drops a whole entry, or makes two change places. So two models are not compared there but in front: on the scores and
boxes that are selected from.
"""

from collections.abc import Collection, Iterable

import onnx

from onnxprune.ops import handler_of
from onnxprune.outputs.rows import row_axis
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import layers_behind, ordered_by_value, selected_by_value

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)


def in_front(
    outputs: Iterable[str], analysis: Analysis, as_they_are: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The tensors of floating-point type that outputs are selected from, by output.

    Args:
        outputs: names of outputs.
        analysis: of the model.
        as_they_are: those to leave as they are where possible: where values decide their order alone.

    Returns:
        Those outputs alone whose size or order depends on values, and which no layers make behind the selection.
    """
    number, order = selected_by_value(analysis), ordered_by_value(analysis)
    found = {
        name: _before(name, number | order, analysis)
        for name in outputs
        if name in number or (name in order and name not in as_they_are and _shows_order(name, order, analysis))
    }
    return {name: tensors for name, tensors in found.items() if tensors}


def _shows_order(output: str, order: frozenset[str], analysis: Analysis) -> bool:
    """Whether an output holds what was sorted, place by place, instead of a sum or mean of it."""
    shapes, needed = analysis.facts.shapes, _needed(output, analysis)
    rows, shape = row_axis(output, analysis), shapes.get(output, ())
    lengths: set[int] = set()
    for node in analysis.graph.nodes:
        if node.name in needed and handler_of(node.op_type).selects and order.intersection(node.outputs):
            taken, left = shapes.get(node.input(0), ()), shapes.get(node.output(), ())
            lengths.update([new for old, new in zip(taken, left, strict=False) if new != old] or left[1:])
    return any(size in lengths and size > 1 for axis, size in enumerate(shape) if axis != rows)


def _before(output: str, behind: frozenset[str], analysis: Analysis) -> tuple[str, ...]:
    """What one output is selected from; () where layers follow the selection. `behind` is what it may have made."""
    graph, between = analysis.graph, _needed(output, analysis)
    if any(node.name in between for node in layers_behind(behind, analysis)):
        return ()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in between and behind.intersection(node.outputs):
            read = (name for name in (*node.inputs, *node.captured) if name not in behind)
            found.update(dict.fromkeys(_floats(read, analysis)))
    made_from = {name: _needed(name, analysis) for name in found}
    return tuple(
        name
        for name in found
        if not any(
            other != name
            and graph.producer[other].name in made_from[name]
            and graph.producer[name].name not in made_from[other]
            for other in found
        )
    )


def _with_positions(tensor: str, analysis: Analysis) -> str:
    """A tensor before its classes and positions were flattened into one vector a row; itself where they were not."""
    shapes, node = analysis.facts.shapes, analysis.graph.producer.get(tensor)
    while node is not None and handler_of(node.op_type).is_view and len(shapes[tensor]) < 3:
        before = node.input(0)
        if len(shapes.get(before, ())) <= len(shapes[tensor]) or before not in analysis.graph.producer:
            break
        tensor, node = before, analysis.graph.producer[before]
    return tensor


def _needed(tensor: str, analysis: Analysis) -> set[str]:
    """Names of the nodes that a tensor depends on."""
    needed, waiting = set[str](), [tensor]
    while waiting:
        node = analysis.graph.producer.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting += filter(None, (*node.inputs, *node.captured))
    return needed


def _floats(tensors: Iterable[str], analysis: Analysis) -> list[str]:
    """The nearest computed tensors of floating-point type that some tensors are made of; themselves where they are.

    Not such as comparisons of values decided about: all but the peaks of a map set to 0, say. There is the whole map.
    """
    found, waiting, seen = list[str](), [*tensors], set[str]()
    while waiting:
        tensor = waiting.pop(0)
        node = analysis.graph.producer.get(tensor)
        if node is None or tensor in seen or analysis.pinned_value(tensor) is not None:
            continue
        seen.add(tensor)
        if tensor not in analysis.facts.shapes:
            continue
        if analysis.facts.dtypes.get(tensor) not in FLOATS:
            waiting += node.inputs
            continue
        tensor = _with_positions(tensor, analysis)
        inputs = analysis.graph.producer[tensor].inputs
        if any(_decides(name, analysis) for name in inputs):
            waiting += inputs
        else:
            found.append(tensor)
    return found


def _decides(tensor: str, analysis: Analysis) -> bool:
    """Whether a tensor holds comparisons of computed values, as truth or as numbers."""
    floats, node = _is_float(tensor, analysis), analysis.graph.producer.get(tensor)
    if node is None or analysis.pinned_value(tensor) is not None:
        return False
    if not floats:
        return any(_is_float(name, analysis) or _decides(name, analysis) for name in node.inputs)
    cast = not any(_is_float(name, analysis) for name in node.inputs)
    return cast and any(_decides(name, analysis) for name in node.inputs)


def _is_float(tensor: str, analysis: Analysis) -> bool:
    """Whether a tensor is computed, and of floating-point type."""
    computed = tensor in analysis.graph.producer and analysis.pinned_value(tensor) is None
    return computed and analysis.facts.dtypes.get(tensor) in FLOATS

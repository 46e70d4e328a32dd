"""Outputs of whole numbers: classes that a network chose by their scores, and values that it rounded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import layers_behind

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)
_MOST_SCORES = 1 << 22  # of a row: of larger maps the classes alone are compared, which take less memory


@dataclass(frozen=True, slots=True)
class Scores:
    """A tensor with a score for each class along an axis."""

    tensor: str
    axis: int


def chosen_from(output: str, analysis: Analysis) -> Scores | None:
    """The scores that an output of class numbers tells the largest of; None for other outputs."""
    node = _maker(output, analysis, _picks)
    if node is None or node.input(0) not in analysis.graph.producer:  # the model makes no scores
        return None
    if analysis.facts.dtypes.get(node.input(0)) not in FLOATS:
        return None
    shape = analysis.facts.shapes.get(node.input(0))
    if shape is None or prod(shape) > _MOST_SCORES:
        return None
    return Scores(node.input(0), node.int("axis", 0) % len(shape))


def rounded(numbers: Sequence[str], floats: Sequence[str], analysis: Analysis) -> list[str]:
    """The outputs of whole numbers that are nothing but rounded, as the pixels of an image, of values of their own.

    Args:
        numbers: outputs of whole numbers.
        floats: what is compared anyway; what follows from one of these says no more.
        analysis: of the model.
    """
    return [
        name
        for name in numbers
        if _is_rounded(name, analysis) and not any(_is_made_of(name, tensor, analysis) for tensor in floats)
    ]


def _is_rounded(output: str, analysis: Analysis) -> bool:
    """Whether a node rounds what an output holds, which are no class numbers in front of it."""
    dtypes, shapes = analysis.facts.dtypes, analysis.facts.shapes

    def rounds(node: Node) -> bool:
        handler, read, made = handler_of(node.op_type), node.input(0), node.output()
        quantises = handler.jumps(node) and not _picks(node) and shapes.get(made) == shapes.get(read)
        quantises &= dtypes.get(made) not in (*FLOATS, onnx.TensorProto.BOOL)
        return dtypes.get(read) in FLOATS and (node.op_type in handler.converts or quantises)

    node = _maker(output, analysis, rounds, moved=True)
    return node is not None and _maker(node.input(0), analysis, _picks, moved=True) is None


def _picks(node: Node) -> bool:
    return node.op_type in handler_of(node.op_type).picks


def in_front_of_choices(numbers: Sequence[str], floats: Sequence[str], analysis: Analysis) -> dict[str, str]:
    """The scores that outputs of class numbers tell the largest of, by output, unless they are put out anyway.

    Those that tell no more of these scores, as how high the largest is, have them in front too.

    Args:
        numbers: outputs that may be class numbers.
        floats: those of floating-point type.
        analysis: of the model.
    """
    found = {name: scores.tensor for name in numbers if (scores := chosen_from(name, analysis))}
    shapes, tensors = analysis.facts.shapes, [*dict.fromkeys(found.values())]
    made = [(name, tensor) for tensor in tensors for name in floats if _is_made_of(name, tensor, analysis)]
    shown = {tensor for name, tensor in made if shapes.get(name) == shapes[tensor]} | {*floats}
    found |= dict(made)
    return {name: tensor for name, tensor in found.items() if tensor not in shown}


def _is_made_of(output: str, tensor: str, analysis: Analysis) -> bool:
    """Whether an output follows from one tensor alone, without layers between."""
    nodes = analysis.graph.nodes
    before = {node.name for node in needed_nodes(nodes, [tensor])}
    between = [node for node in needed_nodes(nodes, [output]) if node.name not in before]
    inner = {name for node in between for name in node.outputs} | {tensor}
    reads = {name for node in between for name in node.reads if analysis.pinned_value(name) is None}
    weighing = {node.name for node in layers_behind(inner, analysis)}
    return bool(between) and reads <= inner and weighing.isdisjoint(node.name for node in between)


def _maker(output: str, analysis: Analysis, is_wanted: Callable[[Node], bool], *, moved: bool = False) -> Node | None:
    """The node of a kind that makes an output, but for its shape, name and element type.

    Args:
        output: the output.
        analysis: of the model.
        is_wanted: whether a node is of the kind.
        moved: whether values may have been moved too, as from one order of axes to another.
    """
    node = analysis.graph.producer.get(output)
    while node is not None and not is_wanted(node):
        handler = handler_of(node.op_type)
        passes = handler.is_view or node.op_type in (*handler.aliases, *handler.converts)
        if moved and handler.moves(node) == (0,):
            passes = all(analysis.pinned_value(name) is not None for name in node.inputs[1:] if name)
        node = analysis.graph.producer.get(node.input(0)) if passes else None
    return node

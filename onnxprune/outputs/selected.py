"""Outputs that are selected by value, such as the detections that NonMaxSuppression leaves, and what stands in front.

How many values such an output has, or which of them stand first, depends on the values: a tiny change of one score adds
or drops a whole entry, or makes two change places. So two models are not compared there but in front: on the scores and
boxes that are selected from.
"""

from collections.abc import Collection, Iterable, Sequence

import onnx

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, read_graph
from onnxprune.graph.order import needed_nodes
from onnxprune.ops import handler_of
from onnxprune.outputs.numbers import FLOATS, in_front_of_choices
from onnxprune.outputs.sorting import shows_order
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import behind, last_sorts, layers_behind, selected_by_value


def in_front(
    outputs: Sequence[str], analysis: Analysis, as_they_are: Collection[str] = (), *, sorted_too: bool = True
) -> dict[str, tuple[str, ...]]:
    """The tensors of floating-point type that outputs are selected from, by output.

    Of whole numbers among the outputs, classes that were chosen by their scores have these in front. Others (places,
    counts) say nothing that is not in front of the others: they have nothing in front where another output is of
    floating-point type. Nor has what is compared anyway, at another output.

    Args:
        outputs: names of outputs.
        analysis: of the model.
        as_they_are: those to leave as they are where possible: where values decide their order alone.
        sorted_too: whether there are others of this kind.

    Returns:
        Those outputs alone whose size or order depends on values, and which no layers make behind the selection; with
        no tensors where all of them are compared anyway.
    """
    number, sorts = selected_by_value(analysis), last_sorts(analysis) if sorted_too else []
    order = behind(sorts, analysis)
    floats = [name for name in outputs if analysis.facts.dtypes.get(name, onnx.TensorProto.FLOAT) in FLOATS]
    found: dict[str, tuple[str, ...]] = {}
    if sorted_too:
        free = [name for name in outputs if name not in {*as_they_are, *number, *order}]
        choices = in_front_of_choices(free, [name for name in floats if name in free], analysis)
        found |= {name: (tensor,) for name, tensor in choices.items()}
    for name in floats or [name for name in outputs if name not in found]:
        is_sorted = name in order and name not in as_they_are and name not in number
        if name in number or (is_sorted and shows_order(name, sorts, analysis)):
            found[name] = _before(name, number | order, analysis)
    plain = [name for name in floats if not found.get(name)]
    known = {name: _same_elsewhere(name, plain, analysis) for tensors in found.values() for name in tensors}
    return {name: tuple(t for t in tensors if not known[t]) for name, tensors in found.items() if tensors}


def makes_too(other: Model, tensors: Iterable[str], analysis: Analysis) -> bool:
    """Whether another model makes the inner tensors that outputs of one are compared at, by the same names.

    Another export may give these names to other tensors: they must be read by the same operators, for the same outputs.

    Args:
        other: the other model.
        tensors: what is compared; declared outputs count as made.
        analysis: of the first model.
    """
    inner = [name for name in tensors if name not in analysis.graph.outputs]
    graph = read_graph(other) if inner else analysis.graph
    for name in inner:
        (theirs, their_outputs), (ours, our_outputs) = (_read_by(name, each) for each in (graph, analysis.graph))
        if not theirs or not theirs <= ours or their_outputs != our_outputs:  # what reads a size may be gone
            return False
    return True


def _read_by(tensor: str, graph: Graph) -> tuple[frozenset[str], frozenset[str]]:
    """The operators that read a tensor, and the outputs that depend on it."""
    found = {tensor} if tensor in graph.producer else set()
    for node in graph.nodes if found else ():  # in their order
        if found.intersection(node.reads):
            found.update(filter(None, node.outputs))
    readers = frozenset(node.op_type for node in graph.nodes if tensor in node.reads) if found else frozenset()
    return readers, frozenset(found.intersection(graph.outputs))


def _same_elsewhere(tensor: str, plain: Collection[str], analysis: Analysis) -> bool:
    """Whether a tensor is an output that is compared anyway, or made of one without layers between."""
    nodes = analysis.graph.nodes
    needed = {node.name for node in needed_nodes(nodes, [tensor])}
    made = [analysis.graph.producer[name] for name in plain if name in analysis.graph.producer]
    inside = [node for node in made if node.name in needed]
    later = behind(inside, analysis)
    return bool(inside) and not any(node.name in needed for node in layers_behind(later, analysis))


def _before(output: str, after: frozenset[str], analysis: Analysis) -> tuple[str, ...]:
    """What one output is selected from; () where layers follow the selection. `after` is what it may have made."""
    graph = analysis.graph
    between = {node.name for node in needed_nodes(graph.nodes, [output])}
    if any(node.name in between for node in layers_behind(after, analysis)):
        return ()
    steps = [node for node in graph.nodes if node.name in between and after.intersection(node.outputs)]
    found = _floats((name for node in steps for name in node.reads if name not in after), analysis)
    made_from = {name: {node.name for node in needed_nodes(graph.nodes, [name])} for name in found}
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


def _floats(tensors: Iterable[str], analysis: Analysis) -> list[str]:
    """The nearest computed tensors of floating-point type that some tensors are made of; themselves where they are.

    Not such as comparisons of values decided about: all but the peaks of a map set to 0, say. There is the whole map.
    """
    decide = _deciding(analysis)
    found, waiting, seen = dict[str, None](), [*tensors], set[str]()
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
        if decide.isdisjoint(inputs):
            found[tensor] = None
        else:
            waiting += inputs
    return [*found]


def _deciding(analysis: Analysis) -> set[str]:
    """The tensors that hold comparisons of computed values, as truth or cast to numbers."""
    floats, decide = set[str](), set[str]()
    for node in analysis.graph.nodes:  # in their order
        of_floats, decided = not floats.isdisjoint(node.inputs), not decide.isdisjoint(node.inputs)
        for name in node.outputs:
            if analysis.pinned_value(name) is not None:
                continue
            is_float = analysis.facts.dtypes.get(name) in FLOATS
            if is_float:
                floats.add(name)
            if (decided and not (is_float and of_floats)) or (of_floats and not is_float):
                decide.add(name)
    return decide

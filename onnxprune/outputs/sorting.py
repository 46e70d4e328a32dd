"""Whether an output shows an order that values decided: the last steps are run on made-up numbers in other orders.

A list of the largest, or what is picked in their order, is turned round where they are. A sum or mean of them stays
the same; a threshold or a median of a sorted list does neither.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.selection import behind

_NEAR = 1e-4


def shows_order(output: str, sorts: Sequence[Node], analysis: Analysis) -> bool:
    """Whether an output has the order that nodes sorted by value, place by place.

    Args:
        output: name of the output.
        sorts: the nodes.
        analysis: of the model.
    """
    nodes = analysis.graph.nodes
    needed = {node.name for node in needed_nodes(nodes, [output])}
    taking = [node for node in sorts if node.name in needed]
    before = {other.name for node in taking for other in needed_nodes(nodes, node.reads)}
    last = [node for node in taking if node.name not in before]
    after = behind(last, analysis)
    steps = [node for node in nodes if node.name in needed and after.intersection(node.outputs) and node not in last]
    try:
        made = _made_up(last, steps, analysis)
        turned = {**made, **_turned(last, made, analysis)}
        first, second = (_run(output, steps, feed, analysis) for feed in (made, turned))
    except ModelError:
        return False
    if first.shape != second.shape or _same(first, second):
        return False
    return any(_same(np.flip(first, axis), second) for axis, size in enumerate(first.shape) if size > 1)


def _made_up(last: Sequence[Node], steps: Sequence[Node], analysis: Analysis) -> dict[str, np.ndarray]:
    """Numbers for all that the last steps read, as the nodes that sort and those before them could have made it."""
    own = {name for node in steps for name in node.outputs}
    read = {name for node in steps for name in node.reads} | {name for node in last for name in node.outputs if name}
    generator = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for name in sorted(read - own - {*analysis.model.constants}):
        known, shape = analysis.pinned_value(name), analysis.facts.shapes.get(name)
        if known is None and shape is None:
            raise ModelError(f"{analysis.name}: the shape of {name!r} is not known")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(analysis.facts.dtypes.get(name, onnx.TensorProto.FLOAT))
        made[name] = np.asarray(generator.standard_normal(shape) if known is None else known, dtype)
    for node in last:
        axis, size = _axis(node, analysis), analysis.facts.shapes[node.input(0)]
        places = generator.permuted(np.broadcast_to(_along(size[axis], axis, len(size)), size), axis=axis)
        kept = places.take(range(analysis.facts.shapes[node.output()][axis]), axis)
        if node.output(1):
            made[node.output(1)] = kept.astype(np.int64)
        if node.output() in made:
            made[node.output()] = -np.sort(-made[node.output()], axis=axis)
    return made


def _turned(last: Sequence[Node], made: Mapping[str, np.ndarray], analysis: Analysis) -> dict[str, np.ndarray]:
    results = ((name, _axis(node, analysis)) for node in last for name in node.outputs if name in made)
    return {name: np.flip(made[name], axis) for name, axis in results}


def _axis(node: Node, analysis: Analysis) -> int:
    shape = analysis.facts.shapes.get(node.input(0))
    if shape is None or node.output() not in analysis.facts.shapes:
        raise ModelError(f"{analysis.name}: the shape of {node} is not known")
    return node.int("axis", -1) % len(shape)


def _along(size: int, axis: int, rank: int) -> np.ndarray:
    return np.arange(size).reshape([-1 if position == axis else 1 for position in range(rank)])


def _run(output: str, steps: Sequence[Node], feed: Mapping[str, np.ndarray], analysis: Analysis) -> np.ndarray:
    if not steps:
        return feed[output]
    read = {name for node in steps for name in node.reads}
    given = {name: np.ascontiguousarray(array) for name, array in feed.items() if name in read}
    part = subgraph(analysis.model, steps, given, [output])
    return np.asarray(Runner(part, [output], engine=ONE_CORE).run_feed(given)[output])


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    a, b = (np.asarray(array, np.float64) for array in (first, second))
    scale = float(np.abs(a).max(initial=0.0))
    return bool(np.abs(a - b).max(initial=0.0) <= _NEAR * scale)

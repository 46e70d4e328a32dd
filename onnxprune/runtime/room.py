"""How much memory a run takes at given sizes, told from shapes: so that a run that cannot fit is refused before it."""

from collections.abc import Mapping
from math import prod

import onnx

from onnxprune.core.errors import InputError
from onnxprune.core.memory import available
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, read_graph
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.order import last_uses
from onnxprune.graph.shapes import Facts
from onnxprune.ops import handler_of
from onnxprune.ops.facts import gather_facts

_LITTLE = 1 << 28  # bytes that are there
# onnxruntime takes so many times the bytes of the tensors: for unfolded windows and padded blocks, and in large pieces.
_MORE = 1.4


def require_room(model: Model, known: OpenShapes, rows: int) -> None:
    """Refuse to run a model on so many rows where its tensors cannot fit into memory; sizes that are open are guessed.

    Raises:
        InputError: names the largest tensor.
    """
    graph = read_graph(model)
    require_room_of(model, graph, gather_facts(model, graph, known), rows)


def require_room_of(model: Model, graph: Graph, facts: Facts, rows: int) -> None:
    """Like `require_room`, for a model whose shapes are known.

    Args:
        model: the model.
        graph: its nodes.
        facts: its shapes.
        rows: rows a run, of which the shapes may be for fewer.

    Raises:
        InputError: names the largest tensor.
    """
    more = max(1, -(-rows // max(1, facts.batch)))
    sizes = {
        name: more * _bytes(shape, facts.dtypes.get(name, onnx.TensorProto.FLOAT))
        for name, shape in facts.shapes.items()
        if name not in model.constants and name not in facts.folded
    }
    peak = int(_MORE * peak_bytes(graph, facts, sizes))
    free = available() if peak > _LITTLE else None
    if free is not None and peak > free:
        largest = max(sizes, key=sizes.__getitem__)
        shape = ", ".join(map(str, facts.shapes[largest]))
        times = f" for each of {more} rows" if more > 1 else ""
        raise InputError(
            f"{model.name}: a run takes about {peak / 1e9:.3g} GB of memory, {sizes[largest] / 1e9:.3g} GB of it for "
            f"{largest!r} ([{shape}]{times}), and {free / 1e9:.3g} GB are free; give smaller sizes "
            "(--shape, --latency-batch)"
        )


def peak_bytes(graph: Graph, facts: Facts, sizes: Mapping[str, int]) -> int:
    """Bytes of the computed tensors that a run holds at once, when each goes after its last reader.

    A node that works element by element may put its result where an operand of the same size was, if it is the last to
    read it; a view takes nothing of its own.
    """
    last = last_uses((node.reads for node in graph.nodes), graph.outputs)
    held = sum(sizes.get(name, 0) for name in graph.inputs)
    peak = held
    for step, node in enumerate(graph.nodes):
        if facts.is_folded(node):
            continue
        going = [sizes.get(name, 0) for name in dict.fromkeys(node.reads) if last[name] == step]
        made = [sizes.get(name, 0) for name in node.outputs if name]
        together = held + sum(made)
        handler = handler_of(node.op_type)
        if handler.is_view or handler.flow(node) is not None:
            together -= max((size for size in made if size in going), default=0)
        peak = max(peak, together)
        unread = sum(sizes.get(name, 0) for name in node.outputs if name and name not in last)
        held += sum(made) - sum(going) - unread
    return peak


def _bytes(shape: tuple[int, ...], element: int) -> int:
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(element).itemsize
    except KeyError:  # no element type is known
        itemsize = 4
    return prod(shape) * itemsize

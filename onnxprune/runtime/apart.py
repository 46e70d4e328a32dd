"""Runs parts of a model in onnxruntime in a separate process with limited memory and time.

Here a model is run to be understood, not to be used: a file that makes onnxruntime fail, or ask for everything there
is, must not end the program that looks at it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.graph.inference import fixed_by_bodies
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.operators import Seen, Shape
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.graph.write import write
from onnxprune.runtime.feeds import LARGEST_FEED, random_array
from onnxprune.runtime.worker import Worker

_MEMORY_BYTES = 1 << 30  # besides the model itself
_SECONDS = 20
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_WORKER = Worker()


class Apart:
    """Runs parts of one model in a separate process; implements `graph.operators.Runtime`.

    Args:
        model: the model.
        graph: its nodes.
        feed: inputs to run on where their sizes are asked for; random ones by default.
    """

    def __init__(self, model: Model, graph: Graph, feed: Mapping[str, np.ndarray] | None = None) -> None:
        self._model, self._graph, self._feed = model, graph, feed or {}

    def shapes(self, inputs: Mapping[str, Shape], wanted: Sequence[str]) -> Mapping[str, Seen]:
        """Shapes of tensors in a run on inputs of these shapes; empty where the run fails."""
        feed = self._inputs(inputs)
        if feed is None:
            return {}
        nodes = needed_nodes(self._graph.nodes, wanted)
        seen = self._run(nodes, feed, [name for name in wanted if name not in feed], values=False, most=LARGEST_FEED)
        if seen is None:
            return {}
        fixed = fixed_by_bodies(self._model)
        found = {}
        for name, told, sizes, kind in seen[0]:
            if kind.startswith("tensor("):
                open_ = frozenset(axis for axis, size in enumerate(told) if size is None)
                found[name] = Seen(tuple(sizes), _element(kind), open_ - fixed.get(name, frozenset()))
        return found

    def values(
        self, nodes: Sequence[Node], known: Mapping[str, np.ndarray], wanted: Sequence[str], limit: int
    ) -> Mapping[str, np.ndarray]:
        """Results of nodes that depend only on `known` constants; empty where the run fails."""
        usable: list[Node] = []
        unusable: set[str] = set()
        for node in nodes:  # one operator that onnxruntime does not have would fail them all
            domain = self._model.proto.graph.node[node.index].domain
            if domain in _DOMAINS and not unusable.intersection(node.inputs):
                usable.append(node)
            else:
                unusable.update(node.outputs)
        made = [name for name in wanted if name not in unusable]
        if not usable or sum(value.size for value in known.values()) > limit:
            return {}
        computed = {name: value for name, value in known.items() if name not in self._model.constants}
        results = self._run(usable, computed, made, values=True, most=limit)
        return {} if results is None else dict(zip(made, results[1], strict=True))

    def _inputs(self, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray] | None:
        rng = np.random.default_rng(0)
        feed = {}
        for value in self._model.proto.graph.input:
            if value.name not in self._graph.inputs:
                continue
            shape = shapes.get(value.name)
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type or 1))
            if shape is None or dtype.hasobject or int(np.prod(shape, dtype=object)) > LARGEST_FEED:
                return None
            given = self._feed.get(value.name)
            if given is not None and given.shape == shape:
                feed[value.name] = given
            elif dtype.kind in "iu":  # rows of any table of two rows or more, as of the kinds of BERT's tokens
                feed[value.name] = rng.integers(0, 2, shape).astype(dtype)
            else:
                feed[value.name] = random_array(rng, dtype, shape)
        return feed

    def _run(
        self, nodes: Sequence[Node], feed: Mapping[str, np.ndarray], wanted: Sequence[str], *, values: bool, most: int
    ) -> tuple[list[Any], list[np.ndarray]] | None:
        """Shapes and, if asked for, values of tensors; None where onnxruntime fails."""
        if not wanted:
            return None
        try:
            part = subgraph(self._model, nodes, feed, wanted)
        except ModelError:
            return None
        for value in part.proto.graph.input:
            for size in feed[value.name].shape:
                value.type.tensor_type.shape.dim.add(dim_value=size)
        with temporary_folder() as folder:
            write(part, folder / "model.onnx")
            ordered = {str(i): feed[value.name] for i, value in enumerate(part.proto.graph.input)}
            np.savez(folder / "feeds.npz", allow_pickle=False, **ordered)
            (folder / "request.json").write_text(json.dumps({"values": values, "most": most}), encoding="utf-8")
            memory = _MEMORY_BYTES + 2 * part.stored_bytes
            if not _WORKER.run(folder, memory, _SECONDS):
                return None
            described = json.loads((folder / "shapes.json").read_text(encoding="utf-8"))
            if not values:
                return described, []
            with np.load(folder / "values.npz", allow_pickle=False) as held:
                return described, [held[str(i)] for i in range(len(wanted))]


def _element(kind: str) -> int:
    """The ONNX element type for onnxruntime's type name `tensor(...)`."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    return int(dict(onnx.TensorProto.DataType.items()).get(name, 0))

"""Operators along one axis whose positions they order or accumulate: CumSum, TopK, Trilu, ReverseSequence."""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler, normal_axis
from onnxprune.ops.examples import example


class Ordered(OpHandler):
    """Channels on the axes concerned stay; other axes pass."""

    op_types = ("CumSum", "TopK", "Trilu", "ReverseSequence")

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze along the axes concerned."""
        source = node.input(0)
        axes = _axes(node, labels)
        for axis, ids in enumerate(labels.get(source)):
            if axes is None or axis in axes:
                labels.freeze_ids(ids, source, f"{node.op_type} depends on the order of these channels", node)
            else:
                for output in filter(labels.rank, node.outputs):
                    labels.set(output, axis, ids)
        if axes is None:
            labels.freeze_node(node, f"the axis of {node.op_type} is computed")

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Over rows, with channels beside."""
        yield example(
            """g (float[N,5,6] x) => (float[N,2,3] y) {
            h = MatMul (x, w1)
            c = CumSum (h, one)
            t, i = TopK <axis = 1> (c, two)
            y = MatMul (t, w2) }""",
            {"w1": (6, 8), "w2": (8, 3)},
            {"one": np.array(1), "two": np.array([2])},
        )


def _axes(node: Node, labels: Labels) -> set[int] | None:
    rank = labels.rank(node.input(0))
    if node.op_type == "Trilu":
        return {rank - 2, rank - 1}
    if node.op_type == "ReverseSequence":
        return {node.int("batch_axis", 1), node.int("time_axis", 0)}
    if node.op_type == "TopK":
        return {normal_axis(node.int("axis", -1), rank)}
    value = labels.constant(node.input(1))
    return None if value is None else {normal_axis(int(value.ravel()[0]), rank)}

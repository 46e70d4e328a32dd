"""Pooling and other operators that work on each channel apart."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler
from onnxprune.ops.examples import example


class Pool(OpHandler):
    """Pooling over spatial axes."""

    op_types = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")

    def couple(self, node: Node, labels: Labels) -> None:
        """Batch and channel axes pass; labels on spatial axes are frozen."""
        source = node.input(0)
        arrays = labels.get(source)
        for ids in arrays[2:]:
            labels.freeze_ids(ids, source, f"{node.op_type} mixes these positions", node)
        for axis, ids in enumerate(arrays[:2]):
            labels.set(node.output(), axis, ids)
        if node.output(1):
            labels.freeze_node(node, "indices of MaxPool count channels")

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Local and global pooling."""
        yield example(
            """g (float[N,3,9,9] x) => (float[N,4,1,1] y) {
            h = Conv (x, w1)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
            a = AveragePool <kernel_shape = [2, 2]> (m)
            p = GlobalAveragePool (a)
            y = Conv (p, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)},
        )


class Resize(OpHandler):
    """Resize and Upsample, where channels are not resized."""

    op_types = ("Resize", "Upsample")

    def couple(self, node: Node, labels: Labels) -> None:
        """Labels pass where the axis keeps its size and sizes are given as scales."""
        source, output = node.input(0), node.output()
        before, after = labels.shape(source), labels.shape(output)
        if before is None or after is None or len(before) != len(after) or "axes" in node.attributes:
            labels.freeze_node(node, "shapes are unknown, or only some axes are resized")
            return
        for axis, ids in enumerate(labels.get(source)):
            if ids is not None and before[axis] != after[axis]:
                labels.freeze_ids(ids, source, f"{node.op_type} changes this axis", node)
            elif ids is not None:
                labels.set(output, axis, ids)
        if node.input(3):
            for ids in labels.get(source):
                labels.freeze_ids(ids, source, "Resize spells out sizes", node)

"""Normalisations that onnxruntime's optimisers write, with sums in front: their channels stay."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels

_DOMAIN = "com.microsoft"


class SkipNormalization(OpHandler):
    """`norm(input + skip + bias)`; the sum may be handed out too."""

    op_types = (f"{_DOMAIN}.SkipLayerNormalization", f"{_DOMAIN}.SkipSimplifiedLayerNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """The last axis stays; on the others the summands are tied."""
        first, second = node.input(0), node.input(1)
        rank = labels.rank(first)
        for axis in range(rank):
            first_ids, other = labels.axis(first, axis), labels.axis(second, axis - rank)
            if axis == rank - 1 or first_ids is None or other is None:
                reason = "normalises across these channels" if axis == rank - 1 else "adds what is not prunable"
                for name, ids in ((first, first_ids), (second, other)):
                    labels.freeze_ids(ids, name, f"{node.op_type} {reason}", node)
            else:
                labels.tie(first_ids, other)
            for output in filter(None, node.outputs):
                if labels.shape(output)[axis : axis + 1] == labels.shape(first)[axis : axis + 1]:  # not so of a mean
                    labels.set(output, axis, first_ids if first_ids is not None else other)
        for name in node.inputs[2:]:
            for ids in labels.get(name):
                labels.freeze_ids(ids, name, f"{node.op_type} normalises across these channels", node)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Behind a hidden layer."""
        yield example(
            f"""g (float[N,5,6] x) => (float[N,5,3] y) {{
            h = MatMul (x, w1)
            r = Relu (h)
            i = MatMul (r, w2)
            s = {_DOMAIN}.SkipLayerNormalization (i, x, scale, shift)
            y = MatMul (s, w3) }}""",
            {"w1": (6, 8), "w2": (8, 6), "scale": (6,), "shift": (6,), "w3": (6, 3)},
            full_check=False,
            domain=_DOMAIN,
        )

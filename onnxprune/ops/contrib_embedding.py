"""Embeddings in one node, as onnxruntime's optimisers write them."""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels

_DOMAIN = "com.microsoft"


class EmbedLayerNormalization(OpHandler):
    """Sums of rows of three tables, normalised: the width of the tables stays."""

    op_types = (f"{_DOMAIN}.EmbedLayerNormalization",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Nothing that the node reads or makes can be removed."""
        for name in filter(None, node.inputs):
            for ids in labels.get(name):
                labels.freeze_ids(ids, name, f"{node.op_type} normalises across these channels", node)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """In front of a hidden layer."""
        yield example(
            f"""g (int32[N,5] t, int32[N,5] s) => (float[N,5,3] y) {{
            e, m = {_DOMAIN}.EmbedLayerNormalization (t, s, words, places, kinds, scale, shift)
            h = MatMul (e, w1)
            r = Relu (h)
            y = MatMul (r, w2) }}""",
            {"words": (9, 6), "kinds": (5, 6), "scale": (6,), "shift": (6,), "w1": (6, 8), "w2": (8, 3)},
            {"places": np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6)},
            full_check=False,
            domain=_DOMAIN,
        )

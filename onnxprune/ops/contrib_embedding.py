"""Embeddings in one node, as onnxruntime's optimisers write them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule
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

    def lookups(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Words, and segments where there are any; positions are read in order."""
        return ((2, 0), (4, 1)) if node.input(4) else ((2, 0),)

    def torch(self, node: Node) -> TorchRule:
        """In torch: the sum of rows, normalised; the lengths of masked rows; and the sum itself."""
        import torch

        epsilon = float(node.attributes.get("epsilon", 1e-12))
        functional = torch.nn.functional

        def run(ids: Any, kinds: Any, *more: Any) -> Any:
            words, places, kind_table, scale, shift, mask, positions = (*more, None, None)[:7]
            positions = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions.long()
            total = words[ids.long()] + places[positions]
            if kind_table is not None:
                total = total + kind_table[kinds.long()]
            result = functional.layer_norm(total, scale.shape, scale, shift, epsilon)
            lengths = torch.zeros(len(ids), dtype=torch.int32) if mask is None else mask.sum(1).int()
            return (result, lengths, total)[: len(node.outputs)]

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: the tables, scale and shift."""
        return tuple(filter(None, node.inputs[2:7]))

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

"""Attention where several query heads share one head of keys and values, as onnxruntime writes it."""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors, axis_factors

_DOMAIN = "com.microsoft"
_PER_HEAD = 10  # from this input on: biases of scores and sinks, which may have an axis of query heads


class GroupQueryAttention(OpHandler):
    """Queries `(B, S, heads * width)`; keys and values `(B, S, shared * width)`, also those of earlier calls.

    Each shared head loses as many query heads as every other. Keys and values stay as they are, since what the caller
    keeps of them from call to call does.
    """

    op_types = (f"{_DOMAIN}.GroupQueryAttention",)

    def couple(self, node: Node, labels: Labels) -> None:
        """The queries at one place of each group of heads are one unit."""
        query, heads, shared = node.input(0), node.int("num_heads", 1), node.int("kv_num_heads", 1)
        arrays = labels.get(query)
        packed = not node.input(1)
        size = heads + 2 * shared if packed else heads
        for name in filter(None, node.inputs):
            for axis, ids in enumerate(labels.get(name)):
                if name != query or axis != 2:
                    labels.freeze_ids(ids, name, f"{node.op_type} keeps these positions of {name!r}", node)
        ids = arrays[2] if len(arrays) == 3 else None
        if ids is None:
            return
        if any(node.inputs[_PER_HEAD:]) or len(ids) % size or heads % shared:
            labels.freeze_ids(ids, query, f"this form of {node.op_type} is not followed", node)
            return
        width = len(ids) // size
        labels.freeze_ids(ids[heads * width :], query, f"{node.op_type} keeps its keys and values", node)
        grid = ids[: heads * width].reshape(shared, heads // shared, width)
        same = grid.transpose(1, 0, 2).reshape(heads // shared, -1)
        for column in same.T:
            labels.tie(same[:, 0], column)
        labels.contract(node, query, 2, ids)
        labels.set(node.output(), 2, grid.ravel())

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the scores, and of the scores with the values."""
        result, past, present = (labels.shape(name) for name in (node.output(), node.input(3), node.output(1)))
        reached = present[2] if len(present) == 4 else result[1] + (past[2] if len(past) == 4 else 0)
        return ((2, *axis_factors(labels, node.output()), reached),)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many query heads as stay."""
        kept, heads = edit.kept(node.output(), 2), node.int("num_heads", 1)
        if kept is not None:
            edit.set_attribute("num_heads", int(kept.sum()) * heads // len(kept))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Queries apart, and packed with keys and values."""
        lengths = {"last": np.full((1, 1), 4, np.int32), "steps": np.array(5, np.int32)}
        for packed in (False, True):
            given = "p, , " if packed else "q, k, v"
            made = "p = MatMul (x, wp)" if packed else "q = MatMul (x, wq)\n k = MatMul (x, wk)\n v = MatMul (x, wv)"
            weights = {"wp": (6, 64)} if packed else {"wq": (6, 48), "wk": (6, 16), "wv": (6, 16)}
            wide = 32 if packed else 48
            yield example(
                f"""g (float[1,5,6] x) => (float[1,5,3] y) {{
                {made}
                a, pk, pv = {_DOMAIN}.GroupQueryAttention
                    <num_heads = {wide // 8}, kv_num_heads = 2> ({given}, , , last, steps)
                y = MatMul (a, wo) }}""",
                weights | {"wo": (wide, 3)},
                lengths,
                full_check=False,
                domain=_DOMAIN,
            )

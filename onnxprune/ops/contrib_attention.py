"""Attention in one node, as onnxruntime's optimisers write it: whole heads go.

The scores are divided by the root of a head's width, so heads stay as wide as they are.
"""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Product, axis_factors

_DOMAIN = "com.microsoft"


class MultiHeadAttention(OpHandler):
    """Queries, keys and values `(B, S, heads * width)`, each made by a layer of its own."""

    op_types = (f"{_DOMAIN}.MultiHeadAttention",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels of a head, in queries, keys, values and the result."""
        heads = node.int("num_heads", 1)
        given = node.inputs[:3]
        arrays = [labels.axis(name, 2) if name and labels.rank(name) == 3 else None for name in given]
        bias = node.input(3)
        # Masks and past states have axes of heads of their own; attributes and outputs of them spell out heads too.
        plain = len(given) == 3 and not any(node.inputs[5:]) and not any(node.outputs[1:])
        known = plain and all(ids is not None and len(ids) % heads == 0 for ids in arrays)
        if not known or (bias and not labels.is_constant(bias)):
            labels.freeze_node(node, f"this form of {node.op_type} is not followed")
            return
        units = [ids for ids in arrays if ids is not None]
        grids = [ids.reshape(heads, -1) for ids in units]
        for grid in grids:
            for column in grid.T:
                labels.tie(grids[0][:, 0], column)
        if bias:
            labels.set(bias, 0, np.concatenate(units))
        labels.contract(node, given[0], 2, units[0])
        labels.set(node.output(), 2, units[2])
        self._rows(node, labels)

    def _rows(self, node: Node, labels: Labels) -> None:
        """Channels on the axes of rows and of the batch stay."""
        for name in filter(None, (*node.inputs[:3], node.input(4))):
            for axis, ids in enumerate(labels.get(name)):
                if axis != 2 or name == node.input(4):
                    labels.freeze_ids(ids, name, f"{node.op_type} mixes these positions", node)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Those of the scores, and of the scores with the values; not known for packed operands."""
        query, keys = node.input(0), node.input(1)
        axis = {3: 1, 4: 2}.get(labels.rank(keys))  # (B, S, width), or (B, heads, S, width) from another part
        if labels.rank(query) != 3 or axis is None or not node.input(2):
            return None
        past = labels.shape(node.input(6))
        reached = labels.shape(keys)[axis] + (past[2] if len(past) == 4 else 0)
        return (*axis_factors(labels, query), reached), (*axis_factors(labels, node.output()), reached)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many heads as stay."""
        kept, heads = edit.kept(node.output(), 2), node.int("num_heads", 1)
        if kept is not None:
            edit.set_attribute("num_heads", int(kept.sum()) * heads // len(kept))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """With and without a bias."""
        for bias in ("", ", b"):
            yield example(
                f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
                q = MatMul (x, wq)
                k = MatMul (x, wk)
                v = MatMul (x, wv)
                a = {_DOMAIN}.MultiHeadAttention <num_heads = 4> (q, k, v{bias})
                y = MatMul (a, wo) }}""",
                {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3)} | ({"b": (24,)} if bias else {}),
                full_check=False,
                domain=_DOMAIN,
            )


class Attention(OpHandler):
    """Attention that makes queries, keys and values itself: weight `(I, 3 * heads * width)`."""

    op_types = (f"{_DOMAIN}.Attention",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Contract over the input; a head is one unit, in the three parts of the weight and in the result."""
        source, weight, bias = node.input(0), node.input(1), node.input(2)
        plain = not any(node.inputs[4:]) and not any(node.outputs[1:]) and "qkv_hidden_sizes" not in node.attributes
        constant = labels.is_constant(weight) and (not bias or labels.is_constant(bias))
        if not plain or not constant or labels.rank(source) != 3:
            labels.freeze_node(node, f"this form of {node.op_type} is not followed")
            return
        for axis, ids in enumerate(labels.get(source)[:2]):
            labels.freeze_ids(ids, source, f"{node.op_type} mixes positions of axis {axis}", node)
        for ids in labels.get(node.input(3)) if node.input(3) else ():
            labels.freeze_ids(ids, node.input(3), f"mask of {node.op_type}", node)
        labels.set(weight, 0, labels.axis(source, 2))
        labels.contract(node, weight, 0, labels.axis(source, 2))
        heads = node.int("num_heads", 1)
        units: Ids = np.repeat(labels.fresh(heads, node, node.output()), labels.shape(weight)[1] // (3 * heads))
        labels.set(weight, 1, np.tile(units, 3))
        if bias:
            labels.set(bias, 0, np.tile(units, 3))
        labels.set(node.output(), 2, units)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """That of the input with the weight."""
        weight = node.input(1)
        if not labels.is_constant(weight):
            return ()
        return (Product(node.name, weight, node.input(0), ((0, 2),), (1,)),)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Those with the weight, of the scores, and of the scores with the values."""
        weight, past = axis_factors(labels, node.input(1)), labels.shape(node.input(4))
        rows = labels.shape(node.input(0))[:2]
        if len(weight) != 2:
            return None
        made = labels.axis(node.input(1), 1)
        queries = (node.ints("qkv_hidden_sizes") or (labels.shape(node.input(1))[1] // 3,))[0]
        reached = rows[1] + (past[3] if len(past) == 5 else 0)
        return (
            (*rows, *weight),
            (*rows, reached, queries if made is None else made[:queries]),
            (*axis_factors(labels, node.output()), reached),
        )

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many heads as stay."""
        kept, heads = edit.kept(node.output(), 2), node.int("num_heads", 1)
        if kept is not None:
            edit.set_attribute("num_heads", int(kept.sum()) * heads // len(kept))

    def trained(self, node: Node) -> tuple[str, ...]:
        """Weight and bias."""
        return node.inputs[1:3]

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Between two layers."""
        yield example(
            f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
            h = MatMul (x, w1)
            a = {_DOMAIN}.Attention <num_heads = 4> (h, w2, b2)
            y = MatMul (a, w3) }}""",
            {"w1": (6, 8), "w2": (8, 24), "b2": (24,), "w3": (8, 3)},
            full_check=False,
            domain=_DOMAIN,
        )

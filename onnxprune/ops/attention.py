"""Attention of opset 23: whole heads go.

The scores are divided by the root of a head's width, so heads stay as wide as they are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors, axis_factors


class Attention(OpHandler):
    """Operands `(B, S, heads * width)`, with the numbers of heads as attributes, or `(B, heads, S, width)`.

    Where several query heads share one head of keys and values, each shared head loses as many as every other, and keys
    and values stay.
    """

    op_types = ("Attention",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels of a head, in queries, keys, values, a mask of its own and the result."""
        query, keys, values = given = node.inputs[:3]
        axis = _axis(node, labels)
        heads, shared = (_heads(node, labels, name, axis) for name in (query, keys))
        ids = [labels.axis(name, axis) for name in given]
        mask = node.input(3)
        own_mask = labels.rank(mask) == 4 and labels.shape(mask)[1] > 1
        plain = not any(node.inputs[4:]) and not any(node.outputs[1:]) and not (own_mask and not labels.adapts(mask, 1))
        first, known = ids[0], all(i is not None for i in ids[: 3 if heads == shared else 1])
        if first is None or not known or not plain or len({labels.rank(name) for name in given}) > 1:
            labels.freeze_node(node, "this form of Attention is not followed")
            return
        grid = first.reshape(heads, -1)
        if heads == shared:
            units = [i.reshape(heads, -1) for i in ids if i is not None]
            result = units[2].ravel()
        else:
            units = list(grid.reshape(shared, heads // shared, -1))
            result = np.repeat(grid[:, 0], labels.shape(node.output())[axis] // heads)
            for name, other in zip((keys, values), ids[1:], strict=True):
                labels.freeze_ids(other, name, "Attention keeps keys and values that several heads share", node)
        for unit in units:
            for column in unit.T:
                labels.tie(units[0][:, 0], column)
        self._other_axes(node, labels, axis)
        if own_mask:
            labels.set(mask, 1, grid[:, 0])
        labels.contract(node, query, axis, first)
        labels.set(node.output(), axis, result)

    def _other_axes(self, node: Node, labels: Labels, axis: int) -> None:
        """Positions within a head of the values reach the result; all others stay."""
        for position, name in enumerate(filter(None, node.inputs[:4])):
            for place, ids in enumerate(labels.get(name)):
                if position == 2 and axis == 1 and place == 3:
                    labels.set(node.output(), 3, ids)
                elif place != axis or position == 3:
                    labels.freeze_ids(ids, name, "Attention mixes these positions", node)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the scores, and of the scores with the values."""
        keys, past = labels.shape(node.input(1)), labels.shape(node.input(4))
        reached = keys[-2] + (past[-2] if past else 0)
        return (*axis_factors(labels, node.input(0)), reached), (*axis_factors(labels, node.output()), reached)

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: the softmax of the scaled scores, over the keys that the mask and the order of positions leave."""
        import torch

        if any(node.inputs[4:]) or any(node.outputs[1:]) or node.attributes.get("softcap"):
            return None
        heads, shared = node.int("q_num_heads", 0), node.int("kv_num_heads", 0)
        scale, causal = node.attributes.get("scale"), node.int("is_causal", 0)

        def split(operand: Any, count: int) -> Any:
            """Heads as the second of four axes."""
            return operand.unflatten(2, (count, -1)).transpose(1, 2) if operand.dim() == 3 else operand

        def run(query: Any, keys: Any, values: Any, mask: Any = None) -> Any:
            q, k, v = split(query, heads), split(keys, shared), split(values, shared)
            k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], 1) for one in (k, v))
            scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
            made = scores.softmax(3) @ v
            return made.transpose(1, 2).flatten(2) if query.dim() == 3 else made

        return run

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many heads as stay, where attributes count them."""
        heads, shared = node.int("q_num_heads", 0), node.int("kv_num_heads", 0)
        kept = edit.kept(node.output(), 2) if heads else None
        if kept is not None:
            left = int(kept.sum()) * heads // len(kept)
            edit.set_attribute("q_num_heads", left)
            edit.set_attribute("kv_num_heads", left if heads == shared else shared)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Heads in the last axis, with and without shared keys and a mask for each head; and heads in an axis apart."""
        for shared, masks in ((4, 0), (2, 0), (4, 1), (4, 4)):
            yield example(
                f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
                q = MatMul (x, wq)
                k = MatMul (x, wk)
                v = MatMul (x, wv)
                a = Attention <q_num_heads = 4, kv_num_heads = {shared}> (q, k, v{", mask" if masks else ""})
                y = MatMul (a, wo) }}""",
                {"wq": (6, 8), "wk": (6, 2 * shared), "wv": (6, 3 * shared), "wo": (12, 3)}
                | ({"mask": (1, masks, 5, 5)} if masks else {}),
                opset=23,
            )
        apart = "\n".join(f"{n}s = Reshape ({n}, s) {n}h = Transpose <perm = [0, 2, 1, 3]> ({n}s)" for n in "qkv")
        yield example(
            f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            {apart}
            a = Attention <scale = 0.5, is_causal = 1> (qh, kh, vh)
            b = Transpose <perm = [0, 2, 1, 3]> (a)
            c = Reshape (b, t)
            y = MatMul (c, wo) }}""",
            {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3)},
            {"s": np.array([0, 0, 4, -1]), "t": np.array([0, 0, -1])},
            opset=23,
        )


def _axis(node: Node, labels: Labels) -> int:
    """The axis of the operands that heads lie on."""
    return 1 if labels.rank(node.input(0)) == 4 else 2


def _heads(node: Node, labels: Labels, name: str, axis: int) -> int:
    """How many heads an operand has."""
    if axis == 1:
        return labels.shape(name)[1]
    return node.int("q_num_heads" if name == node.input(0) else "kv_num_heads", 1)

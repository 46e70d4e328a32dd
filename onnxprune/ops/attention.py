"""Attention in one node whose channels are not followed, but whose multiply-adds are known."""

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors


class OnnxAttention(Unknown):
    """Attention of opset 23: operands `(B, S, heads * width)` or `(B, heads, S, width)`."""

    op_types = ("Attention",)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the scores, and of the scores with the values."""
        keys, past = labels.shape(node.input(1)), labels.shape(node.input(4))
        reached = keys[-2] + (past[-2] if past else 0)
        return (*labels.shape(node.input(0)), reached), (*labels.shape(node.output()), reached)


class GroupQueryAttention(Unknown):
    """Attention where several heads share keys and values; packed operands lie side by side in the first input."""

    op_types = ("com.microsoft.GroupQueryAttention",)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the scores, and of the scores with the values."""
        result, past, present = (labels.shape(name) for name in (node.output(), node.input(3), node.output(1)))
        reached = present[2] if len(present) == 4 else result[1] + (past[2] if len(past) == 4 else 0)
        return ((2, *result, reached),)

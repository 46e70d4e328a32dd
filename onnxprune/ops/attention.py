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

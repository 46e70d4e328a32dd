"""Operators on weights in a form that is not cut: products of integers, and layouts for one processor."""

from typing import ClassVar

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown
from onnxprune.ops.labels import Labels

_DOMAIN = "com.microsoft"


class IntegerProduct(Unknown):
    """Products with integer weights: their channels stay, and what lies behind is followed as usual."""

    op_types: ClassVar[tuple[str, ...]] = (
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", f"{_DOMAIN}.QGemm", f"{_DOMAIN}.QAttention"),
        *(f"{_DOMAIN}.DynamicQuantizeMatMul", f"{_DOMAIN}.MatMulIntegerToFloat", f"{_DOMAIN}.MatMulNBits"),
    )
    multiplies = True

    def couple(self, node: Node, labels: Labels) -> None:
        """Mark all channels that the node reads or makes as never removed."""
        _make(node, labels, 1 if "Conv" in node.op_type else -1)
        reason = f"{node.op_type} has integer weights: prune the floating-point model, then quantise it"
        labels.freeze_node(node, reason)

    def jumps(self, node: Node) -> bool:
        """Counts as not continuous where the result is rounded."""
        return "Linear" in node.op_type or "Dynamic" in node.op_type


class Blocked(Unknown):
    """Operators on channels in blocks, which onnxruntime writes at its highest level for the processor at hand."""

    op_types: ClassVar[tuple[str, ...]] = tuple(
        f"{_DOMAIN}.nchwc.{name}"
        for name in (
            *("Conv", "ReorderInput", "ReorderOutput", "MaxPool", "AveragePool", "GlobalMaxPool"),
            *("GlobalAveragePool", "Upsample"),
        )
    )
    multiplies = True

    def couple(self, node: Node, labels: Labels) -> None:
        """Mark all channels that the node reads or makes as never removed."""
        if node.op_type.endswith("Conv"):
            _make(node, labels, 1)
        reason = f"{node.op_type} is laid out for one processor: save the model at onnxruntime's level 'extended'"
        labels.freeze_node(node, reason)


def _make(node: Node, labels: Labels, axis: int) -> None:
    """Start the channels that a product makes, so that they are counted and their reason is shown."""
    shape = labels.shape(node.output())
    if len(shape) > 1:
        labels.set(node.output(), axis, labels.fresh(shape[axis], node, node.output()))

"""Operators in layouts for one processor, whose channels stay."""

from typing import ClassVar

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors

_DOMAIN = "com.microsoft"


class Blocked(Unknown):
    """Operators on channels in blocks, which onnxruntime writes at its highest level for the processor at hand."""

    op_types: ClassVar[tuple[str, ...]] = tuple(
        f"{_DOMAIN}.nchwc.{name}"
        for name in (
            *("Conv", "ReorderInput", "ReorderOutput", "MaxPool", "AveragePool", "GlobalMaxPool"),
            *("GlobalAveragePool", "Upsample"),
        )
    )

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:  # noqa: ARG002
        """Not known for convolutions, whose channels are filled up to blocks; none for others."""
        return None if node.op_type.endswith("Conv") else ()

    def couple(self, node: Node, labels: Labels) -> None:
        """Mark all channels that the node reads or makes as never removed."""
        if node.op_type.endswith("Conv"):
            labels.set(node.output(), 1, labels.fresh(labels.shape(node.output())[1], node, node.output()))
        reason = f"{node.op_type} is laid out for one processor: save the model at onnxruntime's level 'extended'"
        labels.freeze_node(node, reason)

"""Normalisations: per channel (passed through) and across channels (frozen)."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler, normal_axis, pass_through
from onnxprune.ops.examples import example


class PerChannelNormalization(OpHandler):
    """BatchNormalization and InstanceNormalization: their parameters follow axis 1."""

    op_types = ("BatchNormalization", "InstanceNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """The input's channels label every parameter."""
        source = node.input(0)
        pass_through(labels, node, source, node.output())
        for parameter in node.inputs[1:]:
            if not labels.is_constant(parameter):
                labels.freeze_node(node, f"parameter {parameter!r} is computed")
                return
            labels.set(parameter, 0, labels.axis(source, 1))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Between two convolutions."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            n = BatchNormalization (h, scale, bias, mean, var)
            i = InstanceNormalization (n, scale2, bias2)
            y = Conv (i, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)}
            | {name: (8,) for name in ("scale", "bias", "mean", "var", "scale2", "bias2")},
        )


class MixingAxis(OpHandler):
    """Operators that normalise along one axis: its channels stay."""

    op_types = ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze the normalised axes; the others pass."""
        source = node.input(0)
        rank = labels.rank(source)
        old = node.opset < 13 and node.op_type != "LpNormalization"  # then all axes from `axis` on are one
        axis = normal_axis(node.int("axis", 1 if old else -1), rank)
        for position, ids in enumerate(labels.get(source)):
            if position == axis or (old and position > axis):
                labels.freeze_ids(ids, source, f"{node.op_type} normalises across these channels", node)
        pass_through(labels, node, source, node.output())


class LocalResponse(OpHandler):
    """LRN sums over neighbouring channels."""

    op_types = ("LRN",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze the channels."""
        source = node.input(0)
        labels.freeze_ids(labels.axis(source, 1), source, "LRN mixes neighbouring channels", node)
        pass_through(labels, node, source, node.output())


class LayerNormalization(OpHandler):
    """LayerNormalization and its kin: statistics over the last axes."""

    op_types = ("LayerNormalization", "RMSNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze the normalised axes; the others pass."""
        source = node.input(0)
        rank = labels.rank(source)
        for ids in labels.get(source)[normal_axis(node.int("axis", -1), rank) :]:
            labels.freeze_ids(ids, source, f"{node.op_type} normalises across these channels", node)
        pass_through(labels, node, source, node.output())


class GroupNormalization(OpHandler):
    """GroupNormalization: statistics over groups of channels."""

    op_types = ("GroupNormalization",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Freeze the channels."""
        source = node.input(0)
        labels.freeze_ids(labels.axis(source, 1), source, "GroupNormalization mixes groups of channels", node)
        pass_through(labels, node, source, node.output())

"""Layers that compute with integer weights: their channels stay, and their multiply-adds count."""

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown, normal_axis
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors

_CONTRIB = "com.microsoft"


class IntegerLayer(Unknown):
    """What layers with integer weights share."""

    def couple(self, node: Node, labels: Labels) -> None:
        """New channels, which stay: their weights are not cut."""
        output = node.output()
        if labels.rank(output):
            axis = normal_axis(self.channel_axis, labels.rank(output))
            labels.set(output, axis, labels.fresh(labels.shape(output)[axis], node, output))
        operator = node.op_type.rpartition(".")[2]
        labels.freeze_node(node, f"{operator} computes with integer weights; prune the model before it is quantised")

    def jumps(self, node: Node) -> bool:
        """Counts as not continuous where the result is rounded."""
        return "Linear" in node.op_type or "Dynamic" in node.op_type


class IntegerConvolution(IntegerLayer):
    """Convolutions with integer weights."""

    op_types = ("ConvInteger", "QLinearConv")
    channel_axis = 1

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of a convolution."""
        weight = node.input(3 if node.op_type == "QLinearConv" else 1)
        batch, _, *space = labels.shape(node.output())
        return ((*labels.shape(weight), batch, *space),)


class IntegerProduct(IntegerLayer):
    """Matrix products with integer weights, and those with weights in blocks of few bits."""

    op_types = (
        "MatMulInteger",
        "QLinearMatMul",
        *(f"{_CONTRIB}.{name}" for name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QGemm")),
    )

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of a matrix product."""
        source = labels.shape(node.input(0))
        return ((*labels.shape(node.output()), source[0 if node.int("transA", 0) else -1]),)


class IntegerAttention(IntegerLayer):
    """Attention that makes queries, keys and values with an integer weight `(I, 3 * width)`."""

    op_types = (f"{_CONTRIB}.QAttention",)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those with the weight, of the scores, and of the scores with the values."""
        batch, rows, inputs = labels.shape(node.input(0))
        made, past = labels.shape(node.input(1))[1], labels.shape(node.input(8))
        reached = rows + (past[3] if len(past) == 5 else 0)
        return (batch, rows, inputs, made), (2, batch, rows, reached, made // 3)


class IntegerRecurrence(IntegerLayer):
    """An LSTM with integer weights `W (directions, I, 4 * H)` and `R (directions, H, 4 * H)`."""

    op_types = (f"{_CONTRIB}.DynamicQuantizeLSTM",)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the input with W and of the hidden states with R, at each step of each sequence."""
        steps = labels.shape(node.input(0))[:2]
        return tuple((*steps, *labels.shape(weight)) for weight in node.inputs[1:3])

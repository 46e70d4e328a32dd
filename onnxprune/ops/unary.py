"""Elementwise operators of one input: labels pass, axis by axis."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler, Rewriting, pass_through
from onnxprune.ops.examples import example


class Unary(OpHandler):
    """Activations and other functions of one tensor; further inputs (Clip's bounds) are scalars."""

    op_types = (
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Clip", "Abs", "Neg", "Exp", "Log", "Sqrt"),
        *("Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh"),
        *("Cosh", "Asinh", "Acosh", "Atanh", "Identity", "Cast", "Not", "IsNaN", "IsInf", "Shrink", "Swish"),
    )

    def couple(self, node: Node, labels: Labels) -> None:
        """Outputs carry the input's labels."""
        pass_through(labels, node, node.input(0), node.output())

    def examples(self) -> Iterator[onnx.ModelProto]:
        """A hidden layer behind each activation."""
        for op_type in ("Relu", "Sigmoid", "HardSwish", "Erf", "Identity", "Clip"):
            yield example(
                f"""g (float[N,6] x) => (float[N,3] y) {{
                h = Gemm <transB = 1> (x, w1, b1)
                a = {op_type} (h)
                y = Gemm <transB = 1> (a, w2) }}""",
                {"w1": (8, 6), "b1": (8,), "w2": (3, 8)},
            )


class Dropout(OpHandler):
    """Dropout does nothing in inference; its mask has the data's shape."""

    op_types = ("Dropout",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Data and mask carry the input's labels."""
        pass_through(labels, node, node.input(0), *node.outputs)


class PRelu(OpHandler):
    """PRelu: the slope broadcasts to the data."""

    op_types = ("PRelu",)

    def couple(self, node: Node, labels: Labels) -> None:
        """The slope's axes follow the data's (aligned from the right)."""
        source, slope = node.input(0), node.input(1)
        arrays = labels.get(source)
        pass_through(labels, node, source, node.output())
        shape = labels.shape(slope)
        if shape is None or not labels.is_constant(slope):
            labels.freeze_node(node, "the slope of PRelu is computed")
            return
        for axis, size in enumerate(shape):
            if size > 1:
                labels.set(slope, axis, arrays[len(arrays) - len(shape) + axis])

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """Nothing spells out widths: the slope is compressed like any weight."""

    def examples(self) -> Iterator[onnx.ModelProto]:
        """A slope per channel."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,4,4] y) {
            h = Conv (x, w1)
            a = PRelu (h, slope)
            y = Conv <kernel_shape = [1, 1]> (a, w2) }""",
            {"w1": (6, 3, 3, 3), "slope": (6, 1, 1), "w2": (4, 6, 1, 1)},
        )

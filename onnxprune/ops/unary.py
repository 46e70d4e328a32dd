"""Elementwise operators of one input: labels pass, axis by axis."""

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node, is_float
from onnxprune.ops.base import OpHandler, Rewriting, TorchRule, pass_through
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.torch_tools import dtype


class Unary(OpHandler):
    """Activations and other functions of one tensor; further inputs (Clip's bounds) are scalars."""

    op_types = (
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Clip", "Abs", "Neg", "Exp", "Log", "Sqrt"),
        *("Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh"),
        *("Cosh", "Asinh", "Acosh", "Atanh", "Identity", "Cast", "Not", "IsNaN", "IsInf", "Shrink", "Swish"),
    )
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Outputs carry the input's labels."""
        pass_through(labels, node, node.input(0), node.output())

    def moves(self, node: Node) -> tuple[int, ...]:
        """Only what leaves numbers as they are."""
        return (0,) if node.op_type in ("Identity", "Cast") else ()

    def scales(self, node: Node) -> tuple[int, ...]:
        """Only a change of sign."""
        return (0,) if node.op_type == "Neg" else ()

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:
        """A weight of one floating-point type, cast to another."""
        return node.op_type == "Cast" and stored is not None and is_float(stored) and is_float(value)

    def torch(self, node: Node) -> TorchRule | None:
        """The function of the same meaning."""
        return _torch_function(node)

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

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """The data."""
        return (0,)

    def torch(self, node: Node) -> TorchRule | None:
        """The data as they are, also in training: the exported network is trained as it will run."""
        import torch

        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool)) if node.output(1) else x


class PRelu(OpHandler):
    """PRelu: the slope broadcasts to the data."""

    op_types = ("PRelu",)

    def couple(self, node: Node, labels: Labels) -> None:
        """The slope's axes follow the data's (aligned from the right)."""
        source, slope = node.input(0), node.input(1)
        arrays = labels.get(source)
        pass_through(labels, node, source, node.output())
        shape = labels.shape(slope)
        if not labels.is_constant(slope):
            labels.freeze_node(node, "the slope of PRelu is computed")
            return
        for axis, size in enumerate(shape):
            if size > 1:
                labels.set(slope, axis, arrays[len(arrays) - len(shape) + axis])

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """The slope applies below 0."""
        return lambda x, slope: x.clamp(min=0) + slope * x.clamp(max=0)

    def trained(self, node: Node) -> tuple[str, ...]:
        """The slope."""
        return node.inputs[1:]

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


def _torch_function(node: Node) -> TorchRule | None:
    import torch
    from torch.nn import functional

    def number(name: str, default: float) -> float:
        return float(node.attributes.get(name, default))

    def clip(x: Any, low: Any = None, high: Any = None) -> Any:
        return x if low is None and high is None else torch.clamp(x, low, high)

    def is_inf(x: Any) -> Any:
        return (torch.isposinf(x) & bool(node.int("detect_positive", 1))) | (
            torch.isneginf(x) & bool(node.int("detect_negative", 1))
        )

    direct = {
        "Relu": "relu",
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "Erf": "erf",
        "Abs": "abs",
        "Neg": "neg",
        "Exp": "exp",
        "Log": "log",
        "Sqrt": "sqrt",
        "Reciprocal": "reciprocal",
        "Floor": "floor",
        "Ceil": "ceil",
        "Round": "round",
        "Sign": "sign",
        "Sin": "sin",
        "Cos": "cos",
        "Tan": "tan",
        "Asin": "asin",
        "Acos": "acos",
        "Atan": "atan",
        "Sinh": "sinh",
        "Cosh": "cosh",
        "Asinh": "asinh",
        "Acosh": "acosh",
        "Atanh": "atanh",
        "Not": "logical_not",
        "IsNaN": "isnan",
    }
    if node.op_type in direct:
        function: TorchRule = getattr(torch, direct[node.op_type])
        return function
    alpha, gamma = number("alpha", 1.0), number("gamma", 1.0507009873554805)
    functions: dict[str, TorchRule] = {
        "Identity": lambda x: x,
        "LeakyRelu": lambda x: functional.leaky_relu(x, number("alpha", 0.01)),
        "Elu": lambda x: functional.elu(x, alpha),
        "Celu": lambda x: functional.celu(x, alpha),
        "Selu": lambda x: gamma * functional.elu(x, number("alpha", 1.6732632423543772)),
        "ThresholdedRelu": lambda x: torch.where(x > alpha, x, 0.0),
        "HardSigmoid": lambda x: torch.clamp(number("alpha", 0.2) * x + number("beta", 0.5), 0.0, 1.0),
        "HardSwish": functional.hardswish,
        "Softplus": functional.softplus,
        "Softsign": functional.softsign,
        "Mish": functional.mish,
        "Swish": lambda x: x * torch.sigmoid(alpha * x),
        "Gelu": lambda x: functional.gelu(x, approximate=str(node.attributes.get("approximate", "none"))),
        "Shrink": lambda x: (
            torch.where(x < -number("lambd", 0.5), x + number("bias", 0.0), 0.0)
            + torch.where(x > number("lambd", 0.5), x - number("bias", 0.0), 0.0)
        ),
        "IsInf": is_inf,
    }
    if node.op_type == "Clip":
        limits = (number("min", -torch.inf), number("max", torch.inf))
        return clip if node.opset >= 11 else lambda x: torch.clamp(x, *limits)
    if node.op_type == "Cast":
        target = dtype(node.attributes["to"])
        return None if target is None else lambda x: x.to(target)
    return functions.get(node.op_type)

"""Elementwise operators of one input, such as activations: channels are passed on axis by axis."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node, is_float
from onnxprune.ops.backward_tools import where_true
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule, pass_through
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.torch_tools import dtype
from onnxprune.ops.traits import Affine, ChannelValues, Flow, Kinks, LinearMap, Operands, Range

_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign"}
    | {"HardSwish", "Mish", "Gelu", "ThresholdedRelu", "Swish", "Erf"}
)
_LARGE = 1e30  # exporters write ends beyond it for none

_RISING: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: np.asarray(0.5 * (1.0 + np.tanh(0.5 * x))),
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "Exp": np.exp,
    "Floor": np.floor,
    "Ceil": np.ceil,
}
"""Functions that never fall, in numpy."""


class Unary(OpHandler):
    """Activations and other elementwise functions of one tensor; further inputs (the bounds of Clip) are scalars."""

    op_types = (
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Clip", "Abs", "Neg", "Exp", "Log", "Sqrt"),
        *("Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh"),
        *("Cosh", "Asinh", "Acosh", "Atanh", "Identity", "Cast", "Not", "IsNaN", "IsInf", "Shrink", "Swish"),
    )
    folds_up_to = inf
    aliases = ("Identity",)
    converts = ("Cast",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Outputs have the input's channels."""
        pass_through(labels, node, node.input(0), node.output())

    def moves(self, node: Node) -> tuple[int, ...]:
        """The input, for operators that leave numbers as they are."""
        return (0,) if node.op_type in ("Identity", "Cast") else ()

    def scales(self, node: Node) -> tuple[int, ...]:
        """Affine in the input only for a change of sign."""
        return (0,) if node.op_type == "Neg" else ()

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:
        """A cast of a weight from one floating-point type to another."""
        return node.op_type == "Cast" and stored is not None and is_float(stored) and is_float(value)

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """ReLU is met so often that it pays not to load onnx's implementations for it."""
        return np.maximum(inputs[0], inputs[0].dtype.type(0)) if node.op_type == "Relu" else None

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Each output element depends only on the same input element."""
        return Flow.ELEMENTWISE

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:
        """Bounds from both ends of the input, where the function is monotone."""
        source = operands[0]
        if source is None:
            return None
        if node.op_type == "Clip":
            return _clipped(node, source, operands[1:])
        function = _RISING.get(node.op_type)
        return None if function is None else Range(function(source.low), function(source.high))

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:  # noqa: ARG002
        """As an affine function: identity."""
        return Affine() if node.op_type == "Identity" else None

    def kinks(self, node: Node, constant: Callable[[str], np.ndarray | None]) -> Kinks | None:
        """Relu, LeakyRelu, Abs, and Clip with constant ends are piecewise linear."""
        match node.op_type:
            case "Relu":
                return Kinks(low=0.0)
            case "LeakyRelu":
                return Kinks(low=0.0, below=float(node.attributes.get("alpha", 0.01)))
            case "Abs":
                return Kinks(low=0.0, below=-1.0)
            case "Clip":
                low, high = (_end(node, position, constant) for position in (1, 2))
                return None if low is None or high is None else Kinks(low, high)
            case _:
                return None

    def matrices(self, node: Node, operands: Operands) -> LinearMap | None:
        """A change of sign as a matrix."""
        from onnxprune.ops.matrix import forms

        return forms.negative(node, operands) if node.op_type == "Neg" else None

    def jumps(self, node: Node) -> bool:
        """Not continuous: rounding, the sign, and casts, which may be to integers."""
        return node.op_type in ("Round", "Floor", "Ceil", "Sign", "Cast")

    def joins_kernel(self, node: Node) -> bool:
        """The usual activations."""
        return node.op_type in ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "Gelu")

    def activates(self, node: Node) -> bool:
        """The functions that networks use for it."""
        return node.op_type in _ACTIVATIONS

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: the function of the same meaning."""
        return _torch_function(node)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: times the slope of the function at each value."""
        source = node.input(0)
        if back.needs(source):
            part = _through(node, back, back.gradient(node.output()))
            if part is None:
                return False
            back.add(source, part)
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a hidden layer behind each activation."""
        for op_type in ("Relu", "Sigmoid", "HardSwish", "Erf", "Identity", "Clip"):
            yield example(
                f"""g (float[N,6] x) => (float[N,3] y) {{
                h = Gemm <transB = 1> (x, w1, b1)
                a = {op_type} (h)
                y = Gemm <transB = 1> (a, w2) }}""",
                {"w1": (8, 6), "b1": (8,), "w2": (3, 8)},
            )


class PRelu(OpHandler):
    """PRelu: the slope broadcasts to the data."""

    op_types = ("PRelu",)

    def couple(self, node: Node, labels: Labels) -> None:
        """The slope has the data's channels, aligned as in broadcasting."""
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

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Each output element depends on data and slope in the same place."""
        return Flow.ELEMENTWISE

    def kinks(self, node: Node, constant: Callable[[str], np.ndarray | None]) -> Kinks | None:
        """PRelu with a constant slope is piecewise linear."""
        slope = constant(node.input(1))
        return None if slope is None else Kinks(low=0.0, below=slope)

    def joins_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """As an activation."""
        return True

    def activates(self, node: Node) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """In torch: the slope applies below 0."""
        return lambda x, slope: x.clamp(min=0) + slope * x.clamp(max=0)

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: the slope."""
        return node.inputs[1:]

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: times the slope for values below 0."""
        source, gradient = node.input(0), back.gradient(node.output())
        if back.needs(source):
            below = back.node("Mul", [gradient, node.input(1)])
            back.add(source, back.node("Where", [back.node("Greater", [source, back.constant(0.0)]), gradient, below]))
        return True

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """Nothing to adjust: the slope is cut like any weight."""

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a slope per channel."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,4,4] y) {
            h = Conv (x, w1)
            a = PRelu (h, slope)
            y = Conv <kernel_shape = [1, 1]> (a, w2) }""",
            {"w1": (6, 3, 3, 3), "slope": (6, 1, 1), "w2": (4, 6, 1, 1)},
        )


def _clipped(node: Node, source: Range, ends: Sequence[Range | None]) -> Range | None:
    """`min(max(x, low), high)`; the bounds are attributes up to opset 6, inputs after that."""
    low, high = source.low, source.high
    for position, (name, choose) in enumerate((("min", np.maximum), ("max", np.minimum))):
        given = ends[position] if position < len(ends) else None
        if given is None and node.input(position + 1):
            return None
        end = np.array(float(node.attributes.get(name, np.nan)))
        least, most = (end, end) if given is None else (given.low, given.high)
        if not np.isnan(least).all():
            low, high = choose(low, least), choose(high, most)
    return Range(low, high)


def _end(node: Node, position: int, constant: Callable[[str], np.ndarray | None]) -> float | None:
    """A bound of Clip: infinite where it is absent, None where it is computed."""
    name, default = (("min", -np.inf), ("max", np.inf))[position - 1]
    value = constant(node.input(position)) if node.input(position) else np.array(node.attributes.get(name, default))
    if value is None:
        return None
    end = float(value.ravel()[0])
    return end if abs(end) < _LARGE else float(np.sign(end)) * np.inf


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


def _through(node: Node, back: Backward, gradient: str) -> str | None:
    """The gradient times the slope of an operator; None where there is no rule."""
    x, y = node.input(0), node.output()
    constant = back.constant

    def number(name: str, default: float) -> float:
        return float(node.attributes.get(name, default))

    def product(*factors: str) -> str:
        return functools.reduce(lambda a, b: back.node("Mul", [a, b]), factors)

    def above(level: float) -> str:
        return back.node("Greater", [x, constant(level)])

    def below_zero(factor: str) -> str:
        return back.node("Where", [above(0.0), gradient, product(gradient, factor)])

    def one_minus(tensor: str) -> str:
        return back.node("Sub", [constant(1.0), tensor])

    def hard_sigmoid() -> str:
        alpha, beta = number("alpha", 0.2), number("beta", 0.5)
        inside = back.node("And", [above(-beta / alpha), back.node("Not", [above((1 - beta) / alpha)])])
        return where_true(back, inside, product(gradient, constant(alpha)))

    def hard_swish() -> str:
        slope = back.node("Add", [back.node("Div", [x, constant(3.0)]), constant(0.5)])
        return where_true(back, above(-3.0), back.node("Where", [above(3.0), gradient, product(gradient, slope)]))

    def swish() -> str:
        alpha = constant(number("alpha", 1.0))
        gate = back.node("Sigmoid", [product(x, alpha)])
        return product(gradient, back.node("Add", [gate, product(y, alpha, one_minus(gate))]))

    def gelu() -> str:
        part = back.node("Erf", [back.node("Div", [x, constant(math.sqrt(2))])])
        gate = product(back.node("Add", [part, constant(1.0)]), constant(0.5))
        bell = product(x, back.node("Exp", [product(x, x, constant(-0.5))]), constant(1 / math.sqrt(2 * math.pi)))
        return product(gradient, back.node("Add", [gate, bell]))

    rules: dict[str, Callable[[], str]] = {
        "Identity": lambda: gradient,
        "Cast": lambda: gradient,
        "Neg": lambda: back.node("Neg", [gradient]),
        "Relu": lambda: where_true(back, above(0.0), gradient),
        "LeakyRelu": lambda: below_zero(constant(number("alpha", 0.01))),
        "ThresholdedRelu": lambda: where_true(back, above(number("alpha", 1.0)), gradient),
        "Abs": lambda: below_zero(constant(-1.0)),
        "Elu": lambda: below_zero(back.node("Add", [y, constant(number("alpha", 1.0))])),
        # Where nothing was cut off, the output is the input.
        "Clip": lambda: where_true(back, back.node("Equal", [x, y]), gradient),
        "Sigmoid": lambda: product(gradient, y, one_minus(y)),
        "Tanh": lambda: product(gradient, one_minus(product(y, y))),
        "HardSigmoid": hard_sigmoid,
        "HardSwish": hard_swish,
        "Softplus": lambda: product(gradient, back.node("Sigmoid", [x])),
        "Swish": swish,
        "Exp": lambda: product(gradient, y),
        "Log": lambda: back.node("Div", [gradient, x]),
        "Sqrt": lambda: back.node("Div", [gradient, product(y, constant(2.0))]),
        "Reciprocal": lambda: back.node("Neg", [product(gradient, y, y)]),
        "Erf": lambda: product(gradient, back.node("Exp", [product(x, x, constant(-1.0))]), constant(2 / math.pi**0.5)),
        "Gelu": gelu,
    }
    if node.op_type not in rules or str(node.attributes.get("approximate", "none")) != "none":
        return None
    return rules[node.op_type]()

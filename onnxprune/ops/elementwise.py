"""Elementwise operators with several inputs and broadcasting (Add, Mul, Where, ...): operands share their channels."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import unbroadcast, where_true
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.traits import Affine, Change, ChannelValues, Flow, LinearMap, Operands, Range, times


class Elementwise(OpHandler):
    """Elementwise arithmetic, comparison and selection."""

    op_types = (
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "Where", "And", "Or", "Xor"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    )
    trains_numbers = False
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels of all operands, aligned as in broadcasting; constants get the others' channels."""
        output = node.output()
        shape = labels.shape(output)
        operands = [name for name in node.inputs if name]
        for axis, size in enumerate(shape):
            aligned: list[tuple[str, int, Ids | None]] = []
            for name in operands:
                sizes = labels.shape(name)
                position = axis - (len(shape) - len(sizes))
                if position >= 0 and (sizes[position] == size):
                    aligned.append((name, position, labels.axis(name, position)))
            self._couple_axis(node, labels, output, axis, aligned)

    def _couple_axis(
        self, node: Node, labels: Labels, output: str, axis: int, aligned: list[tuple[str, int, Ids | None]]
    ) -> None:
        labelled = [ids for name, _, ids in aligned if ids is not None and not labels.is_constant(name)]
        if not labelled:
            if all(labels.adapts(name, position) for name, position, _ in aligned):
                for name, position, _ in aligned:
                    labels.adapt(output, axis, node, name, position)
            return
        for name, position, ids in aligned:
            if labels.is_constant(name) or (ids is None and labels.adapts(name, position)):
                labels.set(name, position, labelled[0])
            elif ids is None:
                for one in labelled:
                    labels.freeze_ids(one, output, f"combined with {name!r}, which is not prunable", node)
            else:
                labels.tie(labelled[0], ids)
        labels.set(output, axis, labelled[0])

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Each output element depends on the operands' elements in the same place."""
        return Flow.ELEMENTWISE

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:
        """Bounds of sums, differences and products."""
        if len(operands) != 2 or operands[0] is None or operands[1] is None:
            return None
        (a, b), (c, d) = ((side.low, side.high) for side in operands if side is not None)
        match node.op_type:
            case "Add":
                return Range(a + c, b + d)
            case "Sub":
                return Range(a - d, b - c)
            case "Mul":
                corners = np.stack([times(p, q) for p in (a, b) for q in (c, d)])
                return Range(corners.min(axis=0), corners.max(axis=0))
            case _:
                return None

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:
        """As an affine function: a term of a sum or difference; a factor or dividend beside a constant."""
        other = 1 - position
        match node.op_type:
            case "Add" | "Sub":
                signs = (1.0, -1.0 if node.op_type == "Sub" else 1.0)
                shift = None if values.per_channel(node.input(other)) is None else other
                return Affine(signs[position], shift, signs[other])
            case "Mul" | "Div":
                factor = values.per_channel(node.input(other))
                if factor is None or (node.op_type == "Div" and (position == 1 or not factor.all())):
                    return None
                return Affine(factor if node.op_type == "Mul" else 1.0 / factor)
            case _:
                return None

    def scales(self, node: Node) -> tuple[int, ...]:
        """Affine in: every term and factor, and what is divided."""
        return {"Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1), "Div": (0,)}.get(node.op_type, ())

    def matrices(self, node: Node, operands: Operands) -> LinearMap | None:
        """Sums, and products with a constant, as matrices."""
        from onnxprune.ops.matrix import forms

        match node.op_type:
            case "Add" | "Sum":
                return forms.addition(node, operands, [1.0] * len(node.inputs))
            case "Sub":
                return forms.addition(node, operands, [1.0, -1.0])
            case "Mul" | "Div":
                return forms.scaling(node, operands, divides=node.op_type == "Div")
            case _:
                return None

    def jumps(self, node: Node) -> bool:
        """Not continuous: comparisons and remainders."""
        return node.op_type in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "Mod")

    def joins_kernel(self, node: Node) -> bool:
        """A residual."""
        return node.op_type == "Add"

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:
        """Merges an affine change into a constant operand: shifts of a sum, factors of a product."""
        position = 0 if edit.after(0) is not None else 1
        constant, rank = edit.after(position), len(edit.shape(node.output()) or ())
        if constant is None or constant.dtype.kind != "f" or len(node.inputs) != 2:
            return False
        sizes = [-1 if axis == change.axis else 1 for axis in range(rank)]
        if node.op_type == "Add" and change.only_shifts:
            value = constant + change.shift.reshape(sizes)
        elif node.op_type == "Mul" and not change.shift.any():
            value = constant * change.factor.reshape(sizes)
        else:
            return False
        edit.set_input(
            position, (value.reshape(constant.shape) if value.size == constant.size else value).astype(constant.dtype)
        )
        return True

    def torch(self, node: Node) -> TorchRule:
        """In torch: the function of the same meaning; operators with any number of inputs are applied pairwise."""
        return _torch_function(node)

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: biases and scales that stand apart from their layer."""
        return node.inputs if node.op_type in ("Add", "Mul") else ()

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: sums, products, quotients and powers; maxima, minima and choices by the route that was taken."""
        y, names = node.output(), node.inputs
        gradient = back.gradient(y)
        parts: dict[int, str] = {}
        for position, name in enumerate(names):
            if back.needs(name):
                part = _part(node, back, gradient, position)
                if part is None:
                    return False
                parts[position] = unbroadcast(back, part, back.shape(y), back.shape(name))
        for position, part in parts.items():
            back.add(names[position], part)
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a residual, a gate, a scale per channel, a scalar and a comparison."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            r = Relu (h)
            i = Conv <pads = [1, 1, 1, 1]> (r, w2)
            s = Add (h, i)
            g = Sigmoid (i)
            t = Mul (s, g)
            u = Div (t, scale)
            v = Sub (u, scalar)
            y = Conv (v, w3) }""",
            {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "scale": (8, 1, 1), "scalar": (1,), "w3": (4, 8, 1, 1)},
        )


def _torch_function(node: Node) -> TorchRule:
    import torch

    def fold(function: Callable[[Any, Any], Any]) -> TorchRule:
        return lambda *inputs: functools.reduce(function, inputs)

    def divide(a: Any, b: Any) -> Any:
        return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")

    functions: dict[str, TorchRule] = {
        "Add": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "Div": divide,
        "Pow": lambda a, b: torch.pow(a, b).to(a.dtype),
        "Mod": torch.fmod if node.int("fmod", 0) else torch.remainder,
        "Min": fold(torch.minimum),
        "Max": fold(torch.maximum),
        "Sum": fold(torch.add),
        "Mean": lambda *inputs: functools.reduce(torch.add, inputs) / len(inputs),
        "Where": torch.where,
        "And": torch.logical_and,
        "Or": torch.logical_or,
        "Xor": torch.logical_xor,
        "Equal": torch.eq,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
    }
    return functions[node.op_type]


def _part(node: Node, back: Backward, gradient: str, position: int) -> str | None:
    """The gradient of one operand, in the shape of the result; None where there is no rule."""
    y, names, first = node.output(), node.inputs, position == 0

    def quotient() -> str:
        part = back.node("Div", [gradient, names[1]])
        return part if first else back.node("Neg", [back.node("Mul", [part, y])])

    def power() -> str | None:
        exponent = back.value(names[1])
        if exponent is None or exponent.size != 1:
            return None
        number = float(exponent.reshape(()))
        lowered = back.node("Pow", [names[0], back.constant(number - 1)])
        return back.node("Mul", [back.node("Mul", [gradient, lowered]), back.constant(number)])

    def taken() -> str:
        # Where several operands have the value, each gets its share.
        one, zero = back.constant(1.0), back.constant(0.0)
        equal = [back.node("Equal", [name, y]) for name in names]
        count = functools.reduce(
            lambda a, b: back.node("Add", [a, b]), [back.node("Where", [mask, one, zero]) for mask in equal]
        )
        return where_true(back, equal[position], back.node("Div", [gradient, count]))

    def chosen() -> str | None:
        zero = back.constant(0.0)
        pair = (gradient, zero) if position == 1 else (zero, gradient)
        return None if first else back.node("Where", [names[0], *pair])

    rules: dict[str, Callable[[], str | None]] = {
        "Add": lambda: gradient,
        "Sum": lambda: gradient,
        "Sub": lambda: gradient if first else back.node("Neg", [gradient]),
        "Mean": lambda: back.node("Div", [gradient, back.constant(float(len(names)))]),
        "Mul": lambda: back.node("Mul", [gradient, names[1 - position]]),
        "Div": quotient,
        "Pow": lambda: power() if first else None,
        "Max": taken,
        "Min": taken,
        "Where": chosen,
    }
    return rules[node.op_type]() if node.op_type in rules else None

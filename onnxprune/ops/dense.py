"""Gemm and MatMul."""

from collections.abc import Iterable, Iterator
from operator import matmul
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import unbroadcast
from onnxprune.ops.base import Backward, Known, OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Linear, Product
from onnxprune.ops.product import Letters, couple_product, named_products, product_factors
from onnxprune.ops.traits import Change, ChannelUse, LinearMap, Operands


class Gemm(OpHandler):
    """`Y = alpha A' B' + beta C`; a constant B starts new channels."""

    op_types = ("Gemm",)
    folds_up_to = 1 << 16

    def couple(self, node: Node, labels: Labels) -> None:
        """Sum over the inner axis and start new channels on the outer axis."""
        c, y = node.input(2), node.output()
        couple_product(node, labels, *self._letters(node))
        shape = labels.shape(c)
        for axis, size in enumerate(shape):
            position = axis + 2 - len(shape)
            ids, bias_ids = labels.axis(y, position), labels.axis(c, axis)
            if size != labels.shape(y)[position]:
                continue
            if labels.is_constant(c) or (bias_ids is None and labels.adapts(c, axis)):
                labels.set(c, axis, ids)
            elif ids is not None and bias_ids is not None:
                labels.tie(ids, bias_ids)
            else:
                labels.freeze_ids(ids, y, f"added to {c!r}, which is not prunable", node)
                labels.freeze_ids(bias_ids, c, f"added to {y!r}, which is not prunable", node)

    @staticmethod
    def _letters(node: Node) -> tuple[list[tuple[str, Letters]], Letters]:
        left = ("k", "m") if node.int("transA", 0) else ("m", "k")
        right = ("n", "k") if node.int("transB", 0) else ("k", "n")
        return [(node.input(0), left), (node.input(1), right)], ("m", "n")

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """The product of both operands."""
        return named_products(node, labels, *self._letters(node))

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the product."""
        return product_factors(node, labels, *self._letters(node))

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As a layer: one sum over input channels per row, at batch 1."""
        b, y = node.input(1), node.output()
        if not labels.is_constant(b):
            return None
        in_axis, out_axis = _weight_axes(node)
        return Linear(
            input=node.input(0),
            weight=b,
            bias=node.input(2) or None,
            output=y,
            in_axis=in_axis,
            out_axis=out_axis,
            input_axis=0 if node.int("transA", 0) else 1,
            output_axis=1,
            factors=self.multiply_adds(node, labels)[0],
            gain=float(node.attributes.get("alpha", 1.0)),
            bias_gain=float(node.attributes.get("beta", 1.0)),
        )

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """The outputs of the product with a constant matrix."""
        layer = self.linear(node, labels)
        return () if layer is None else ((ChannelUse.MULTIPLIED, labels.axis(layer.output, layer.output_axis)),)

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """With an activation and a residual behind it."""
        return True

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:
        """Without input channels: `beta C`."""
        if not node.input(2):
            return np.zeros((1, 1), known.dtype(node.output()))
        if (c := known.value(node.input(2))) is None:
            return None
        return np.asarray(c * c.dtype.type(node.attributes.get("beta", 1.0))).reshape((1,) * (2 - c.ndim) + c.shape)

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:
        """Merges an affine change into the weight and C."""
        weight, c, (_, out) = edit.after(1), edit.after(2), _weight_axes(node)
        beta = float(node.attributes.get("beta", 1.0))
        known = weight is not None and weight.dtype.kind == "f" and (c is not None or not node.input(2))
        if weight is None or not known or beta == 0 or node.opset < 11:
            return False
        affine = change.along(1, weight.shape[out])
        if affine is None:
            return False
        factor, shift = affine
        if (factor != 1).any():
            edit.set_input(1, (weight * (factor[:, None] if out == 0 else factor)).astype(weight.dtype))
        if c is not None or shift.any():
            edit.set_input(2, ((0 if c is None else c * factor) + shift / beta).astype(weight.dtype))
        return True

    def matrices(self, node: Node, operands: Operands) -> LinearMap:
        """As a matrix: the product with a constant matrix, and the bias."""
        from onnxprune.ops.matrix import forms

        return forms.gemm(node, operands)

    def torch(self, node: Node) -> TorchRule:
        """In torch: a matrix product, scaled and shifted."""
        import torch

        alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
        first, second = bool(node.int("transA", 0)), bool(node.int("transB", 0))

        def run(a: Any, b: Any, c: Any = None) -> Any:
            a, b = a.t() if first else a, b.t() if second else b
            return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: weight and bias."""
        return node.inputs[1:]

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: products with the other operand; the sum over rows for `C`."""
        a, b, c, y = node.input(0), node.input(1), node.input(2), node.output()
        gradient, alpha = back.gradient(y), float(node.attributes.get("alpha", 1.0))
        flip_a, flip_b = node.int("transA", 0), node.int("transB", 0)
        if back.needs(a):
            pair = [b, gradient] if flip_a else [gradient, b]
            back.add(
                a,
                back.node(
                    "Gemm", pair, alpha=alpha, transA=flip_b if flip_a else 0, transB=1 - flip_b if not flip_a else 1
                ),
            )
        if back.needs(b):
            pair = [gradient, a] if flip_b else [a, gradient]
            back.add(
                b,
                back.node(
                    "Gemm", pair, alpha=alpha, transA=1 - flip_a if not flip_b else 1, transB=flip_a if flip_b else 0
                ),
            )
        if c and back.needs(c):
            scaled = back.node("Mul", [gradient, back.constant(float(node.attributes.get("beta", 1.0)))])
            back.add(c, unbroadcast(back, scaled, back.shape(y), back.shape(c)))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: both weight layouts and both bias shapes; no constant at all; a computed C."""
        yield example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm <transB = 1> (x, w1, b1)
            a = Relu (h)
            i = Gemm <alpha = 0.5, beta = 2.0> (a, w2, b2)
            y = Gemm (i, w3, b3) }""",
            {"w1": (8, 6), "b1": (8,), "w2": (8, 7), "b2": (1, 7), "w3": (7, 3), "b3": (1,)},
        )
        yield example(
            """g (float[5,6] x) => (float[5,3] y) {
            h = Gemm (x, w1)
            i = Gemm (x, w2)
            j = Gemm <transA = 1> (h, i, c)
            k = Gemm <transB = 1> (h, i)
            l = Gemm (k, h, i)
            m = Gemm (l, j)
            y = Gemm (m, w3) }""",
            {"w1": (6, 8), "w2": (6, 8), "c": (8, 1), "w3": (8, 3)},
        )
        yield example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm (x, w1)
            i = Gemm <beta = 0.5> (x, w2, h)
            r = Relu (i)
            y = Gemm (r, w3) }""",
            {"w1": (6, 8), "w2": (6, 8), "w3": (8, 3)},
        )


class MatMul(OpHandler):
    """MatMul with a constant or a computed operand, any number of batch axes."""

    op_types = ("MatMul",)
    folds_up_to = 1 << 16

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels on both sides of the inner axis; a constant weight starts new channels."""
        couple_product(node, labels, *self._letters(node, labels))

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """The product of both operands."""
        return named_products(node, labels, *self._letters(node, labels))

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the product."""
        return product_factors(node, labels, *self._letters(node, labels))

    @staticmethod
    def _letters(node: Node, labels: Labels) -> tuple[list[tuple[str, Letters]], Letters]:
        a, b, y = node.input(0), node.input(1), node.output()
        shapes = labels.shape(a), labels.shape(b)
        batch = max(0, max(map(len, shapes)) - 2)
        # Batch axes are numbered from the right; one of size 1 that is broadcast takes no part.
        names = [
            [
                None if size == 1 and labels.shape(y)[batch - count] != 1 else count
                for count, size in zip(range(len(shape) - 2, 0, -1), shape, strict=False)
            ]
            for shape in shapes
        ]
        left = [*names[0], *(["m", "k"] if len(shapes[0]) > 1 else ["k"])]
        right = [*names[1], *(["k", "n"] if len(shapes[1]) > 1 else ["k"])]
        output = [*range(batch, 0, -1), *(letter for letter in ("m", "n") if letter in (*left, *right))]
        return [(a, left), (b, right)], output

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As a layer: one product with a constant matrix per row."""
        a, b, y = node.input(0), node.input(1), node.output()
        if labels.is_constant(a) == labels.is_constant(b):
            return None
        first = labels.is_constant(a)
        weight, source = (a, b) if first else (b, a)
        shape, result = labels.shape(weight), labels.shape(y)
        if len(shape) != 2 or len(result) < 2:
            return None
        out = len(result) - (2 if first else 1)
        rank = labels.rank(source)
        return Linear(
            input=source,
            weight=weight,
            bias=None,
            output=y,
            in_axis=1 if first else 0,
            out_axis=0 if first else 1,
            input_axis=rank - 2 if first else rank - 1,
            output_axis=out,
            factors=self.multiply_adds(node, labels)[0],
        )

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """The outputs of the product with a constant matrix."""
        layer = self.linear(node, labels)
        return () if layer is None else ((ChannelUse.MULTIPLIED, labels.axis(layer.output, layer.output_axis)),)

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """With an activation and a residual behind it."""
        return True

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:
        """Without input channels: zero, where one operand is a weight."""
        if all(known.value(name) is None for name in node.inputs):
            return None
        return np.zeros((1,) * len(known.shape(node.output())), known.dtype(node.output()))

    def matrices(self, node: Node, operands: Operands) -> LinearMap:
        """As a matrix: the product with a constant matrix."""
        from onnxprune.ops.matrix import forms

        return forms.product(node, operands)

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """The same product in torch."""
        return matmul

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: the operand that is a weight."""
        return node.inputs

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: products with the other operand, summed over what was broadcast."""
        a, b, y = node.input(0), node.input(1), node.output()
        shapes = back.shape(a), back.shape(b)
        if min(map(len, shapes)) < 2:
            return False
        gradient = back.gradient(y)
        for operand, other, first in ((a, b, True), (b, a, False)):
            if back.needs(operand):
                shape, rank = back.shape(operand), len(back.shape(other))
                turned = back.node("Transpose", [other], perm=[*range(rank - 2), rank - 1, rank - 2])
                product = back.node("MatMul", [gradient, turned] if first else [turned, gradient])
                wide = (*back.shape(y)[:-2], *shape[-2:])
                back.add(operand, unbroadcast(back, product, wide, shape))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: constant on the right and on the left; attention-like products of two computed operands."""
        yield example(
            """g (float[N,5,6] x) => (float[N,5,3] y) {
            h = MatMul (x, w1)
            a = Relu (h)
            y = MatMul (a, w2) }""",
            {"w1": (6, 8), "w2": (8, 3)},
        )
        yield example(
            """g (float[6,5] x) => (float[3,5] y) {
            h = MatMul (w1, x)
            a = Relu (h)
            y = MatMul (w2, a) }""",
            {"w1": (8, 6), "w2": (3, 8)},
        )
        yield example(
            """g (float[2,5,6] x) => (float[2,5,3] y) {
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            t = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (q, t)
            p = Softmax <axis = -1> (s)
            o = MatMul (p, v)
            y = MatMul (o, wo) }""",
            {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3)},
        )


def _weight_axes(node: Node) -> tuple[int, int]:
    return (1, 0) if node.int("transB", 0) else (0, 1)

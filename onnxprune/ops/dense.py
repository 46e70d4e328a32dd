"""Gemm and MatMul."""

from collections.abc import Iterator
from operator import matmul
from typing import Any

import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import Linear, OpHandler, TorchRule, normal_axis
from onnxprune.ops.examples import example


class Gemm(OpHandler):
    """`Y = alpha A' B' + beta C` with a constant B."""

    op_types = ("Gemm",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Contract over the inner axis, start new channels on the outer one."""
        a, b, c, y = node.input(0), node.input(1), node.input(2), node.output()
        shape = labels.shape(b)
        if not labels.is_constant(b) or shape is None or labels.rank(y) != 2 or (c and not labels.is_constant(c)):
            labels.freeze_node(node, "the weight or bias of Gemm is computed, or shapes are unknown")
            return
        in_axis, out_axis = _weight_axes(node)
        inner = normal_axis(-2 if node.int("transA", 0) else -1, 2)
        ids = labels.axis(a, inner)
        labels.set(b, in_axis, ids)
        labels.contract(node, b, in_axis, ids)
        out = labels.fresh(shape[out_axis], node, y)
        labels.set(b, out_axis, out)
        labels.set(y, 0, labels.axis(a, 1 - inner))
        labels.set(y, 1, out)
        c_shape = labels.shape(c) or ()
        if c_shape and c_shape[-1] == shape[out_axis]:
            labels.set(c, len(c_shape) - 1, out)
        if len(c_shape) == 2 and c_shape[0] > 1:
            labels.set(c, 0, labels.axis(y, 0))

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """The contraction, per row at batch 1."""
        b, y = node.input(1), node.output()
        weight, result = labels.shape(b), labels.shape(y)
        if not labels.is_constant(b) or weight is None or result is None or labels.rank(y) != 2:
            return None
        in_axis, out_axis = _weight_axes(node)
        factors = [ids if ids is not None else n for ids, n in zip(labels.get(b), weight, strict=True)]
        rows = labels.axis(y, 0)
        return Linear(
            input=node.input(0),
            weight=b,
            bias=node.input(2) or None,
            output=y,
            in_axis=in_axis,
            out_axis=out_axis,
            input_axis=0 if node.int("transA", 0) else 1,
            output_axis=1,
            factors=(*factors, result[0] if rows is None else rows),
        )

    def torch(self, node: Node) -> TorchRule:
        """A matrix product, scaled and shifted."""
        import torch

        alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
        first, second = bool(node.int("transA", 0)), bool(node.int("transB", 0))

        def run(a: Any, b: Any, c: Any = None) -> Any:
            a, b = a.t() if first else a, b.t() if second else b
            return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Weight and bias."""
        return node.inputs[1:]

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Both weight layouts and both bias shapes."""
        yield example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm <transB = 1> (x, w1, b1)
            a = Relu (h)
            i = Gemm <alpha = 0.5, beta = 2.0> (a, w2, b2)
            y = Gemm (i, w3, b3) }""",
            {"w1": (8, 6), "b1": (8,), "w2": (8, 7), "b2": (1, 7), "w3": (7, 3), "b3": (1,)},
        )


class MatMul(OpHandler):
    """MatMul with a constant or a computed operand, any number of batch axes."""

    op_types = ("MatMul",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the contracted axes; a constant weight starts new channels."""
        a, b, y = node.input(0), node.input(1), node.output()
        ranks = labels.rank(a), labels.rank(b)
        if min(ranks) < 1 or max(ranks) < 2 or labels.rank(y) == 0:
            labels.freeze_node(node, "shapes of MatMul are unknown")
        elif labels.is_constant(b) and ranks[1] == 2 and not labels.is_constant(a):
            self._couple_weight(node, labels, a, b, y, weight_first=False)
        elif labels.is_constant(a) and ranks[0] == 2 and ranks[1] >= 2 and not labels.is_constant(b):
            self._couple_weight(node, labels, b, a, y, weight_first=True)
        elif min(ranks) >= 2 and not labels.is_constant(a) and not labels.is_constant(b):
            self._couple_computed(node, labels, a, b, y)
        else:
            labels.freeze_node(node, "this form of MatMul (a vector or a stack of constant matrices) is not followed")

    def _couple_weight(
        self, node: Node, labels: Labels, source: str, weight: str, y: str, *, weight_first: bool
    ) -> None:
        in_axis, out_axis = (1, 0) if weight_first else (0, 1)
        rank = labels.rank(source)
        inner = rank - 2 if weight_first else rank - 1
        ids = labels.axis(source, inner)
        labels.set(weight, in_axis, ids)
        labels.contract(node, weight, in_axis, ids)
        shape = labels.shape(weight) or ()
        out = labels.fresh(shape[out_axis], node, y)
        labels.set(weight, out_axis, out)
        arrays = labels.get(source)
        arrays[inner] = out
        labels.set_all(y, arrays)

    def _couple_computed(self, node: Node, labels: Labels, a: str, b: str, y: str) -> None:
        left, right, rank = labels.get(a), labels.get(b), labels.rank(y)
        if (left[-1] is None) != (right[-2] is None):
            labels.freeze_ids(left[-1], a, "multiplied by channels that are not prunable", node)
            labels.freeze_ids(right[-2], b, "multiplied by channels that are not prunable", node)
        elif left[-1] is not None and right[-2] is not None:
            labels.tie(left[-1], right[-2])
            labels.contract(node, a, len(left) - 1, left[-1])
        labels.set(y, rank - 2, left[-2])
        labels.set(y, rank - 1, right[-1])
        for axis in range(rank - 2):  # batch axes, aligned from the right
            ids = [(t, arrays[axis - rank]) for t, arrays in ((a, left), (b, right)) if len(arrays) >= rank - axis]
            present = [(t, i) for t, i in ids if i is not None]
            sizes = [(labels.shape(t) or ())[axis - rank] for t, _ in ids]
            if len(present) == 2 and sizes[0] == sizes[1]:
                labels.tie(present[0][1], present[1][1])
                labels.set(y, axis, present[0][1])
            else:
                for tensor, one in present:
                    labels.freeze_ids(one, tensor, "broadcast over a batch axis of MatMul", node)
                    if len(one) == (labels.shape(y) or ())[axis]:
                        labels.set(y, axis, one)

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """The contraction with a constant matrix, per row."""
        a, b, y = node.input(0), node.input(1), node.output()
        if labels.is_constant(a) == labels.is_constant(b):
            return None
        first = labels.is_constant(a)
        weight, source = (a, b) if first else (b, a)
        shape, result = labels.shape(weight), labels.shape(y)
        if shape is None or len(shape) != 2 or result is None or len(result) < 2:
            return None
        out = len(result) - (2 if first else 1)
        arrays = labels.get(y)
        rows = [arrays[i] if arrays[i] is not None else n for i, n in enumerate(result) if i != out]
        factors = [ids if ids is not None else n for ids, n in zip(labels.get(weight), shape, strict=True)]
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
            factors=(*factors, *rows),
        )

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """The same product."""
        return matmul

    def trained(self, node: Node) -> tuple[str, ...]:
        """The operand that is a weight."""
        return node.inputs

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Constant on the right and on the left; attention-like products of two computed operands."""
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

"""Layers with what follows them, as onnxruntime's optimisers write them: FusedConv, FusedGemm, FusedMatMul."""

from collections.abc import Iterator
from dataclasses import replace

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting
from onnxprune.ops.conv import Conv
from onnxprune.ops.dense import Gemm
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors, Linear, Product
from onnxprune.ops.product import Letters, couple_product, named_products, product_factors

_DOMAIN = "com.microsoft"


class FusedConv(OpHandler):
    """A convolution, a tensor that is added to it, and an activation."""

    op_types = (f"{_DOMAIN}.FusedConv",)

    def couple(self, node: Node, labels: Labels) -> None:
        """As Conv; what is added has the same channels."""
        Conv().couple(node, labels)
        added, output = node.input(3), node.output()
        for axis in range(labels.rank(added) if added else 0):
            addend, ids = labels.axis(added, axis), labels.axis(output, axis)
            if ids is not None and (labels.adapts(added, axis) or addend is not None):
                labels.set(added, axis, ids)
            else:
                labels.freeze_ids(ids, output, f"added to {added!r}, which is not prunable", node)
                labels.freeze_ids(addend, added, f"added to {output!r}, which is not prunable", node)

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As Conv, but the output is not the product alone."""
        layer = Conv().linear(node, labels)
        return None if layer is None else replace(layer, fused=True)

    channel_axis = 1

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """As Conv."""
        return Conv().multiply_adds(node, labels)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As Conv."""
        Conv().rewrite(node, edit)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """With an activation, with a sum, depthwise."""
        for more, added, group in (("", "", 1), (", w2b, h", ", h", 1), ("", "", 8)):
            weights: dict[str, tuple[int, ...]] = {"w1": (8, 3, 3, 3), "w2": (8, 8 // group, 3, 3), "w3": (4, 8, 1, 1)}
            bias = {"w2b": (8,)} if added else {}
            yield example(
                f"""g (float[N,3,6,6] x) => (float[N,4,A,B] y) {{
                h = Conv (x, w1)
                k = {_DOMAIN}.FusedConv <activation = "Relu", group = {group}, pads = [1, 1, 1, 1]> (h, w2{more})
                y = Conv (k, w3) }}""",
                weights | bias,
                full_check=False,
                domain=_DOMAIN,
            )


class FusedGemm(OpHandler):
    """A matrix product and an activation."""

    op_types = (f"{_DOMAIN}.FusedGemm",)

    def couple(self, node: Node, labels: Labels) -> None:
        """As Gemm."""
        Gemm().couple(node, labels)

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As Gemm, but the output is not the product alone."""
        layer = Gemm().linear(node, labels)
        return None if layer is None else replace(layer, fused=True)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """As Gemm."""
        return Gemm().products(node, labels)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """As Gemm."""
        return Gemm().multiply_adds(node, labels)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Between two layers."""
        yield example(
            f"""g (float[N,6] x) => (float[N,3] y) {{
            h = Gemm (x, w1)
            k = {_DOMAIN}.FusedGemm <activation = "Relu", transB = 1> (h, w2, b2)
            y = Gemm (k, w3) }}""",
            {"w1": (6, 8), "w2": (7, 8), "b2": (7,), "w3": (7, 3)},
            full_check=False,
            domain=_DOMAIN,
        )


class FusedMatMul(OpHandler):
    """A matrix product of operands that are transposed first, scaled."""

    op_types = (f"{_DOMAIN}.FusedMatMul", f"{_DOMAIN}.TransposeMatMul")

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the contracted axes; a constant weight starts new channels."""
        operands, output = _letters(node, labels)
        if operands:
            couple_product(node, labels, operands, output)
        else:
            labels.freeze_node(node, f"{node.op_type} with batch axes moved is not followed")

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """The contraction with a constant matrix on the right."""
        a, b, y = node.input(0), node.input(1), node.output()
        if labels.is_constant(a) or not labels.is_constant(b) or labels.rank(b) != 2 or not _letters(node, labels)[0]:
            return None
        turned = node.int("transB", 0)
        rank = labels.rank(a)
        return Linear(
            input=a,
            weight=b,
            bias=None,
            output=y,
            in_axis=1 if turned else 0,
            out_axis=0 if turned else 1,
            input_axis=rank - 2 if node.int("transA", 0) else rank - 1,
            output_axis=labels.rank(y) - 1,
            factors=product_factors(node, labels, *_letters(node, labels))[0],
            gain=float(node.attributes.get("alpha", 1.0)),
        )

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """That of both operands."""
        return named_products(node, labels, *_letters(node, labels))

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Those of the product; unknown where batch axes are moved."""
        operands, output = _letters(node, labels)
        return product_factors(node, labels, operands, output) if operands else None

    def examples(self) -> Iterator[onnx.ModelProto]:
        """A transposed weight, and the scores of attention."""
        yield example(
            f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
            q = {_DOMAIN}.FusedMatMul <transB = 1> (x, wq)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            s = {_DOMAIN}.FusedMatMul <transB = 1, alpha = 0.5> (q, k)
            p = Softmax <axis = -1> (s)
            o = MatMul (p, v)
            y = MatMul (o, wo) }}""",
            {"wq": (8, 6), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3)},
            full_check=False,
            domain=_DOMAIN,
        )


def _letters(node: Node, labels: Labels) -> tuple[list[tuple[str, Letters]], Letters]:
    """Names of all axes; none where batch axes are moved, or an operand is a vector."""
    shapes = [labels.shape(name) for name in node.inputs[:2]]
    if node.int("transBatchA", 0) or node.int("transBatchB", 0) or min(map(len, shapes)) < 2:
        return [], ()
    result = labels.shape(node.output())
    batch = len(result) - 2
    names: list[Letters] = []
    for shape, matrix, turned in zip(shapes, (("m", "k"), ("k", "n")), ("transA", "transB"), strict=True):
        counts = range(len(shape) - 2, 0, -1)
        outer = [
            None if size == 1 and result[batch - count] != 1 else count
            for count, size in zip(counts, shape, strict=False)
        ]
        names.append([*outer, *(reversed(matrix) if node.int(turned, 0) else matrix)])
    return list(zip(node.inputs[:2], names, strict=True)), [*range(batch, 0, -1), "m", "n"]

"""Einsum with an explicit or implicit output, without diagonals and ellipses."""

from collections.abc import Iterator
from typing import Any

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors, Product
from onnxprune.ops.product import couple_product, named_products, product_factors


class Einsum(OpHandler):
    """Einsum: sums of products over named axes."""

    op_types = ("Einsum",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Axes of the same letter are tied; letters missing in the output are summed over."""
        terms, output = _terms(node)
        if not _is_plain(terms, output):
            labels.freeze_node(node, "Einsum with a diagonal or an ellipsis is not followed")
            return
        couple_product(node, labels, list(zip(node.inputs, terms, strict=True)), output)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """The product of all operands."""
        terms, output = _terms(node)
        operands = list(zip(node.inputs, terms, strict=True))
        return named_products(node, labels, operands, output) if _is_plain(terms, output) else ()

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Those of multiplying the operands one after the other; unknown with a diagonal or an ellipsis."""
        terms, output = _terms(node)
        if not _is_plain(terms, output):
            return None if len(terms) > 1 else ()
        return product_factors(node, labels, list(zip(node.inputs, terms, strict=True)), output)

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same sum of products."""
        import torch

        terms, output = _terms(node)
        equation = f"{','.join(terms)}->{output}"

        def run(*operands: Any) -> Any:
            return torch.einsum(equation, *operands)

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: the operand that is a weight."""
        return node.inputs

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a weight, and attention over heads."""
        yield example(
            """g (float[2,5,6] x) => (float[2,5,4] y) {
            h = Einsum <equation = "btd,df->btf"> (x, w1)
            r = Relu (h)
            y = Einsum <equation = "btf,gf->btg"> (r, w2) }""",
            {"w1": (6, 8), "w2": (4, 8)},
        )
        yield example(
            """g (float[2,5,6] x) => (float[2,5,4] y) {
            q = Einsum <equation = "btc,chd->bthd"> (x, wq)
            k = Einsum <equation = "btc,chd->bthd"> (x, wk)
            v = Einsum <equation = "btc,chd->bthd"> (x, wv)
            s = Einsum <equation = "bqhd,bkhd->bhqk"> (q, k)
            p = Softmax <axis = -1> (s)
            o = Einsum <equation = "bhqk,bkhd->bqhd"> (p, v)
            y = Einsum <equation = "bqhd,hdc->bqc"> (o, wo) }""",
            {"wq": (6, 4, 3), "wk": (6, 4, 3), "wv": (6, 4, 3), "wo": (4, 3, 4)},
        )


def _is_plain(terms: list[str], output: str) -> bool:
    """Whether the equation has neither an ellipsis nor a diagonal (a letter twice in one term)."""
    return "." not in "".join(terms) and all(len(set(term)) == len(term) for term in (*terms, output))


def _terms(node: Node) -> tuple[list[str], str]:
    left, arrow, right = str(node.attributes.get("equation", "")).replace(" ", "").partition("->")
    letters = sorted(letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1)
    return left.split(","), right if arrow else "".join(letters)

"""Einsum with an explicit or implicit output, with ellipses, and without diagonals."""

from collections.abc import Hashable, Iterator
from typing import Any

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Factors, Product
from onnxprune.ops.product import Letters, couple_product, named_products, product_factors


class Einsum(OpHandler):
    """Einsum: sums of products over named axes."""

    op_types = ("Einsum",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Axes of the same letter are tied; letters missing in the output are summed over."""
        read = _equation(node, labels)
        if read is None:
            labels.freeze_node(node, "Einsum with a diagonal is not followed")
            return
        couple_product(node, labels, *read)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """The product of all operands."""
        read = _equation(node, labels)
        return () if read is None else named_products(node, labels, *read)

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...] | None:
        """Those of multiplying the operands one after the other; unknown with a diagonal."""
        read = _equation(node, labels)
        if read is None:
            return None if len(node.inputs) > 1 else ()
        return product_factors(node, labels, *read)

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


def _equation(node: Node, labels: Labels) -> tuple[list[tuple[str, Letters]], Letters] | None:
    """Operands and output with a name for each axis; None with a diagonal (a letter twice in one term).

    The axes of an ellipsis are named by their place, counted from its end. Axes of size 1 that are broadcast have None.
    """
    terms, result = _terms(node)
    named: list[tuple[str, list[Hashable]]] = []
    for name, term in zip(node.inputs, terms, strict=True):
        rest = labels.rank(name) - len(term.replace("...", ""))
        named.append((name, _axes(term, rest)))
    rest = labels.rank(node.output()) - len(result.replace("...", ""))
    output = _axes(result, rest)
    if any(len(set(axes)) < len(axes) for axes in (*(axes for _, axes in named), output)):
        return None
    sizes: dict[Hashable, int] = {}
    for name, axes in named:
        for letter, size in zip(axes, labels.shape(name), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    operands: list[tuple[str, Letters]] = []
    for name, axes in named:
        pairs = zip(axes, labels.shape(name), strict=True)
        operands.append((name, [letter if size == sizes[letter] else None for letter, size in pairs]))
    return operands, output


def _axes(term: str, rest: int) -> list[Hashable]:
    """A name for each axis of a term, of which an ellipsis stands for `rest`."""
    before, dots, after = term.partition("...")
    return [*before, *(range(-rest, 0) if dots else ()), *after]


def _terms(node: Node) -> tuple[list[str], str]:
    left, arrow, right = str(node.attributes.get("equation", "")).replace(" ", "").partition("->")
    letters = sorted(letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1)
    implicit = ("..." if "..." in left else "") + "".join(letters)
    return left.split(","), right if arrow else implicit

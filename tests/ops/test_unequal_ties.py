"""Channels of different numbers that meet: an error that names the node, where shape inference lets it pass."""

import pytest

from onnxprune.core.errors import ModelError
from onnxprune.ops import only_now
from onnxprune.ops.base import OpHandler
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyze


class Careless(OpHandler):
    """Ties its inputs' channels without a look at their numbers."""

    op_types = ("com.example.Careless",)
    keeps_shape = True

    def couple(self, node, labels):
        labels.tie(labels.get(node.input(0))[1], labels.get(node.input(1))[1])
        labels.follow(node, node.input(0), 1, node.output(), 1)


def test_unequal_ties_name_the_node():
    """numpy's error was an internal one."""
    text = """g (float[N,6] x) => (float[N,3] y) {
        a = Gemm (x, w1)
        b = Gemm (x, w2)
        c = com.example.Careless (a, b)
        y = Gemm (c, w3) }"""
    proto = example(text, {"w1": (6, 8), "w2": (6, 7), "w3": (8, 3)}, domain="com.example", full_check=False)
    proto.graph.node[2].name = "meeting"
    with only_now(Careless()), pytest.raises(ModelError, match=r"'meeting'.*8 channels meet 7"):
        analyze(proto)

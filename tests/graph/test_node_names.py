"""Node names are for people: whatever a file calls its nodes, each is one node."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import analysed, check_removal, random_removal
from random_graphs import graphs

import onnxprune
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.examples import example
from onnxprune.structure.removal import remove


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(), st.randoms(use_true_random=False), st.integers(0, 99))
def test_nodes_named_like_each_other_or_like_tensors(proto, random, seed):
    outputs = [name for node in proto.graph.node for name in node.output]
    pool = ["", *outputs, *(f"{name}#2" for name in outputs)]
    for node in proto.graph.node:
        node.name = random.choice(pool)
        if node.name:  # onnxruntime refuses two nodes of one name
            pool.remove(node.name)
    model = load(proto)
    graph = read_graph(model)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    for node in graph.nodes:
        assert model.proto.graph.node[node.index].output[0] == node.output()
        assert model.proto.graph.node[node.index].name in ("", node.name)
    a = analysed(proto)
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(seed)), seed, batch=2)


def _confusing() -> onnx.ModelProto:
    """The first layer is named like the output of the second one, which has no name."""
    weights = {"w1": (6, 16), "b1": (16,), "w2": (16, 12), "b2": (12,), "w3": (12, 3), "b3": (3,)}
    proto = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h1 = Gemm (x, w1, b1)
        r1 = Relu (h1)
        h2 = Gemm (r1, w2, b2)
        r2 = Relu (h2)
        y = Gemm (r2, w3, b3) }""",
        weights,
    )
    proto.graph.node[0].name = "h2"
    return proto


def test_nodes_of_one_name_are_told_apart():
    proto = _confusing()
    proto.graph.node[2].name = "h2"
    assert [node.name for node in read_graph(load(proto)).nodes] == ["h2", "r1", "h2#2", "r2", "y"]


def test_written_nodes_keep_the_names_they_had():
    a = analysed(_confusing())
    smaller = to_proto(remove(a, random_removal(a, 0.5, np.random.default_rng(0))))
    assert [node.name for node in smaller.graph.node] == ["h2", "", "", "", ""]
    assert [node.name for node in a.graph.nodes] == ["h2", "r1", "h2#2", "r2", "y"]


def test_layer_named_like_anothers_output_is_scored_and_repaired_apart():
    rows = np.random.default_rng(0).standard_normal((80, 6)).astype(np.float32)
    result = onnxprune.prune(_confusing(), rows, targets="macs=0.6")
    assert {group.name: group.units for group in result.groups} == {"h2": 16, "h2#2": 12}
    assert result.after.macs <= 0.6 * result.before.macs


def test_output_that_is_left_out_comes_first():
    """The second output of a Split is the only one that has a name: the node is still found in the file."""
    proto = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = Gemm (x, w1, b1)
        unread, half = Split <axis = 1> (h)
        unread2, part = Split <axis = 1> (half)
        y = Gemm (part, w2, b2) }""",
        {"w1": (6, 16), "b1": (16,), "w2": (4, 3), "b2": (3,)},
        opset=13,
    )
    for node in proto.graph.node[1:3]:
        node.output[0] = ""
    model = load(proto)
    assert [(node.name, node.index) for node in read_graph(model).nodes][1:3] == [("half", 1), ("part", 2)]

"""Graphs of thousands of nodes in a row: whatever walks a graph is a loop."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import analysed, check_removal, random_removal

import onnxprune

LENGTH = 1_100


def _model(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _chain(source: str, op_type: str, target: str) -> list[onnx.NodeProto]:
    names = [source, *(f"{target}{i}" for i in range(LENGTH - 1)), target]
    return [helper.make_node(op_type, [a], [b]) for a, b in pairwise(names)]


def made_to_size() -> onnx.ModelProto:
    """What is added has the size of what it is added to, and goes through a long chain before."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Shape", ["h"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["zero"]),
        *_chain("zero", "Sigmoid", "added"),
        helper.make_node("Add", ["h", "added"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    return _model(nodes, w1=_weight(6, 8), w2=_weight(8, 3))


def activations() -> onnx.ModelProto:
    """A long chain of activations between two layers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        *_chain("h", "Relu", "a"),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    return _model(nodes, w1=_weight(6, 8), w2=_weight(8, 3))


def computed_weight() -> onnx.ModelProto:
    """A weight that a long chain of nodes computes from a stored one."""
    nodes = [
        *_chain("stored", "Neg", "w1"),
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    return _model(nodes, stored=_weight(6, 8), w2=_weight(8, 3))


@pytest.mark.parametrize("build", [made_to_size, activations, computed_weight])
def test_removal_from_a_long_graph(build):
    a = analysed(build())
    assert a.prunable == 8
    smaller = check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)), batch=2)
    assert not any(node.op_type == "Neg" for node in smaller.proto.graph.node)


@pytest.mark.parametrize("options", [{"targets": "macs=0.7"}, {"lossless": True}])
def test_every_way_to_prune_a_long_graph(options):
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    result = onnxprune.prune(activations(), rows, **options)
    assert result.after.macs <= result.before.macs

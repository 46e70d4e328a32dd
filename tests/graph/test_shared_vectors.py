"""Vectors that an exporter stored once for several layers are no bond between these."""

import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from oracle import analysed, check_removal, random_removal
from random_graphs import graphs

import onnxprune
from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.graph.nodes import read_graph
from onnxprune.lossless import lossless
from onnxprune.ops.examples import example
from onnxprune.structure.costs import count_costs
from onnxprune.structure.removal import remove

WEIGHTS = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 3, 3), "w4": (4, 16, 1, 1)}


def network(bias: str, nodes: str = "", **vectors: np.ndarray) -> onnx.ModelProto:
    first, second, third = bias.split()
    return example(
        f"""g (float[N,3,12,12] x) => (float[N,4,A,B] y) {{
        {nodes}
        h = Conv (x, w1, {first})
        r = Relu (h)
        k = Conv (r, w2, {second})
        q = Relu (k)
        s = Conv (q, w3, {third})
        u = Relu (s)
        y = Conv (u, w4) }}""",
        WEIGHTS,
        vectors,
    )


ZERO = np.zeros(16, np.float32)
SHARED = network("z z z", z=ZERO)
ALIASES = network("z z2 z3", "z2 = Identity (z) z3 = Identity (z)", z=ZERO)


@pytest.mark.parametrize("proto", [SHARED, ALIASES], ids=["shared", "aliases"])
def test_layers_with_one_bias_are_pruned_apart(proto):
    a = analysed(proto)
    assert {group.name: len(group) for group in a.groups} == {"h": 16, "k": 16, "s": 16}
    for seed in range(4):
        check_removal(a, random_removal(a, 0.3, np.random.default_rng(seed)), seed)


def test_the_result_is_that_of_a_bias_of_its_own_for_each_layer():
    rows = np.random.default_rng(0).standard_normal((80, 3, 12, 12)).astype(np.float32)
    own = network("a b c", a=ZERO, b=ZERO, c=ZERO)
    results = [onnxprune.prune(proto, rows, targets="macs=0.5") for proto in (SHARED, own)]
    assert results[0].plan.removed == results[1].plan.removed
    assert results[0].metrics == results[1].metrics


def test_costs_are_those_of_the_file():
    a = analysed(SHARED)
    stored = sum(numpy_helper.to_array(tensor).size for tensor in SHARED.graph.initializer)
    assert a.costs().params == stored == count_costs(load(SHARED)).params


def test_what_is_not_pruned_is_written_as_it_was():
    a = analysed(SHARED)
    before = SHARED.SerializeToString(deterministic=True)
    assert to_proto(remove(a, a.none_removed())).SerializeToString(deterministic=True) == before
    smaller = to_proto(remove(a, a.removal({"s": [0, 1]})))
    assert [node.input[2] for node in smaller.graph.node if len(node.input) > 2] == ["z", "z", "z:3"]


def test_processes_can_be_sent_it():
    a = analysed(SHARED)
    again = pickle.loads(pickle.dumps(a.model))
    assert again.copies == a.model.copies
    assert to_proto(again).SerializeToString() == to_proto(a.model).SerializeToString()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graphs(), st.integers(0, 99))
def test_equal_vectors_merged_in_any_graph(proto, seed):
    """As optimisers do: one initializer for all vectors of a length."""
    scales = {name for node in proto.graph.node if node.op_type == "Resize" for name in node.input}  # they give sizes
    first: dict[int, str] = {}
    renamed = {}
    kept = []
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 1 and array.dtype == np.float32 and array.size > 1 and tensor.name not in scales:
            renamed[tensor.name] = first.setdefault(array.size, tensor.name)
            if renamed[tensor.name] == tensor.name:
                kept.append(numpy_helper.from_array(np.abs(array) + np.float32(0.5), tensor.name))
        else:
            kept.append(tensor)
    merged = helper.make_graph(list(proto.graph.node), "g", proto.graph.input, proto.graph.output, kept)
    for node in merged.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
    model = helper.make_model(merged, opset_imports=proto.opset_import, ir_version=8)
    a = analysed(model)
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(seed)), seed, batch=2)


def test_a_bias_that_is_also_the_mean_of_its_layer_stays_the_mean() -> None:
    """A constant folded into the bias moved the mean too, and back."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    first[0] = 0.0
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,5,A,B] y) {
        h = Conv (x, w1, b1)
        r = Relu (h)
        c = Conv (r, w2)
        y = BatchNormalization (c, s, z, z, v) }""",
        {"w2": (5, 4, 1, 1)},
        {"w1": first, "b1": np.float32([2, 1, -1, 0.5])}
        | {name: rng.random(5).astype(np.float32) + 0.5 for name in ("s", "z", "v")},
    )
    found = lossless(analysed(proto))
    assert found.constant == 1
    rows = {"x": rng.standard_normal((3, 3, 6, 6)).astype(np.float32)}
    before, after = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, rows)
        for each in (proto, to_proto(found.model))
    )
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)


def test_setting_one_of_two_equal_inputs_leaves_the_other() -> None:
    proto = example(
        "g (float[N,3] x) => (float[N,4] y) { h = MatMul (x, w) k = Mul (h, s) y = Where (m, k, s) }",
        {"w": (3, 4), "s": (1,)},
        {"m": np.array([True, False, True, True])},
    )
    model = load(proto)
    graph = read_graph(model)
    assert graph.reads("s") == 2
    node = graph.producer["k"]
    edit = GraphEdit(model, graph)
    edit.set_input(node, 1, np.float32([5]))
    after = edit.apply()
    again = read_graph(after)
    np.testing.assert_array_equal(after.constants[again.producer["y"].input(2)], model.constants["s"])
    assert after.constants[again.producer["k"].input(1)] == 5


@pytest.mark.parametrize("view", ["Unsqueeze (b, axes)", "Reshape (b, shape)"])
@pytest.mark.parametrize("opset", [11, 17])
def test_a_vector_in_another_shape_is_no_bond_either(view: str, opset: int) -> None:
    """Biases merged by value behind one Unsqueeze or Reshape tied their layers."""
    old = opset < 13 and view.startswith("Unsqueeze")
    text = f"""g (float[N,3,12,12] x) => (float[N,4,A,B] y) {{
        c = {"Unsqueeze <axes = [1, 2]> (b)" if old else view}
        h = Conv (x, w1)
        i = Add (h, c)
        r = Relu (i)
        k = Conv (r, w2)
        l = Add (k, c)
        q = Relu (l)
        y = Conv (q, w4) }}"""
    constants = {
        "axes": np.array([1, 2]),
        "shape": np.array([1, -1, 1, 1]),
        "b": np.linspace(-1, 1, 16, dtype=np.float32),
    }
    read = {"b", *([] if old else ["axes"] if "axes" in view else ["shape"])}
    proto = example(
        text,
        {name: WEIGHTS[name] for name in ("w1", "w2", "w4")},
        {name: value for name, value in constants.items() if name in read},
        opset=opset,
    )
    a = analysed(proto)
    assert {group.name: len(group) for group in a.groups} == {"h": 16, "k": 16}
    for seed in range(4):
        check_removal(a, random_removal(a, 0.3, np.random.default_rng(seed)), seed)


def test_a_view_in_an_old_file_becomes_an_input_as_well():
    """Before version 4 of the format, every initializer is an input too."""
    proto = example(
        """g (float[N,3,12,12] x) => (float[N,4,A,B] y) {
        c = Unsqueeze <axes = [1, 2]> (b)
        h = Conv (x, w1)
        i = Add (h, c)
        k = Conv (i, w2)
        l = Add (k, c)
        y = Conv (l, w4) }""",
        {name: WEIGHTS[name] for name in ("w1", "w2", "w4")} | {"b": (16,)},
        opset=9,
    )
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    a = analysed(proto)
    assert {group.name: len(group) for group in a.groups} == {"h": 16, "k": 16}
    smaller = to_proto(check_removal(a, random_removal(a, 0.3, np.random.default_rng(0))))
    held = {tensor.name for tensor in smaller.graph.initializer}
    assert held <= {value.name for value in smaller.graph.input}
    assert not any(node.op_type == "Unsqueeze" for node in smaller.graph.node)

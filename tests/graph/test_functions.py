"""Local functions: written out where that ends, refused within seconds where it does not."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxprune.core.errors import ModelError
from onnxprune.graph import functions
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("loc", 1)]


def model(calls: Sequence[onnx.NodeProto], *made: onnx.FunctionProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        calls,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    return helper.make_model(graph, functions=made, opset_imports=OPSETS, ir_version=10)


def call(name: str, source: str = "x", target: str = "y", domain: str = "loc") -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain=domain)


def function(name: str, *nodes: onnx.NodeProto, domain: str = "loc") -> onnx.FunctionProto:
    return helper.make_function(domain, name, ["x"], ["y"], nodes, OPSETS)


def doubling(depth: int, nodes: Sequence[onnx.NodeProto]) -> list[onnx.FunctionProto]:
    """Each calls the one before twice."""
    made = [function("L0", *nodes)]
    for n in range(1, depth + 1):
        made.append(function(f"L{n}", call(f"L{n - 1}", "x", "t"), call(f"L{n - 1}", "t", "y")))
    return made


def in_a_body(name: str) -> onnx.NodeProto:
    made = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    body = helper.make_graph([call(name, "x", "z")], "b", [], made)
    return helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)


RELU = [helper.make_node("Relu", ["x"], ["y"])]
BIG = [
    helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", TensorProto.FLOAT, [2**15], [0] * 2**15)),
    helper.make_node("Relu", ["x"], ["y"]),
]
ENDLESS = {
    "calls itself": ([call("S")], [function("S", call("S"))], "'S' calls itself"),
    "in a circle": (
        [call("A")],
        [function("A", call("B")), function("B", call("A"))],
        "calls itself, or one that does",
    ),
    "in a body": ([call("S")], [function("S", in_a_body("S"))], "calls itself"),
    "an operator's own name": (
        [call("Relu", domain="")],
        [function("Relu", call("Relu", domain="ai.onnx"), domain="")],
        "calls itself",
    ),
    "never called": ([call("Relu", domain="")], [function("S", call("S"))], "calls itself"),
    "2^26 nodes": ([call("L25")], doubling(25, RELU), "stand for 33554432 nodes"),
    "2^1000 nodes": ([call("L99")], doubling(99, RELU), "nodes, more than are read"),
    "1 GiB of constants": ([call("L13")], doubling(13, BIG), "bytes, more than are read"),
    "2^20 nodes in bodies": ([in_a_body("L19")], doubling(19, RELU), "nodes, more than are read"),
    "a chain of 2,000": (
        [call("C1999")],
        [function("C0", *RELU), *(function(f"C{n}", call(f"C{n - 1}")) for n in range(1, 2_000))],
        "more than 100 local functions",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_functions_without_end_are_refused_within_seconds(case: str) -> None:
    """7 kB of functions that call each other twice stood for 2^26 nodes, and nothing came back."""
    calls, made, message = ENDLESS[case]
    proto = model(calls, *made)
    with pytest.raises(ModelError, match=message) as found:
        load(proto)
    assert len(str(found.value)) < 500


def test_functions_up_to_the_bounds_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MOST_NODES", 1024)
    proto = model([call("L10")], *doubling(10, RELU))
    loaded = load(proto)
    assert [node.op_type for node in loaded.proto.graph.node] == ["Relu"] * 1024
    feed = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    first, second = (
        ort.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for p in (to_proto(loaded), proto)
    )
    np.testing.assert_array_equal(first, second)
    monkeypatch.setattr(functions, "MOST_NODES", 1023)
    with pytest.raises(ModelError, match="stand for 1024 nodes"):
        load(proto)


def test_the_deepest_chain_that_is_read_is_written_out() -> None:
    depth = functions.MOST_DEPTH
    chain = [function("C0", *RELU), *(function(f"C{n}", call(f"C{n - 1}")) for n in range(1, depth))]
    assert [node.op_type for node in load(model([call(f"C{depth - 1}")], *chain)).proto.graph.node] == ["Relu"]


def test_functions_of_one_name_and_other_overloads_are_told_apart() -> None:
    inner = function("F", *RELU)
    outer = function("F", call("F"))
    outer.overload = "outer"
    outside = call("F")
    outside.overload = "outer"
    assert [node.op_type for node in load(model([outside], inner, outer)).proto.graph.node] == ["Relu"]

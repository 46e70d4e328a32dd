"""Behind an operator that nobody here knows, the analysis goes on."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from oracle import analysed, check_removal, random_removal

from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.graph.operators import Seen
from onnxprune.ops.examples import example
from onnxprune.ops.facts import gather_facts

WEIGHTS = {"w1": (8, 3, 1, 1), "w2": (16, 8, 1, 1), "w3": (24, 16, 1, 1), "w4": (5, 24, 1, 1)}


def network(
    domain: str, op_type: str, sizes: str = "N,3,8,8", declare: list[int | str] | None = None
) -> onnx.ModelProto:
    """Four convolutions with an operator of some domain behind the second one."""
    proto = example(
        f"""g (float[{sizes}] x) => (float[A,B,C,D] y) {{
        a = Conv (x, w1)
        r = Relu (a)
        b = Conv (r, w2)
        m = Relu (b)
        c = Conv (m, w3)
        s = Relu (c)
        y = Conv (s, w4) }}""",
        WEIGHTS,
    )
    proto.graph.node[3].op_type, proto.graph.node[3].domain = op_type, domain
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    if declare is not None:
        proto.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, declare))
    return proto


TWIN = analysed(network("", "Relu"))
KNOWN = [layer.node for layer in TWIN.layers]


@pytest.mark.parametrize("sizes", ["N,3,8,8", "4,3,8,8", "N,3,H,W"])
def test_operators_of_onnxruntime_are_asked_for_their_shapes(sizes):
    a = analysed(network("com.microsoft", "Trilu", sizes))
    twin = analysed(network("", "Relu", sizes))
    assert [(layer.node, layer.terms[0][-2:]) for layer in a.operations] == [
        (layer.node, layer.terms[0][-2:]) for layer in twin.operations
    ]
    assert a.costs() == twin.costs()
    assert {group.name for group in a.groups} == {"a", "c"}
    assert a.facts.shapes == twin.facts.shapes
    assert a.facts.free == twin.facts.free
    assert [item.reason for item in a.not_pruned if item.limitation] == [
        "operator com.microsoft.Trilu is not supported"
    ]
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("sizes", "declare"),
    [("1,3,8,8", [1, 16, 8, 8]), ("N,3,8,8", ["N", 16, 8, 8]), ("N,3,H,W", ["N", 16, "H", "W"])],
)
def test_shapes_that_the_file_declares_serve_where_nothing_can_run(sizes, declare):
    a = analysed(network("somewhere", "Magic", sizes, declare))
    twin = analysed(network("", "Relu", sizes))
    assert a.costs() == twin.costs()
    assert a.facts.free == twin.facts.free


def test_declared_shapes_that_contradict_the_graph_are_not_believed():
    proto = example(
        """g (float[1,3] x) => (float[A,B] y) {
        a = MatMul (x, w1)
        m = Relu (a)
        s = Relu (m)
        y = MatMul (s, w2) }""",
        {"w1": (3, 8), "w2": (8, 5)},
    )
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Magic", "somewhere"
    proto.opset_import.append(helper.make_opsetid("somewhere", 1))
    for declare, known in (([1, 8], True), ([1, 7], False)):
        del proto.graph.value_info[:]
        proto.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, declare))
        assert ("m" in analysed(proto).facts.shapes) is known


def test_sizes_left_from_before_an_input_became_free_are_not_believed():
    """The file declares the batch that it was exported with."""
    a = analysed(network("com.microsoft", "Trilu", "N,3,8,8", [1, 16, 8, 8]))
    assert a.facts.free["m"] == {0}


def test_without_anything_that_tells_its_shape_what_is_behind_stays():
    a = analysed(network("somewhere", "Magic"))
    assert [layer.node for layer in a.layers] == KNOWN[:2]


class Told:
    """A runtime that tells one shape, of which an axis depends on the data."""

    def __init__(self) -> None:
        self.asked = 0

    def shapes(self, inputs, wanted):
        self.asked += 1
        return {"m": Seen((1, 16, 8, 5), TensorProto.FLOAT, frozenset({3}))} if "m" in wanted else {}

    def values(self, nodes, known, wanted, limit):
        return {}


def test_axes_that_depend_on_the_data_are_free_wherever_they_go():
    model = load(network("somewhere", "Magic", "1,3,8,8"))
    runtime = Told()
    facts = gather_facts(model, read_graph(model), runtime=runtime)
    assert facts.shapes["s"] == (1, 24, 8, 5)
    assert facts.free == {name: frozenset({3}) for name in ("m", "c", "s", "y")}
    assert runtime.asked == 1


def test_nothing_runs_where_inference_tells_everything():
    model = load(network("", "Relu"))
    runtime = Told()
    gather_facts(model, read_graph(model), runtime=runtime)
    assert runtime.asked == 0


def test_results_whose_size_the_data_tell_stay_unknown():
    """A run could tell a size, but another row has another one."""
    proto = example(
        """g (float[1,3,8,8] x) => (float[A,B,C,D] y, int64[D,M] z) {
        a = Conv (x, w1)
        m = Relu (a)
        b = Conv (m, w2)
        z = NonZero (b)
        y = Relu (b) }""",
        {"w1": (8, 3, 1, 1), "w2": (16, 8, 1, 1)},
    )
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Trilu", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    a = analysed(proto)
    assert a.facts.shapes["b"] == (1, 16, 8, 8)
    assert "z" not in a.facts.shapes


BODY = (
    "body = b (int64 i, bool go, float[A,16,C,D] s) => (bool on, float[A,16,C,D] t{more}) {{ on = Identity (go) {do} }}"
)
LOOPS = {  # what the graph holds; what more the body hands on; what the body does
    "carried": ("m = Loop (trips, go, b) <{body}>", "", "t = Relu (s)"),
    "collected": (
        "q, k = Loop (trips, go, b) <{body}> m = ReduceMax <axes = [0], keepdims = 0> (k)",
        ", float[A,16,C,D] u",
        "t = Relu (s) u = Identity (t)",
    ),
    "growing": (
        "k = Loop (trips, go, b) <{body}> m = MaxPool <kernel_shape = [3, 1]> (k)",
        "",
        "p = Relu (s) t = Pad (p, pads)",
    ),
}


@pytest.mark.parametrize("sizes", ["1,3,8,8", "N,3,H,W"])
@pytest.mark.parametrize("kind", LOOPS)
def test_layers_behind_a_loop_are_counted(kind: str, sizes: str) -> None:
    """onnx infers no sizes of what a Loop hands on; all behind it was missing from costs, groups and reasons."""
    loop, more, do = LOOPS[kind]
    text = f"""g (float[{sizes}] x) => (float[A,B,C,D] y) {{
        a = Conv (x, w1)
        r = Relu (a)
        b = Conv (r, w2)
        {loop.format(body=BODY.format(more=more, do=do))}
        c = Conv (m, w3)
        s = Relu (c)
        y = Conv (s, w4) }}"""
    pads = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    a = analysed(example(text, WEIGHTS, {"trips": np.array(2), "go": np.array(True), "pads": pads}))
    assert [operation.node for operation in a.operations] == KNOWN
    assert (a.incomplete, {group.name for group in a.groups}) == ((), {"a", "c"})
    if sizes[0] == "1":
        assert a.costs() == TWIN.costs()
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))


def test_what_a_loop_multiplies_itself_is_said_to_be_missing() -> None:
    text = f"""g (float[1,3,8,8] x) => (float[A,B,C,D] y) {{
        a = Conv (x, w1)
        b = Conv (a, w2)
        m = Loop (trips, go, b) <{BODY.format(more="", do="t = Conv (s, w5)")}>
        c = Conv (m, w3)
        y = Conv (c, w4) }}"""
    constants = {"trips": np.array(2), "go": np.array(True)}
    a = analysed(example(text, {**WEIGHTS, "w5": (16, 16, 1, 1)}, constants))
    assert a.costs().macs == TWIN.costs().macs
    assert a.incomplete == ("MACs leave out Loop 'm', which cannot be counted; a budget on MACs does not see it",)


def test_a_matrix_product_behind_a_loop_has_channels() -> None:
    """Its width counted as one that may change from turn to turn, with all layers behind."""
    body = "body = b (int64 i, bool go, float[N,8] s) => (bool on, float[N,8] t) { on = Identity (go) t = Relu (s) }"
    text = f"""g (float[N,6] x) => (float[N,3] y) {{
        a = MatMul (x, w1)
        m = Loop (trips, go, a) <{body}>
        b = MatMul (m, w2)
        r = Relu (b)
        y = MatMul (r, w3) }}"""
    constants = {"trips": np.array(2), "go": np.array(True)}
    a = analysed(example(text, {"w1": (6, 8), "w2": (8, 16), "w3": (16, 3)}, constants))
    assert {group.name: len(group) for group in a.groups} == {"b": 16}
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))

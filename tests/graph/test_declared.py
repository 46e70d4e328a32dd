"""What a file says in its own way is put right when it is read: sparse weights, nodes and outputs out of place."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from oracle import analysed, check_removal, random_removal

import onnxprune
from onnxprune.core.errors import ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.ops.examples import example
from onnxprune.report.inspection import inspection

TEXT = """g (float[N,16] x) => (float[N,5] y) {
    h = MatMul (x, w1)
    r = Relu (h)
    k = MatMul (r, w2)
    q = Relu (k)
    y = MatMul (q, w3) }"""
WEIGHTS = {"w1": (16, 24), "w2": (24, 20), "w3": (20, 5)}


def sparse(array: np.ndarray, name: str, *, coordinates: bool) -> onnx.SparseTensorProto:
    flat = np.flatnonzero(array)
    indices = np.stack(np.nonzero(array), axis=1) if coordinates else flat
    values = numpy_helper.from_array(array.ravel()[flat], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64)), array.shape)


def with_sparse(kind: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """The second weight sparse: an initializer or a Constant node."""
    proto = example(TEXT, WEIGHTS)
    stored = proto.graph.initializer[1]
    weight = numpy_helper.to_array(stored).copy()
    weight[np.abs(weight) < 0.3] = 0
    proto.graph.initializer.remove(stored)
    tensor = sparse(weight, "w2", coordinates=kind == "coordinates")
    if kind == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], sparse_value=tensor))
    else:
        proto.graph.sparse_initializer.append(tensor)
    return proto, weight


@pytest.mark.parametrize("kind", ["positions", "coordinates", "constant"])
def test_sparse_weights_are_read_as_dense_ones(kind):
    proto, weight = with_sparse(kind)
    before = proto.SerializeToString(deterministic=True)
    a = analysed(proto)
    assert np.array_equal(a.model.constants["w2"], weight)
    assert a.prunable == 44
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.dims.__setitem__(slice(None), [1 << 20, 1 << 20]), "too large"),
        (lambda t: t.indices.CopyFrom(numpy_helper.from_array(np.array([3], np.int64))), "damaged"),
        (lambda t: t.indices.CopyFrom(numpy_helper.from_array(np.full(t.values.dims[0], -1))), "damaged"),
        (lambda t: t.indices.CopyFrom(numpy_helper.from_array(np.full(t.values.dims[0], 480))), "damaged"),
    ],
)
def test_damaged_sparse_weights_are_one_clear_line(change, message):
    proto, _ = with_sparse("positions")
    change(proto.graph.sparse_initializer[0])
    with pytest.raises(ModelError, match=f"sparse tensor 'w2' is .*{message}"):
        load(proto)


@pytest.mark.parametrize("dims", [[], ["N"], ["N", 7], [1, 1, 5]])
def test_outputs_declared_with_another_shape_are_corrected_with_a_note(dims):
    proto = example(TEXT, WEIGHTS)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, dims))
    before = proto.SerializeToString(deterministic=True)
    model = load(proto)
    fixed = to_proto(model)
    onnx.checker.check_model(fixed, full_check=True)
    assert [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim][1:] == [5]
    (note,) = inspection(analysed(proto)).notes
    assert "'y'" in note
    assert proto.SerializeToString(deterministic=True) == before
    session = ort.InferenceSession(fixed.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((2, 16), np.float32)})[0].shape == (2, 5)


def test_right_outputs_stay_as_they_are():
    proto = example(TEXT, WEIGHTS)
    model = load(proto)
    assert model.notes == ()
    assert to_proto(model).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


BRANCHES = """g (float[N,16] x, bool c) => (float[N,5] y) {
    h = MatMul (x, w1)
    r = Relu (h)
    s = If (c) <
        then_branch = a () => (float[N,20] p) { k = MatMul (r, w2)  p = Relu (k) },
        else_branch = b () => (float[N,20] q) { q = MatMul (r, w2) }>
    y = MatMul (s, w3) }"""


@given(st.data())
@pytest.mark.parametrize("text", [TEXT, BRANCHES], ids=["plain", "with bodies"])
def test_nodes_may_stand_in_any_order(text, data):
    """onnxruntime runs such files, and its converter to float16 writes them; the checker refused them."""
    proto = example(text, WEIGHTS, full_check=False)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(proto)
    graphs = [shuffled.graph]
    graphs += [attribute.g for node in shuffled.graph.node for attribute in node.attribute if attribute.HasField("g")]
    for graph in graphs:
        nodes = data.draw(st.permutations([*graph.node]))
        del graph.node[:]
        graph.node.extend(nodes)
    before = shuffled.SerializeToString(deterministic=True)
    sorted_again = to_proto(load(shuffled))
    onnx.checker.check_model(sorted_again)
    assert shuffled.SerializeToString(deterministic=True) == before
    feed = {"x": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32), "c": np.array(True)}
    ours, theirs = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {value.name: feed[value.name] for value in model.graph.input}
        )[0]
        for model in (proto, sorted_again)
    )
    assert np.array_equal(ours, theirs)


def test_nodes_in_a_circle_are_one_clear_line():
    proto = example(TEXT, WEIGHTS)
    proto.graph.node[0].input[0] = "q"
    with pytest.raises(ModelError, match="not a valid ONNX model: Nodes in a graph must be topologically sorted"):
        load(proto)


def test_an_operator_with_weights_that_nobody_knows_is_named():
    proto = example(TEXT, WEIGHTS)
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Magic", "somewhere"
    proto.opset_import.append(helper.make_opsetid("somewhere", 1))
    (note,) = inspection(analysed(proto)).notes
    assert "MACs leave out somewhere.Magic 'k'" in note
    assert inspection(analysed(example(TEXT, WEIGHTS))).notes == ()


@pytest.mark.parametrize("left_out", ["type", "shape"])
def test_outputs_may_declare_neither_type_nor_shape(left_out: str) -> None:
    """onnxruntime runs such files, and what adds outputs to a file writes them; they were refused as not valid."""
    proto = example(TEXT, WEIGHTS)
    for value in proto.graph.output:
        value.ClearField("type") if left_out == "type" else value.type.tensor_type.ClearField("shape")
    a = analysed(proto)
    assert a.prunable == 44
    small = onnxprune.prune(proto, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    (declared,) = small.proto.graph.output
    assert declared.type.tensor_type.elem_type == TensorProto.FLOAT
    assert declared.type.tensor_type.HasField("shape") == (left_out == "type")


def test_an_output_whose_type_nobody_knows_is_named() -> None:
    proto = example(TEXT, WEIGHTS)
    proto.graph.node[-1].op_type, proto.graph.node[-1].domain = "Magic", "somewhere"
    proto.opset_import.append(helper.make_opsetid("somewhere", 1))
    proto.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match="output 'y' has no type"):
        load(proto)


def test_an_input_without_a_shape_takes_a_given_one() -> None:
    proto = example(TEXT, WEIGHTS)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="what shape input 'x' has: give it"):
        onnxprune.prune(proto, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    assert analysed(proto, {"x": (1, 16)}).prunable == 44


def test_an_input_may_be_an_output_too() -> None:
    """The shape of such an input was forgotten, and with it those of everything behind it."""
    proto = example(TEXT, WEIGHTS)
    proto.graph.output.append(proto.graph.input[0])
    a = analysed(proto)
    assert a.prunable == 44
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))


def test_a_layer_that_reads_a_tensor_of_unknown_shape_stays() -> None:
    """Where the file declares what comes out, the layer was said to contradict its shapes."""
    text = """g (float[6,16] x, bool[6] c) => (float[6,5] y) {
        h = MatMul (x, w1)  s = Compress <axis = 0> (h, c)  r = Relu (s)  y = MatMul (r, w2) }"""
    a = analysed(example(text, {"w1": (16, 24), "w2": (24, 5)}))
    assert a.prunable == 0
    assert [str(node) for node in a.uncounted] == ["MatMul 'y'"]


def test_operators_that_their_own_operator_set_has_put_aside() -> None:
    """Files with GroupNormalization of set 18 run in onnxruntime, and were refused as not valid."""
    text = """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        h = Conv (x, w1)  n = GroupNormalization <num_groups = 4> (h, scale, bias)  y = Conv (n, w2) }"""
    proto = example(text, {"w1": (12, 3, 1, 1), "scale": (12,), "bias": (12,), "w2": (4, 12, 1, 1)}, opset=21)
    proto.opset_import[0].version = 18  # the parameters are those of groups there
    for tensor in proto.graph.initializer:
        if tensor.name in ("scale", "bias"):
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(1, 2, 4, dtype=np.float32), tensor.name))
    small = onnxprune.prune(proto, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    assert [group.kept for group in small.groups] == [2]
    assert len(small.model.constants["scale"]) == 2

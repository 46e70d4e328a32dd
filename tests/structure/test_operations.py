"""Multiply-adds: by hand, and on random sequence models against a count of what runs in onnxruntime."""

from math import prod

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from oracle import analysed, check_removal, random_feed, random_removal

import onnxprune
from onnxprune.allocation.costs import CostModel
from onnxprune.core.errors import BudgetError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model, to_proto
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis

CONTRIB = {"domain": "com.microsoft", "full_check": False}


def counts(analysis: Analysis) -> dict[str, int]:
    none = analysis.none_removed()
    return {operation.node: analysis.macs(operation, none) for operation in analysis.operations}


def recurrent(op_type: str, gates: int, directions: int, **more: tuple[int, ...]) -> onnx.ModelProto:
    how = ', direction = "bidirectional"' if directions == 2 else ""
    return example(
        f"""g (float[1,7,6] s) => (float[7,{directions},1,5] h) {{
        x = Transpose <perm = [1, 0, 2]> (s)
        h = {op_type} <hidden_size = 5{how}> (x, w, r) }}""",
        {"w": (directions, gates * 5, 6), "r": (directions, gates * 5, 5)},
    )


@pytest.mark.parametrize(
    ("op_type", "gates", "directions"), [("LSTM", 4, 1), ("LSTM", 4, 2), ("GRU", 3, 1), ("GRU", 3, 2), ("RNN", 1, 1)]
)
def test_recurrent_layers_count_every_step(op_type: str, gates: int, directions: int) -> None:
    assert counts(analysed(recurrent(op_type, gates, directions))) == {"h": 7 * directions * gates * 5 * (6 + 5)}


def test_products_of_two_activations() -> None:
    a = analysed(
        example(
            """g (float[N,2,5,6] x, float[N,2,6,7] z) => (float[N,2,5,7] y, float[N,5,4] e, float[5,7] f) {
            y = MatMul (x, z)
            e = Einsum <equation = "nhab,nhbc,cd->nad"> (x, z, w)
            m = MatMul (x, v)
            s = ReduceSum <keepdims = 0> (y, axes)
            f = Gemm <transA = 1> (t, s) }""",
            {"w": (7, 4), "v": (2, 6, 3), "t": (5, 5)},
            {"axes": np.array([0, 1])},
        )
    )
    assert counts(a) == {
        "y": 2 * 5 * 6 * 7,
        "e": 2 * 5 * 6 * 7 + 5 * 7 * 4,  # the heads, h, are summed over before the last factor
        "m": 2 * 5 * 6 * 3,
        "f": 5 * 5 * 7,
    }


def test_a_computed_filter_counts_as_any_other() -> None:
    model = example(
        """g (float[1,3,6,6] x, float[4,3,3,3] w) => (float[1,4,4,4] y, float[1,2,4,4] z) {
        y = Conv (x, w)
        z = Conv (y, v) }""",
        {"v": (2, 4, 1, 1)},
    )
    assert counts(analysed(model)) == {"y": 4 * 3 * 9 * 16, "z": 2 * 4 * 16}


@pytest.mark.parametrize(
    ("text", "weights", "macs"),
    [
        (
            "a = com.microsoft.Attention <num_heads = 4> (x, w, b)",
            {"w": (6, 24), "b": (24,)},
            5 * 6 * 24 + 2 * 5 * 5 * 8,
        ),
        ("a = com.microsoft.FusedMatMul <transB = 1> (x, x)", {}, 5 * 5 * 6),
        ("a = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)", {}, 2 * 5 * 5 * 6),
    ],
)
def test_attention_in_one_node(text: str, weights: dict[str, tuple[int, ...]], macs: int) -> None:
    model = example(f"g (float[1,5,6] x) => (float[1,5,C] a) {{ {text} }}", weights, **CONTRIB)
    assert counts(analysed(model)) == {"a": macs}


def test_group_query_and_standard_attention_count_though_their_channels_stay() -> None:
    shared = example(
        """g (float[1,5,32] q, float[1,5,16] k, float[1,5,16] v, int32[1] n, int32 t) => (float[1,5,32] a) {
        a = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, k, v, , , n, t) }""",
        **CONTRIB,
    )
    assert counts(analysed(shared)) == {"a": 2 * 5 * 5 * 32}
    standard = example(
        """g (float[1,2,5,3] q, float[1,2,7,3] k, float[1,2,7,4] v) => (float[1,2,5,4] a) {
        a = Attention (q, k, v) }""",
        opset=23,
        full_check=False,
    )
    assert counts(analysed(standard)) == {"a": 2 * 5 * 7 * (3 + 4)}


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("Conv (x, w)", (5, 3, 3, 3)),
        ("ConvTranspose (x, w)", (3, 5, 3, 3)),
        ("com.microsoft.FusedConv (x, w)", (5, 3, 3, 3)),
    ],
)
def test_reports_tell_how_many_channels_a_convolution_makes(text: str, weight: tuple[int, ...]) -> None:
    """Not how high its image is."""
    model = example(
        f"g (float[1,3,9,8] x) => (float[1,4,A,B] y) {{ h = {text} y = Conv (h, v) }}",
        {"w": weight, "v": (4, 5, 1, 1)},
        **CONTRIB,
    )
    a = analysed(model)
    removed = a.none_removed()
    removed[a.groups[0].units[[1, 3]]] = True
    assert [(a.width(layer, a.none_removed()), a.width(layer, removed)) for layer in a.operations] == [(5, 3), (4, 4)]


INTEGER = {
    "ConvInteger (x, w)": ("uint8[1,3,6,6]", "int32[1,4,4,4]", np.ones((4, 3, 3, 3), np.uint8), 4 * 3 * 9 * 16),
    "MatMulInteger (x, w)": ("uint8[5,6]", "int32[5,4]", np.ones((6, 4), np.uint8), 5 * 6 * 4),
}


@pytest.mark.parametrize("text", INTEGER)
def test_integer_layers_count_and_say_why_they_stay(text: str) -> None:
    given, made, weight, macs = INTEGER[text]
    a = analysed(example(f"g ({given} x) => ({made} y) {{ y = {text} }}", constants={"w": weight}))
    assert counts(a) == {"y": macs // (5 if "MatMul" in text else 1)}  # five rows
    operator = text.partition(" ")[0]
    (reason,) = {entry.reason for entry in a.not_pruned if entry.node}
    assert reason == f"{operator} computes with integer weights; prune the model before it is quantised"
    assert (a.total, a.prunable) == (4, 0)


def test_what_cannot_be_counted_is_named() -> None:
    diagonal = example(
        """g (float[6,6] x, float[6,4] z) => (float[4] y) {
        y = Einsum <equation = "kk,kn->n"> (x, z) }"""
    )
    assert "MACs leave out Einsum 'y', which cannot be counted" in analysed(diagonal).incomplete[0]
    body = example(
        """g (bool c, float[5,6] x) => (float[5,4] y) {
        y = If (c) <
            then_branch = a () => (float[5,4] p) { p = MatMul (x, w) },
            else_branch = b () => (float[5,4] q) { q = MatMul (x, v) }
        > }""",
        {"w": (6, 4), "v": (6, 4)},
    )
    assert "MACs leave out If 'y'" in analysed(body).incomplete[0]
    assert analysed(recurrent("GRU", 3, 1)).incomplete == ()


class Sequences:
    """A random model of sequences `(N, S, C)`: layers, recurrent layers, attention."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.rng = draw, np.random.default_rng(draw(st.integers(0, 99)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        value = self.rng.standard_normal(shape).astype(np.float32) / max(1, shape[-1]) ** 0.5
        return self.constant(value)

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def layer(self, x: str, c: int) -> tuple[str, int]:
        width = self.draw(st.integers(2, 6))
        kind = self.draw(st.sampled_from(["MatMul", "nsc,cd->nsd", "nsc,dc->nsd"]))
        shape = (width, c) if kind.startswith("nsc,d") else (c, width)
        w = self.weight(*shape)
        made = self.node("MatMul", x, w) if kind == "MatMul" else self.node("Einsum", x, w, equation=kind)
        return self.node("Tanh", made), width

    def recurrent(self, x: str, c: int) -> tuple[str, int]:
        op_type, gates = self.draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
        both = self.draw(st.booleans())
        width, directions = self.draw(st.integers(2, 5)), 1 + both
        steps = self.node("Transpose", x, perm=[1, 0, 2])
        w, r = self.weight(directions, gates * width, c), self.weight(directions, gates * width, width)
        how = {"direction": "bidirectional"} if both else {}
        made = self.node(op_type, steps, w, r, hidden_size=width, **how)
        beside = self.node("Transpose", made, perm=[2, 0, 1, 3])
        shape = self.constant(np.array([0, 0, directions * width]))
        return self.node("Reshape", beside, shape), directions * width

    def attention(self, x: str, c: int) -> tuple[str, int]:
        heads, width = self.draw(st.sampled_from([(1, 4), (2, 3), (3, 2)]))
        q, k, v = (self.node("MatMul", x, self.weight(c, heads * width)) for _ in range(3))
        if self.draw(st.booleans()):
            split = self.constant(np.array([0, 0, heads, width]))
            q, k, v = (self.node("Reshape", each, split) for each in (q, k, v))
            q, v = (self.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
            k = self.node("Transpose", k, perm=[0, 2, 3, 1])
            values = self.node("MatMul", self.node("Softmax", self.node("MatMul", q, k)), v)
            beside = self.node("Transpose", values, perm=[0, 2, 1, 3])
            return self.node("Reshape", beside, self.constant(np.array([0, 0, heads * width]))), heads * width
        scores = self.node("Softmax", self.node("Einsum", q, k, equation="nqc,nkc->nqk"))
        return self.node("Einsum", scores, v, equation="nqk,nkc->nqc"), heads * width

    def model(self) -> onnx.ModelProto:
        x, c = "x", 4
        for _ in range(self.draw(st.integers(1, 4))):
            block = self.draw(st.sampled_from([self.layer, self.recurrent, self.attention]))
            x, c = block(x, c)
        y = self.node("MatMul", x, self.weight(c, 3))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5, 4])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 5, 3])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@st.composite
def sequence_models(draw: st.DrawFn) -> onnx.ModelProto:
    return Sequences(draw).model()


def counted_in_a_run(model: Model, feed: dict[str, np.ndarray]) -> int:
    """Multiply-adds from the shapes of all tensors in a run in onnxruntime."""
    proto = onnx.ModelProto()
    proto.CopyFrom(to_proto(model))
    names = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    shapes |= {name: value.shape for name, value in feed.items()}
    shapes |= {name: value.shape for name, value in zip(names, session.run(None, feed), strict=True)}
    total = 0
    for node in proto.graph.node:
        read = [shapes[name] for name in node.input]
        if node.op_type == "MatMul":
            total += prod(shapes[node.output[0]]) * read[0][-1]
        elif node.op_type == "Einsum":
            terms = onnx.helper.get_attribute_value(node.attribute[0]).decode().split("->")[0].split(",")
            total += prod(dict(zip("".join(terms), (n for shape in read for n in shape), strict=True)).values())
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            total += prod(read[0][:2]) * (prod(read[1]) + prod(read[2]))
    return total


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(sequence_models(), st.sampled_from([0.4, 0.7]))
def test_a_budget_holds_by_the_count_of_a_run(proto: onnx.ModelProto, share: float) -> None:
    try:
        found = onnxprune.prune(
            proto, importance="magnitude", repair=False, round_to=1, time=False, targets=f"macs={share}"
        )
    except BudgetError:  # most is in what stays
        return
    feed = {"x": np.zeros((1, 5, 4), np.float32)}
    before = counted_in_a_run(load(proto), feed)
    assert counted_in_a_run(found.model, feed) <= share * before
    assert (found.before.macs, found.after.macs) == (before, counted_in_a_run(found.model, feed))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(sequence_models(), st.floats(0.1, 0.9), st.integers(0, 99))
def test_the_predicted_count_is_that_of_the_file_and_of_a_run(proto: onnx.ModelProto, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = analysed(proto)
    removed = random_removal(a, share, rng)
    smaller = check_removal(a, removed)  # compares with the count of what remains
    feed = random_feed(a, rng)
    predicted = a.costs(removed).macs
    assert a.costs().macs == counted_in_a_run(a.model, feed)
    assert predicted == counted_in_a_run(smaller, feed)
    assert CostModel(a).of("macs")(a.kept(removed)) == predicted
    assert CostModel(a).of("macs")([len(group) for group in a.groups]) == a.costs().macs


def test_budgets_on_recurrent_layers_by_name() -> None:
    a = analysed(recurrent("LSTM", 4, 2))
    costs = CostModel(a)
    assert costs.of("macs", "h")([]) == 7 * 2 * 4 * 5 * (6 + 5)
    assert costs.of("params", "h")([]) == 2 * 4 * 5 * (6 + 5)

"""Contract: every operator's torch rule computes what onnxruntime computes."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import read_graph
from onnxprune.ops import handlers
from onnxprune.ops.examples import example

torch = pytest.importorskip("torch", reason="fine-tuning needs torch")

from onnxprune.torchnet.network import Network  # noqa: E402 (needs torch)

X = "float[2,4,7,6] x"
# operator: cases, each `(graph text after the name, constants, opset)`; inputs are normal numbers, see `_feed`.
_ELEMENTWISE = [
    *("Relu", "Sigmoid", "Tanh", "Erf", "Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan"),
    *("Atan", "Sinh", "Cosh", "Asinh", "Identity", "HardSwish", "Softplus", "Softsign", "Elu", "Selu", "Celu"),
    *("LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Shrink", "Reciprocal"),
]
_NARROW = {"Log": "p", "Sqrt": "p", "Acosh": "q", "Asin": "r", "Acos": "r", "Atanh": "r"}
_BINARY = ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean"]
_COMPARE = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
_REDUCE = [
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
    "ReduceSumSquare",
]

Case = tuple[str, str, dict[str, np.ndarray], int]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def case(op: str, body: str, opset: int = 17, inputs: str = X, output: str = "y", **constants: np.ndarray) -> Case:
    return op, f"g ({inputs}) => ({output}) {{ {body} }}", constants, opset


def _activations() -> Iterator[Case]:
    for op in _ELEMENTWISE:
        yield case(op, f"y = {op} (x)")
    for op, kind in _NARROW.items():
        body = {
            "p": "a = Abs (x) p = Add (a, c)",
            "q": "a = Abs (x) q = Add (a, one)",
            "r": "a = Tanh (x) r = Mul (a, c)",
        }
        yield case(op, f"{body[kind]} y = {op} ({kind})", c=np.float32(0.5)[None], one=np.float32(1.5)[None])
    yield case("Elu", "y = Elu <alpha = 0.3> (x)")
    yield case("Celu", "y = Celu <alpha = 0.4> (x)")
    yield case("HardSigmoid", "y = HardSigmoid <alpha = 0.4, beta = 0.3> (x)")
    yield case("Shrink", "y = Shrink <lambd = 0.4, bias = 0.1> (x)")
    yield case("Mish", "y = Mish (x)", 18)
    yield case("Gelu", "y = Gelu (x)", 20)
    yield case("Gelu", 'y = Gelu <approximate = "tanh"> (x)', 20)
    yield case("Clip", "y = Clip (x, low, high)", low=np.float32(-0.5), high=np.float32(0.7))
    yield case("Clip", "y = Clip (x, , high)", high=np.float32(0.7))
    yield case("Clip", "y = Clip <min = -0.5, max = 0.7> (x)", 10)
    yield case("Cast", "i = Cast <to = 7> (x) y = Cast <to = 1> (i)")
    yield case("Cast", "h = Cast <to = 11> (x) y = Cast <to = 1> (h)")
    yield case("Not", "b = Greater (x, c) n = Not (b) y = Where (n, x, c)", c=_floats(4, 1, 1))
    yield case("IsNaN", "l = Log (x) n = IsNaN (l) y = Where (n, x, l)")
    yield case("IsInf", "r = Relu (x) l = Log (r) n = IsInf <detect_positive = 0> (l) y = Where (n, x, l)")
    yield case("Dropout", "y = Dropout (x)")
    yield case("PRelu", "y = PRelu (x, s)", s=_floats(4, 1, 1))


def _arithmetic() -> Iterator[Case]:
    for op in _BINARY:
        yield case(op, f"y = {op} (x, c)", c=_floats(4, 1, 6) + 3)
    yield case("Sum", "y = Sum (x, c, d)", c=_floats(4, 1, 6), d=_floats(1))
    yield case("Div", "i = Cast <to = 7> (x) d = Div (i, c) y = Cast <to = 1> (d)", c=_ints(-2))
    yield case("Pow", "a = Abs (x) y = Pow (a, c)", c=np.float32(1.5))
    yield case("Pow", "y = Pow (x, c)", c=_ints(2))
    yield case("Mod", "y = Mod <fmod = 1> (x, c)", c=np.float32(0.7))
    yield case("Mod", "i = Cast <to = 7> (x) m = Mod (i, c) y = Cast <to = 1> (m)", c=_ints(3))
    for op in _COMPARE:
        yield case(op, f"b = {op} (x, c) y = Where (b, x, c)", c=_floats(4, 1, 1))
    for op in ("And", "Or", "Xor"):
        yield case(
            op, f"a = Greater (x, c) b = Less (x, d) e = {op} (a, b) y = Where (e, x, d)", c=_floats(1), d=_floats(6)
        )
    yield case("Where", "b = Greater (x, c) y = Where (b, x, c)", c=_floats(4, 1, 1))


def _layers() -> Iterator[Case]:
    yield case(
        "Conv", "y = Conv <pads = [2, 0, 1, 1], strides = [2, 1]> (x, w, b)", w=_floats(5, 4, 3, 3), b=_floats(5)
    )
    yield case("Conv", 'y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', w=_floats(5, 4, 3, 2))
    yield case("Conv", 'y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)', w=_floats(5, 4, 2, 2))
    yield case("Conv", 'y = Conv <auto_pad = "VALID", group = 2> (x, w)', w=_floats(6, 2, 3, 3))
    yield case("Conv", "y = Conv <pads = [1, 2]> (x, w)", inputs="float[2,4,9] x", w=_floats(5, 4, 3))
    yield case("Conv", "y = Conv (x, w)", inputs="float[2,3,4,5,5] x", w=_floats(5, 3, 3, 2, 2))
    for attributes in (
        "strides = [2, 2], pads = [1, 0, 0, 1]",
        "strides = [3, 2], output_padding = [2, 1]",
        "strides = [2, 2], output_shape = [15, 12]",
        'strides = [2, 3], auto_pad = "SAME_UPPER"',
        'strides = [2, 2], auto_pad = "SAME_LOWER"',
        "dilations = [2, 1]",
    ):
        yield case("ConvTranspose", f"y = ConvTranspose <{attributes}> (x, w, b)", w=_floats(4, 5, 3, 3), b=_floats(5))
    yield case("ConvTranspose", "y = ConvTranspose <group = 2> (x, w)", w=_floats(4, 3, 2, 2))
    matrix = "float[3,5] x"
    yield case(
        "Gemm", "y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b)", inputs=matrix, w=_floats(4, 5), b=_floats(4)
    )
    yield case("Gemm", "y = Gemm <transA = 1> (x, w)", inputs=matrix, w=_floats(3, 4))
    yield case("MatMul", "y = MatMul (x, w)", w=_floats(6, 3))
    yield case("MatMul", "y = MatMul (w, x)", w=_floats(4, 5, 7))
    statistics = {"s": _floats(4), "b": _floats(4) + 1, "m": _floats(4) * 2, "v": np.abs(_floats(4)) + 0.5}
    yield case("BatchNormalization", "y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v)", **statistics)
    yield case("InstanceNormalization", "y = InstanceNormalization (x, s, b)", s=_floats(4), b=_floats(4) + 1)
    yield case("LayerNormalization", "y = LayerNormalization (x, s, b)", s=_floats(6), b=_floats(6))
    yield case("LayerNormalization", "y = LayerNormalization <axis = 2> (x, s)", s=_floats(7, 6))
    yield case(
        "GroupNormalization",
        "y = GroupNormalization <num_groups = 2> (x, s, b)",
        21,
        output="float[2,4,7,6] y",
        s=_floats(4),
        b=_floats(4),
    )
    yield case("LRN", "y = LRN <size = 3, alpha = 0.1, beta = 0.5, bias = 2.0> (x)")
    yield case("LpNormalization", "y = LpNormalization <axis = 1> (x)")
    yield case("LpNormalization", "y = LpNormalization <p = 1> (x)")
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield case(op, f"y = {op} <axis = 2> (x)")
        yield case(op, f"y = {op} <axis = 2> (x)", 11)


def _windows() -> Iterator[Case]:
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield case(op, f"y = {op} (x)")
    for attributes in (
        "kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 0, 1]",
        "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
        "kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1, pads = [1, 1, 1, 1]",
        'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"',
        'kernel_shape = [2, 2], auto_pad = "SAME_LOWER"',
    ):
        yield case("MaxPool", f"y = MaxPool <{attributes}> (x)")
        yield case("AveragePool", f"y = AveragePool <{attributes}> (x)")
    yield case("AveragePool", "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 2, 0], count_include_pad = 1> (x)")
    yield case("MaxPool", "y = MaxPool <kernel_shape = [2, 3], dilations = [2, 2], pads = [1, 1, 1, 1]> (x)")
    yield case("MaxPool", "y = MaxPool <kernel_shape = [2]> (x)", inputs="float[2,4,9] x")
    yield case("LpPool", "y = LpPool <kernel_shape = [2, 2], strides = [2, 2]> (x)")
    for op in _REDUCE:
        opset = 17 if op != "ReduceSum" else 11
        yield case(op, f"y = {op} <axes = [1, -1], keepdims = 0> (x)", opset)
        yield case(op, f"y = {op} (x)")
    yield case("ReduceSum", "y = ReduceSum (x, a)", a=_ints(2))
    yield case("ReduceMean", "y = ReduceMean (x, a)", 18, a=_ints(-1, 1))
    yield case("ReduceSum", "y = ReduceSum <noop_with_empty_axes = 1> (x)")
    yield case("ReduceLogSum", "a = Abs (x) y = ReduceLogSum <axes = [1]> (a)")
    for op in ("ArgMax", "ArgMin"):
        yield case(op, f"i = {op} <axis = 2, keepdims = 0> (x) y = Cast <to = 1> (i)")
    yield case("ArgMax", "r = Relu (x) i = ArgMax <axis = 1, select_last_index = 1> (r) y = Cast <to = 1> (i)")


def _shapes() -> Iterator[Case]:
    yield case("Transpose", "y = Transpose (x)")
    yield case("Transpose", "y = Transpose <perm = [0, 3, 1, 2]> (x)")
    yield case("Reshape", "y = Reshape (x, s)", s=_ints(0, -1, 3))
    yield case("Reshape", "y = Reshape <allowzero = 1> (x, s)", s=_ints(-1, 3))
    yield case("Flatten", "y = Flatten (x)")
    yield case("Flatten", "y = Flatten <axis = -1> (x)")
    yield case("Flatten", "y = Flatten <axis = 0> (x)")
    yield case("Unsqueeze", "y = Unsqueeze (x, a)", a=_ints(-1, 1))
    yield case("Unsqueeze", "y = Unsqueeze <axes = [0, 3]> (x)", 11)
    yield case("Squeeze", "u = Unsqueeze (x, a) y = Squeeze (u, a)", a=_ints(0, 3))
    yield case("Squeeze", "u = Unsqueeze (x, a) y = Squeeze (u)", a=_ints(0, 3))
    yield case("Squeeze", "u = Unsqueeze <axes = [2]> (x) y = Squeeze <axes = [2]> (u)", 11)
    yield case("Concat", "y = Concat <axis = -2> (x, c, x)", c=_floats(2, 4, 3, 6))
    yield case("Split", "a, b = Split <axis = 2> (x, s) y = Concat <axis = 2> (b, a)", s=_ints(5, 2))
    yield case("Split", "a, b = Split <axis = 1> (x) y = Concat <axis = 1> (b, a)")
    yield case("Split", "a, b = Split <axis = 1, split = [1, 3]> (x) y = Concat <axis = 1> (b, a)", 11)
    yield case("Split", "a, b = Split <axis = 2, num_outputs = 2> (x) y = Concat <axis = 2> (b, a)", 18)
    yield case("Slice", "y = Slice (x, s, e, a, t)", s=_ints(-1, 0), e=_ints(-9, 99), a=_ints(2, 3), t=_ints(-2, 3))
    yield case("Slice", "y = Slice (x, s, e)", s=_ints(0, 1), e=_ints(1, -1))
    yield case("Slice", "y = Slice <starts = [1], ends = [3], axes = [2]> (x)", 9)
    yield case("Gather", "y = Gather <axis = 2> (x, i)", i=np.array([[0, -1], [3, 3]]))
    yield case("Gather", "y = Gather <axis = 1> (x, i)", i=np.array(-2))
    yield case("Pad", "y = Pad (x, p, c)", p=_ints(0, 1, 2, 0, 0, 0, 1, 3), c=np.float32(0.5))
    yield case("Pad", "y = Pad (x, p)", p=_ints(0, 1, -2, 0, 0, 0, -1, 3))
    yield case("Pad", 'y = Pad <mode = "reflect"> (x, p)', p=_ints(0, 1, 2, 0, 0, 0, 1, 3))
    yield case("Pad", 'y = Pad <mode = "edge"> (x, p)', p=_ints(1, 1, 2, 0, 0, 0, 1, 3))
    yield case("Pad", "y = Pad <pads = [0, 0, 1, 1, 0, 0, 0, 2], value = 0.3> (x)", 9)
    yield case("Pad", "y = Pad (x, p, , a)", 18, p=_ints(1, 0, 2, 3), a=_ints(-1, 1))


def _sequences() -> Iterator[Case]:
    yield case("Size", "n = Size (x) f = Cast <to = 1> (n) y = Div (x, f)")
    for attributes in ("reverse = 1", "exclusive = 1", "exclusive = 1, reverse = 1"):
        yield case("CumSum", f"y = CumSum <{attributes}> (x, a)", a=np.array(-2))
    yield case("TopK", "y, i = TopK <axis = 2, largest = 0> (x, k)", k=_ints(3))
    yield case("TopK", "v, i = TopK (x, k) y = Cast <to = 1> (i)", k=_ints(3))
    yield case("Trilu", "y = Trilu (x, k)", k=np.array(1))
    yield case("Trilu", "y = Trilu <upper = 0> (x)")
    for axes in ("batch_axis = 1, time_axis = 0", "batch_axis = 0, time_axis = 1"):
        lengths = _ints(2, 1, 2, 1) if axes.endswith("0") else _ints(3, 1)
        yield case("ReverseSequence", f"y = ReverseSequence <{axes}> (x, n)", n=lengths)
    grid = np.clip(_floats(2, 3, 5, 2), -1.2, 1.2)
    for attributes in ('mode = "nearest"', 'padding_mode = "border"', 'padding_mode = "reflection", align_corners = 1'):
        yield case("GridSample", f"y = GridSample <{attributes}> (x, g)", g=grid)
    sequence = "float[5,2,6] x"
    for gates, attributes in ((4, "LSTM <"), (3, "GRU <linear_before_reset = 1, "), (1, "RNN <")):
        op = attributes.split()[0]
        weights = {"w": _floats(1, gates * 3, 6), "r": _floats(1, gates * 3, 3) / 2, "b": _floats(1, gates * 6)}
        body = f'y = {attributes}hidden_size = 3, direction = "reverse"> (x, w, r, b)'
        yield case(op, body, inputs=sequence, **weights)
    weights = {"w": _floats(1, 12, 6), "r": _floats(1, 12, 3) / 2, "h": _floats(1, 2, 3), "p": _floats(1, 9)}
    yield case("LSTM", "a, b, y = LSTM <hidden_size = 3> (x, w, r, , , h, h, p)", inputs=sequence, **weights)


def _resampling() -> Iterator[Case]:
    for mode in ("nearest", "linear", "cubic"):
        for transform in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            text = f'y = Resize <mode = "{mode}", coordinate_transformation_mode = "{transform}"> '
            yield case("Resize", text + "(x, , s)", s=np.array([1, 1, 2, 1.5], np.float32))
            yield case("Resize", text + "(x, , , n)", n=_ints(2, 4, 4, 9))
    for rounding in ("floor", "ceil", "round_prefer_ceil"):
        yield case(
            "Resize", f'y = Resize <nearest_mode = "{rounding}"> (x, , s)', s=np.array([1, 1, 1.7, 0.6], np.float32)
        )
    yield case("Resize", 'y = Resize <mode = "cubic", exclude_outside = 1> (x, , , n)', n=_ints(2, 4, 9, 4))
    yield case("Upsample", 'y = Upsample <mode = "linear"> (x, s)', 9, s=np.array([1, 1, 2, 2], np.float32))
    yield case("Upsample", "y = Upsample (x, s)", 9, s=np.array([1, 1, 2, 3], np.float32))


CASES = [*_activations(), *_arithmetic(), *_layers(), *_windows(), *_shapes(), *_sequences(), *_resampling()]


def _model(text: str, constants: dict[str, np.ndarray], opset: int) -> Model:
    ir = 4 if opset < 10 else 8
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> {text.replace("(y)", "(float y)")}')
    if "(y)" in text:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return load(onnx.shape_inference.infer_shapes(proto))


def _feed(model: Model) -> dict[str, np.ndarray]:
    dims = [d.dim_value for d in model.proto.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).standard_normal(dims).astype(np.float32)}


def _assert_same(model: Model, feed: dict[str, np.ndarray]) -> None:
    expected = Runner(model, engine=ONE_CORE).run_feed(feed)
    network = Network(model)
    network.step = None
    with torch.no_grad():
        found = network(network.inputs(feed))
    for name, reference in expected.items():
        assert found[name].shape == reference.shape
        scale = max(float(np.nanmax(np.abs(reference))), 1e-3)
        np.testing.assert_allclose(found[name].numpy(), reference, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(("op", "text", "constants", "opset"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_rule_computes_what_onnxruntime_computes(
    op: str, text: str, constants: dict[str, np.ndarray], opset: int
) -> None:
    model = _model(text, constants, opset)
    assert op in {node.op_type for node in model.proto.graph.node}
    _assert_same(model, _feed(model))


def _examples() -> list[tuple[str, onnx.ModelProto]]:
    unique = {id(handler): handler for handler in handlers().values()}
    return [
        (f"{type(handler).__name__}-{number}", proto)
        for handler in unique.values()
        for number, proto in enumerate(handler.examples())
    ]


@pytest.mark.parametrize(("name", "proto"), _examples(), ids=[name for name, _ in _examples()])
def test_every_handlers_examples_agree(name: str, proto: onnx.ModelProto) -> None:
    model = load(proto)
    if not NO_RULE.isdisjoint(node.op_type for node in read_graph(model).nodes):
        with pytest.raises(ModelError, match="cannot be trained: it has no rule for torch"):
            Network(model)
        return
    rng = np.random.default_rng(2)
    feed = {}
    for value in proto.graph.input:
        dims = [d.dim_value or 3 for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feed[value.name] = (
            rng.standard_normal(dims).astype(dtype) if dtype.kind == "f" else rng.integers(0, 3, dims, dtype)
        )
    _assert_same(model, feed)


# Operators that are followed when pruning but have no torch rule: a model with one of them cannot be fine-tuned.
# What onnxruntime's optimisers write is for running: the file that they started from can be trained instead.
NO_RULE = {"RoiAlign", "MaxRoiPool", "RotaryEmbedding"} | {
    op_type for op_type in handlers() if op_type.startswith("com.microsoft.")
} - {"com.microsoft.EmbedLayerNormalization"}


def test_every_operator_has_a_case_or_is_known_to_have_no_rule() -> None:
    covered = {node.op_type for _, proto in _examples() for node in read_graph(load(proto)).nodes}
    covered |= {op for op, *_ in CASES}
    followed = {op_type for op_type, handler in handlers().items() if handler.follows}
    missing = followed - covered - NO_RULE - {"RMSNormalization", "Swish"}  # too new for onnxruntime
    assert missing == set()


@pytest.mark.parametrize("inputs", ["float[5,3] x", "int64[5,3] x"])
@pytest.mark.parametrize("attributes", ["offset = [0.5, 1.0, -2.0], scale = [2.0, 0.25, 1.5]", "offset = [0.5]", ""])
def test_pipelines_of_scikit_learn_are_trained_behind_their_scaler(inputs: str, attributes: str) -> None:
    """`finetune` ended with "ai.onnx.ml.Scaler cannot be trained"."""
    given = {"offset": "offset = [0.0]", "scale": "scale = [1.0]"}
    told = ", ".join([*filter(None, [attributes]), *(text for name, text in given.items() if name not in attributes)])
    text = f"g ({inputs}) => (float[5,2] y) {{ s = ai.onnx.ml.Scaler <{told}> (x) y = MatMul (s, w) }}"
    model = load(example(text, {"w": (3, 2)}, domain="ai.onnx.ml", full_check=False))
    _assert_same(model, {"x": (_floats(5, 3) * 3).astype(np.int64 if "int" in inputs else np.float32)})


def test_batches_of_a_dataset_reach_the_rules_as_they_are() -> None:
    model = _model("g (float[N,3] x) => (y) { y = MatMul (x, w) }", {"w": _floats(3, 2)}, 17)
    data = Dataset({"x": _floats(5, 3)}, None, "test", np.arange(5))
    network = Network(model)
    parts = [network(network.inputs(feed))["y"].detach().numpy() for feed in data.batches(2)]
    np.testing.assert_allclose(np.concatenate(parts), data.feeds()["x"] @ model.constants["w"], rtol=1e-5, atol=1e-6)

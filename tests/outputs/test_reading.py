"""What outputs are taken for, read from graphs."""

import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.meaning import Meaning, Part
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse


def read(source):
    return read_meaning(analyse(load(source)))


def meaning(text, weights=None, constants=None) -> Meaning:
    return read(example(text, weights, constants))


def only(*given) -> Part:
    (part,) = meaning(*given).parts
    return part


@pytest.mark.parametrize(
    ("end", "form"),
    [
        ("y = Identity (h)", "logits"),
        ("y = Relu (h)", "logits"),
        ("y = Softmax (h)", "probabilities"),
        ("s = Softmax (h)  y = Identity (s)", "probabilities"),
        ("y = LogSoftmax (h)", "log_probabilities"),
        ("e = Exp (h)  t = ReduceSum (e, one)  y = Div (e, t)", "probabilities"),
        ("e = Exp (h)  t = ReduceSum (e, one)  i = Reciprocal (t)  y = Mul (e, i)", "probabilities"),
    ],
)
def test_class_scores_and_what_makes_them(end, form):
    text = f"g (float[N,5] x) => (float[N,3] y) {{ h = MatMul (x, w)  {end} }}"
    found = meaning(text, {"w": (5, 3)}, {"one": np.array([1])})
    assert found.parts == (Part("y", "classes", axis=1, width=3, form=form),)
    assert found.classifier == found.parts[0]


@pytest.mark.parametrize(
    "end",
    [
        "y = Sigmoid (h)",
        "y = HardSigmoid (h)",
        "m = Neg (h)  e = Exp (m)  p = Add (e, one)  y = Reciprocal (p)",
    ],
    ids=["sigmoid", "hard sigmoid", "spelled out"],
)
def test_independent_probabilities(end):
    text = f"g (float[N,5] x) => (float[N,3] y) {{ h = MatMul (x, w)  {end} }}"
    part = only(text, {"w": (5, 3)}, {"one": np.ones(1, np.float32)})
    assert (part.kind, part.axis, part.width) == ("probabilities", 1, 3)


@pytest.mark.parametrize(
    "end",
    [
        "n = ReduceL2 <axes = [1]> (h)  y = Div (h, n)",
        "y = LpNormalization <axis = 1> (h)",
        "s = Mul (h, h)  t = ReduceSum (s, one)  m = Max (t, tiny)  r = Sqrt (m)  y = Div (h, r)",
    ],
    ids=["torch", "operator", "spelled out"],
)
def test_vectors_of_length_one_are_embeddings(end):
    text = f"g (float[N,5] x) => (float[N,4] y) {{ h = MatMul (x, w)  {end} }}"
    part = only(text, {"w": (5, 4)}, {"one": np.array([1]), "tiny": np.full(1, 1e-12, np.float32)})
    assert part == Part("y", "embedding", axis=1, width=4)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,3] x) => (float[N,3] y) { h = MatMul (x, a)  y = MatMul (h, w) }",
        "g (float[N,5] x) => (float[N,1] y) { y = MatMul (x, b) }",
        "g (float[N,4,5] x) => (float[N,4,3] y) { y = MatMul (x, c) }",
        "g (float[N,2,4,5] x) => (float[N,40] y) { r = Relu (x)  y = Flatten (r) }",
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul (x, c)  y = Tanh (h) }",
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul (x, c)  y = Clip (h, low, high) }",
    ],
    ids=["reconstruction", "regression", "sequence", "flattened map", "tanh", "within bounds"],
)
def test_quantities(text):
    shapes = {"a": (3, 5), "w": (5, 3), "b": (5, 1), "c": (5, 3)}
    bounds = {"low": np.zeros((), np.float32), "high": np.ones((), np.float32)}
    used = {name: shape for name, shape in shapes.items() if f", {name})" in text}
    assert only(text, used, {name: value for name, value in bounds.items() if name in text}).kind == "quantities"


def test_coordinates_are_no_class_scores():
    """Columns that rise and fall together: a softmax over them would mean nothing."""
    weight = np.repeat(np.random.default_rng(0).standard_normal((8, 1)), 40, 1) + 0.1
    text = "g (float[N,8] x) => (float[N,40] y) { y = Gemm (x, w, b) }"
    bias = {"b": np.ones(40, np.float32)}
    assert only(text, {}, {"w": weight.astype(np.float32), **bias}).kind == "quantities"
    spread = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    assert only(text, {}, {"w": spread, **bias}).kind == "classes"


@pytest.mark.parametrize(("centred", "kind"), [(True, "classes"), (False, "quantities")])
def test_scores_of_tokens_show_in_weights_that_add_up_to_nothing(centred, kind):
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    weight -= weight.mean(1, keepdims=True) if centred else 0
    part = only("g (float[N,7,8] x) => (float[N,7,5] y) { y = MatMul (x, w) }", {}, {"w": weight})
    assert (part.kind, part.axis, part.width, part.positions) == (kind, 2, 5, (7,))


BOXES = {"box": (4, 2, 1, 1), "score": (3, 2, 1, 1)}
SIZES = {"four": np.array([0, 4, -1]), "three": np.array([0, 3, -1]), "large": np.full(1, 1000, np.float32)}
HEADS = """b = Conv (x, box)  c = Conv (x, score)
        s = Sigmoid (c)  r = Reshape (b, four)  q = Reshape (s, three)"""


TRANSPOSED = "t = Concat <axis = 1> (r, q)  y = Transpose <perm = [0, 2, 1]> (t)"


@pytest.mark.parametrize(
    ("outputs", "end", "boxes", "scores"),
    [
        ("float[N,7,A] y", "y = Concat <axis = 1> (r, q)", (1, (0, 1, 2, 3)), (1, (4, 5, 6))),
        ("float[N,7,A] y", "y = Concat <axis = 1> (q, r)", (1, (3, 4, 5, 6)), (1, (0, 1, 2))),
        ("float[N,A,7] y", TRANSPOSED, (2, (0, 1, 2, 3)), (2, (4, 5, 6))),
        ("float[N,7,A] y", "t = Concat <axis = 1> (r, q)  y = Mul (t, large)", (1, (0, 1, 2, 3)), (1, (4, 5, 6))),
    ],
    ids=["joined", "other order", "transposed", "scaled"],
)
def test_boxes_beside_scores_are_weighed_by_them(outputs, end, boxes, scores):
    constants = {name: value for name, value in SIZES.items() if name in HEADS + end}
    found = meaning(f"g (float[N,2,3,3] x) => ({outputs}) {{ {HEADS}  {end} }}", BOXES, constants)
    parts = {part.kind: part for part in found.parts}
    quantities, probabilities = parts["quantities"], parts["probabilities"]
    assert (quantities.axis, quantities.columns) == boxes
    assert (probabilities.axis, probabilities.columns) == scores
    assert quantities.positions == probabilities.positions == (9,)
    assert [found.parts[number] for number in quantities.confidence] == [probabilities]
    assert found.weights == (0.5, 0.5)
    assert probabilities.scale == (1000 if "Mul" in end else 1)


def test_numbers_of_a_mask_beside_boxes_and_scores_are_a_part_of_their_own() -> None:
    """Detectors of segments were no detectors: boxes of four columns and coefficients were one part of twelve."""
    text = """g (float[N,9,5] x) => (float[N,9,15] y) {
        b = MatMul (x, u)  c = MatMul (x, v)  p = Sigmoid (c)  m = MatMul (x, w)  y = Concat <axis = 2> (b, p, m) }"""
    parts = meaning(text, {"u": (5, 4), "v": (5, 3), "w": (5, 8)}).parts
    assert [(part.kind, part.columns) for part in parts] == [
        ("quantities", (0, 1, 2, 3)),
        ("quantities", tuple(range(7, 15))),
        ("probabilities", (4, 5, 6)),
    ]
    assert [part.confidence for part in parts] == [(2,), (2,), ()]


def test_centres_and_sizes_that_are_decoded_apart_are_boxes():
    """Free centres beside bounded sizes were two pairs of columns, and judged as keypoints."""
    text = """g (float[N,2,3,3] x) => (float[N,7,9] y) {
        b = Conv (x, box)  c = Conv (x, score)  s = Sigmoid (c)
        xy, wh = Split <axis = 1> (b, halves)  p = Clip (wh, least, most)  z = Exp (p)
        d = Concat <axis = 1> (xy, z)  r = Reshape (d, four)  q = Reshape (s, three)  y = Concat <axis = 1> (r, q) }"""
    bounds = {"halves": np.array([2, 2]), "least": np.float32(-3), "most": np.float32(3)}
    found = meaning(text, BOXES, {name: SIZES[name] for name in ("four", "three")} | bounds)
    assert [(part.kind, part.columns, part.confidence) for part in found.parts] == [
        ("quantities", (0, 1, 2, 3), (1,)),
        ("probabilities", (4, 5, 6), ()),
    ]


def test_boxes_and_scores_may_be_two_outputs():
    text = f"""g (float[N,2,3,3] x) => (float[N,A,4] boxes, float[N,3,A] q) {{
        {HEADS}  boxes = Transpose <perm = [0, 2, 1]> (r) }}"""
    found = meaning(text, BOXES, {name: SIZES[name] for name in ("four", "three")})
    assert [(part.kind, part.axis, part.confidence) for part in found.parts] == [
        ("quantities", 2, (1,)),
        ("probabilities", 1, ()),
    ]
    assert found.weights == (0.5, 0.5)


def test_maps_of_two_outputs_are_not_weighed_by_each_other():
    text = "g (float[N,2,3,3] x) => (float[N,1,3,3] mask, float[N,2,3,3] field) {"
    found = meaning(f"{text} c = Conv (x, v)  mask = Sigmoid (c)  field = Conv (x, w) }}",
                    {"v": (1, 2, 1, 1), "w": (2, 2, 1, 1)})  # fmt: skip
    assert [(part.kind, part.positions, part.confidence) for part in found.parts] == [
        ("probabilities", (3, 3), ()),
        ("quantities", (3, 3), ()),
    ]


def test_positions_picked_by_computed_places_keep_what_they_are():
    text = """g (float[N,3,8] x) => (float[A,8] y) {
        s = Sigmoid (x)  m = ReduceMax <axes = [1, 2], keepdims = 0> (x)
        i = ArgMax <axis = 0> (m)  k = Concat <axis = 0> (i, one)  u = Unsqueeze (k, zero)  y = GatherND (s, u) }"""
    part = only(text, {}, {"one": np.array([1]), "zero": np.array([0])})
    assert part.kind == "probabilities"


def test_a_length_that_is_expanded_to_the_size_of_the_batch_divides():
    """An exporter's sizes of the batch hid that vectors have length 1: they were class scores."""
    text = """g (float[N,5] x) => (float[N,6] y) {
        h = MatMul (x, w)  l = ReduceL2 <axes = [1]> (h)  c = Clip (l, least)
        s = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (s, six)  e = Expand (c, t)  y = Div (h, e) }"""
    part = only(text, {"w": (5, 6)}, {"least": np.array(1e-12, np.float32), "six": np.array([6])})
    assert (part.kind, part.axis) == ("embedding", 1)


def test_single_column_is_the_probability_of_a_class():
    found = meaning("g (float[N,5] x) => (float[N,1] y) { h = MatMul (x, w)  y = Sigmoid (h) }", {"w": (5, 1)})
    assert found.parts == (Part("y", "probabilities", axis=1, width=1, form="probabilities"),) == (found.classifier,)


def test_an_output_without_background_is_no_distribution():
    text = "g (float[N,5] x) => (float[N,2] y) { h = MatMul (x, w)  s = Softmax (h)  y = Slice (s, a, b, a) }"
    assert only(text, {"w": (5, 3)}, {"a": np.array([1]), "b": np.array([3])}).kind == "probabilities"


def test_scores_are_found_behind_spatial_axes_of_size_one():
    text = "g (float[N,2,4,4] x) => (float[N,3,1,1] y) { h = Conv (x, w)  y = GlobalAveragePool (h) }"
    found = meaning(text, {"w": (3, 2, 1, 1)})
    assert found.classifier == Part("y", "classes", axis=1, width=3, positions=(1, 1))


def test_scores_are_found_where_the_file_tells_no_shape():
    text = "g (float[N,5] x) => (float[N,M] y) { y = MatMul (x, w) }"
    assert only(text, {"w": (5, 3)}).kind == "classes"
    assert only(text, {"w": (5, 1)}).kind == "quantities"


def test_other_whole_numbers_count_only_alone():
    text = "=> (int64[N] k{0}) {{ h = MatMul (x, w)  k = CumSum (c, zero)  {1} }}"
    text = "g (float[N,5] x, int64[N] c) " + text
    zero = {"zero": np.array(0)}
    found = meaning(text.format(", float[N,3] y", "y = Identity (h)"), {"w": (5, 3)}, zero)
    assert [part.output for part in found.parts] == ["y"]
    found = meaning(text.format("", "y = Identity (h)"), {"w": (5, 3)}, zero)
    assert [(part.output, part.kind) for part in found.parts] == [("k", "labels")]


def test_rows_may_lie_along_another_axis():
    text = "g (float[N,7,5] x) => (float[7,N,3] y, float[1,1,1] z) { t = Transpose <perm = [1, 0, 2]> (x)  y = MatMul (t, w)  z = ReduceMax (x) }"  # noqa: E501
    found = meaning(text, {"w": (5, 3)})
    assert found.row_axes == {"y": 1, "z": None}
    assert [(part.axis, part.positions) for part in found.parts] == [(2, (7,)), (1, (1, 1))]
    runs = [{"y": np.zeros((7, n, 3)), "z": np.zeros((1, 1, 1))} for n in (2, 3)]
    assert {name: array.shape for name, array in found.joined(runs).items()} == {"y": (5, 7, 3), "z": (2, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("models/mlperf_tiny/resnet8_cifar10.onnx", ["classes"]),
        ("models/omlt/gemm.onnx", ["classes"]),
        ("models/magika/model.onnx", ["classes"]),
        ("models/cifar10_resnet_akamaster/resnet20_cifar10.onnx", ["classes"]),
        ("models/efficientnet_lite0/efficientnet_lite0_imagenet.onnx", ["classes"]),
        ("models/mlperf_tiny/ad01_autoencoder.onnx", ["quantities"]),
        ("models/yunet/yunet_s_320_320.onnx", ["probabilities"] * 6 + ["quantities"] * 6),
        ("models/vnncomp2023/TinyYOLO.onnx", ["quantities"]),
        ("models/ultra_light_face/version-slim-320.onnx", ["classes", "quantities"]),
        ("real/nudenet_yolov8n_320.onnx", ["quantities", "probabilities"]),
        ("real/hm_movenet_lightning.onnx", ["quantities", "probabilities"]),
        ("real/hm_selfie.onnx", ["probabilities"]),
        ("real/hm_facemesh.onnx", ["quantities", "probabilities", "quantities"]),
        ("real/mtcnn_onet.onnx", ["quantities", "quantities", "classes"]),
        ("real/crepe_tiny.onnx", ["probabilities"]),
        ("real/resemblyzer_lstm.onnx", ["embedding"]),
        ("small/lstm_ts.onnx", ["classes"]),
        ("small/un_ts.onnx", ["quantities", "quantities"]),
    ],
)
def test_outputs_of_real_models(corpus_path, name, kinds):
    found = read(corpus_path(name))
    assert [part.kind for part in found.parts] == kinds
    if name.endswith(("yolov8n_320.onnx", "movenet_lightning.onnx")):
        assert found.parts[0].confidence == (1,)


def test_an_output_that_only_other_outputs_have_is_read_too() -> None:
    proto = example("g (float[N,5] x) => (float[N,3] y) { h = MatMul (x, w)  y = Softmax (h) }", {"w": (5, 3)})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["N", 3]))
    # Beside probabilities that are spelled out, bare numbers are quantities.
    assert [(part.output, part.kind) for part in read(proto).parts] == [("y", "classes"), ("h", "quantities")]


@pytest.mark.parametrize(
    ("end", "width", "kind"),
    [
        ("y = Conv (p, w2, b)", 64, "classes"),
        ("c = Conv (p, w2)  y = Add (c, bias)", 64, "classes"),
        ("y = Conv (p, w2)", 64, "quantities"),
        ("y = Conv (p, w2)", 10, "classes"),
    ],
)
def test_many_values_without_bias_are_features_rather_than_class_scores(end, width, kind):
    text = f"g (float[N,3,8,8] x) => (float[N,{width},1,1] y) {{ h = Conv (x, w1)  p = GlobalMaxPool (h)  {end} }}"
    weights = {"w1": (6, 3, 3, 3), "w2": (width, 6, 1, 1), "b": (width,), "bias": (width, 1, 1)}
    (part,) = read_meaning(analyse(load(example(text, weights)))).parts
    assert part.kind == kind


def test_large_images_are_read_without_arrays_of_their_size() -> None:
    """An output of 8000 x 8000 took 6 GB to look at."""
    model = example("g (float[N,3,H,W] x) => (float[N,4,H,W] y) { y = Conv (x, w) }", {"w": (4, 3, 1, 1)})
    analysis = analyse(load(model), {"x": (1, 3, 3000, 3000)})
    tracemalloc.start()
    meaning = read_meaning(analysis)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert meaning.parts[0].positions == (3000, 3000)
    assert peak < 4 << 20
    huge = replace(analysis, facts=replace(analysis.facts, shapes={**analysis.facts.shapes, "y": (1, 4, 10**9, 10**9)}))
    with pytest.raises(InputError, match="output 'y' takes"):
        read_meaning(huge)


def test_an_output_without_positions_at_the_sizes_that_were_taken():
    """Frames of a signal that is too short: there is no value to tell anything by."""
    text = "g (float[N,4,2] x) => (float[N,0,3] y) { h = MatMul (x, w)  y = Slice (h, start, end, axis) }"
    constants = {name: np.array([value]) for name, value in {"start": 4, "end": 9, "axis": 1}.items()}
    assert [part.output for part in meaning(text, {"w": (2, 3)}, constants).parts] == ["y"]


GRID = np.stack([np.arange(16) % 4, np.arange(16) // 4], 1).astype(np.float32)
HEAD = """h = Conv (x, w)  r = Reshape (h, flat)  t = Transpose <perm = [0, 2, 1]> (r)  s = Sigmoid (t)
    xy, wh, o, c = Split <axis = 2> (s, parts)  a = Mul (xy, two)  g = Add (a, grid)  p = Mul (g, stride)
    e = Mul (wh, two)  q = Mul (e, e)  d = Mul (q, stride) """
HEAD_CONSTANTS = {
    "flat": np.array([0, 9, 16]),
    "parts": np.array([2, 2, 1, 4]),
    "two": np.array(2, np.float32),
    "stride": np.array(8, np.float32),
    "grid": GRID,
}


def detector_with(end: str, columns: int) -> list[tuple[str, int, tuple[int, ...]]]:
    text = f"g (float[N,3,4,4] x) => (float[N,16,{columns}] y) {{ {HEAD} {end} }}"
    found = meaning(text, {"w": (9, 3, 1, 1)}, HEAD_CONSTANTS)
    return sorted((part.kind, part.width, part.confidence) for part in found.parts)


def test_one_sigmoid_for_boxes_and_scores_is_both() -> None:
    """As YOLOv5 is exported, with a grid that is constant: the whole was read as nine quantities."""
    found = detector_with("y = Concat <axis = 2> (p, d, o, c)", 9)
    assert found == [("probabilities", 5, ()), ("quantities", 4, found[1][2])]
    assert found[1][2]


def test_a_bias_of_0_divides_no_scores() -> None:
    """Five scores were two parts, since one class had no bias: quantities."""
    text = "g (float[N,32] x) => (float[N,5] y) { h = MatMul (x, w)  y = Add (h, b) }"
    part = only(text, {"w": (32, 5)}, {"b": np.array([0.3, 0, -0.1, 0, 0.2], np.float32)})
    assert (part.kind, part.width) == ("classes", 5)


def test_objectness_times_classes_is_a_probability() -> None:
    """A half times a half is a quarter, which no sigmoid makes of 0."""
    found = detector_with("m = Mul (o, c)  y = Concat <axis = 2> (p, d, m)", 8)
    assert found == [("probabilities", 4, ()), ("quantities", 4, found[1][2])]
    assert found[1][2]


@pytest.mark.parametrize("classes", ["Sigmoid (c)", "Softmax <axis = 2> (c)"])
@pytest.mark.parametrize("sure", ["Sigmoid (o)", "r = Sigmoid (o)  q = Sigmoid (o)  s = Mul (r, q)"])
def test_products_of_two_layers_are_probabilities(classes: str, sure: str) -> None:
    sure = sure if "=" in sure else f"s = {sure}"
    text = f"g (float[N,6,5] x) => (float[N,6,3] y) {{ o = MatMul (x, v)  c = MatMul (x, w)  {sure}  k = {classes}  y = Mul (s, k) }}"  # noqa: E501
    assert only(text, {"v": (5, 1), "w": (5, 3)}).kind == "probabilities"


@pytest.mark.parametrize("end", ["y = Mul (s, half)", "y = Clip (h, zero, one)", "t = Tanh (h)  y = Mul (t, t)"])
def test_other_numbers_between_0_and_1_are_quantities(end: str) -> None:
    text = f"g (float[N,7,5] x) => (float[N,7,3] y) {{ h = MatMul (x, w)  s = Sigmoid (h)  {end} }}"
    numbers = {name: np.array(value, np.float32) for name, value in {"half": 0.25, "zero": 0, "one": 1}.items()}
    weights = {"w": np.ones((5, 3), np.float32)}
    found = meaning(text, None, numbers | weights)
    assert [part.kind for part in found.parts if not part.is_scaled] in ([], ["quantities"])

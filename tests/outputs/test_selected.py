"""Outputs that are selected by value are compared at what they are selected from."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration.inputs import load_data
from onnxprune.evaluation.metrics import compare
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.selected import in_front
from onnxprune.structure.coupling import analyse
from onnxprune.structure.selection import sorted_within

CLASSES = 2
DETECTIONS = """
    f = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (f)
    h = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)
    q = Relu (h)
    b = Conv (q, wb, bb)
    s = Conv (q, wc, bc)
    bf = Reshape (b, as_boxes)
    boxes = Transpose <perm = [0, 2, 1]> (bf)
    sf = Reshape (s, as_scores)
    scores = Sigmoid (sf)
    selected = NonMaxSuppression (boxes, scores, most, overlap, least)
    one = Slice (selected, two, three, second)
    at = Squeeze (one, second)
    alone = Squeeze (boxes, zero)
    found = Gather <axis = 0> (alone, at)
    sure = GatherND (scores, selected)
"""
CONSTANTS = {
    "as_boxes": np.array([0, 4, -1]),
    "as_scores": np.array([0, CLASSES, -1]),
    "most": np.array([8]),
    "overlap": np.array([0.5], np.float32),
    "least": np.array([0.5], np.float32),
    "two": np.array([2]),
    "three": np.array([3]),
    "second": np.array([1]),
    "zero": np.array([0]),
}
WEIGHTS = {
    "w0": (16, 3, 3, 3),
    "b0": (16,),
    "w1": (16, 16, 3, 3),
    "b1": (16,),
    "wb": (4, 16, 1, 1),
    "bb": (4,),
    "wc": (CLASSES, 16, 1, 1),
    "bc": (CLASSES,),
}


def detector(outputs: str = "float[D,4] found, float[D] sure", more: str = "", weights: dict | None = None):
    text = f"g (float[1,3,4,4] x) => ({outputs}) {{ {DETECTIONS} {more} }}"
    return example(text, WEIGHTS | (weights or {}), CONSTANTS)


def images(count: int = 80) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)}


@pytest.mark.parametrize("importance", ["reconstruction", "magnitude"])
def test_a_detector_with_non_max_suppression_inside_is_pruned_on_data(importance: str, tmp_path: Path) -> None:
    """It ended with "operands could not be broadcast together with shapes (84,4,1) (86,4,1)"."""
    made = onnxprune.prune(detector(), images(), targets="macs=0.6", importance=importance, time=False, threads=1)
    assert made.after.macs <= 0.6 * made.before.macs
    assert {"found_again", "new_detections"} <= {*made.metrics}
    made.save(tmp_path / "small.onnx")
    again = onnxprune.validate(detector(), tmp_path / "small.onnx", images(20), time=False)
    assert again.metrics["found_again"].before == 1


def test_outputs_of_another_size_are_no_error_without_data() -> None:
    """It ended with "output of the result has shape (16, 4), expected (39, 4)"."""
    made = onnxprune.prune(detector(), targets="macs=0.4", importance="magnitude", time=False)
    assert made.after.macs <= 0.4 * made.before.macs


def test_scores_and_boxes_stand_in_front() -> None:
    analysis = analyse(load(detector()))
    assert set(in_front(["found"], analysis)["found"]) == {"boxes", "scores"}
    kinds = {part.output: part.kind for part in read_meaning(analysis).parts}
    assert kinds == {"boxes": "quantities", "scores": "probabilities"}


def test_what_is_made_of_comparisons_stands_on_what_is_compared() -> None:
    text = """g (float[N,6] x) => (float[D] y) {
        h = Gemm (x, w1, b1)
        r = Relu (h)
        z = Gemm (r, w2, b2)
        s = Sigmoid (z)
        m = Greater (s, half)
        k = NonZero (m)
        i = Transpose (k)
        y = GatherND (z, i) }"""
    weights = {"w1": (6, 12), "b1": (12,), "w2": (12, 5), "b2": (5,)}
    proto = example(text, weights, {"half": np.float32(0.5)})
    assert in_front(["y"], analyse(load(proto))) == {"y": ("z",)}


def test_layers_behind_a_selection_are_compared_where_they_end() -> None:
    proto = detector("float[D,3] y", "y = Gemm (found, w9)", {"w9": (4, 3)})
    assert in_front(["y"], analyse(load(proto))) == {}


def test_kinds_and_weights_of_selected_outputs_cannot_be_said() -> None:
    for said in ({"kinds": ("found=quantities",)}, {"weights": ("found=2",)}):
        with pytest.raises(onnxprune.InputError, match=r"found: what it holds is selected by value"):
            onnxprune.prune(detector(), images(), targets="macs=0.6", outputs=onnxprune.OutputConfig(**said))
    given = onnxprune.OutputConfig(kinds=("found=ignored",))
    onnxprune.prune(detector(), images(20), targets="macs=0.6", importance="magnitude", outputs=given, time=False)


def test_a_model_without_the_tensors_in_front_is_refused_in_one_line() -> None:
    other = onnx.ModelProto()
    other.CopyFrom(detector())
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = ["elsewhere" if name == "scores" else name for name in names]
    with pytest.raises(
        onnxprune.InputError, match=r"selects its outputs by value, .* at 'boxes', 'scores' before that"
    ):
        onnxprune.validate(detector(), other, images(4), time=False)


def test_layers_behind_a_selection_that_leaves_other_numbers_are_told() -> None:
    proto = detector("float[D,3] y", "y = Gemm (found, w9)", {"w9": (4, 3)})
    with pytest.raises(onnxprune.InputError, match=r"how many depends on the values|give two models of one task"):
        onnxprune.prune(proto, images(), targets="macs=0.3", time=False, threads=1)


def test_rows_compare_alike() -> None:
    model = load(detector())
    rows = load_data(images(6), model)
    assert compare(model, model, rows)["relative_error"].after == 0


SORTING = """
    flat = Reshape (scores, as_vector)
    best, order = TopK <axis = 1> (flat, three_of)
    at = Mod (order, positions)
    class = Div (order, positions)
    along = Unsqueeze (at, two)
    of_boxes = Tile (along, for_boxes)
    found = GatherElements <axis = 1> (boxes, of_boxes)
    sure = Unsqueeze (best, two)
    named = Cast <to = 1> (class)
    names = Unsqueeze (named, two)
    dets = Concat <axis = 2> (found, sure, names)
"""
HEADS = DETECTIONS[: DETECTIONS.index("selected =")]
SORTING_CONSTANTS = CONSTANTS | {
    "as_vector": np.array([0, -1]),
    "three_of": np.array([3]),
    "positions": np.array(16),
    "for_boxes": np.array([1, 1, 4]),
}


def sorting_detector(outputs: str = "float[N,3,6] dets", more: str = "", weights: dict | None = None):
    text = f"g (float[N,3,4,4] x) => ({outputs}) {{ {HEADS} {SORTING} {more} }}"
    return example(text, WEIGHTS | (weights or {}), SORTING_CONSTANTS)


def test_a_detector_that_sorts_what_it_found_is_compared_before_it_sorts() -> None:
    """Rows of detections sorted by score were compared by rank: two that changed places counted as lost."""
    parts = read_meaning(analyse(load(sorting_detector()))).parts
    assert {part.output: (part.kind, part.positions, part.width) for part in parts} == {
        "scores": ("probabilities", (16,), CLASSES),
        "boxes": ("quantities", (16,), 4),
    }
    assert all(part.confidence for part in parts if part.output == "boxes")


KEYPOINTS = """g (float[N,3,4,4] x) => (float[N,3] sure, float[N,3,2] shift) {{
        f = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        c = Conv (f, wc, bc)
        shifts = Conv (f, wo, bo)
        heat = Sigmoid (c)
        {peaks}
        flat = Reshape (peaks, as_vector)
        sure, at = TopK <axis = 1> (flat, three_of)
        of = Reshape (shifts, as_shifts)
        listed = Transpose <perm = [0, 2, 1]> (of)
        along = Unsqueeze (at, two)
        both = Tile (along, for_shifts)
        shift = GatherElements <axis = 1> (listed, both) }}"""
SUPPRESSED = """highest = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (heat)
        is_peak = Equal (highest, heat)
        as_number = Cast <to = 1> (is_peak)
        peaks = Mul (heat, as_number)"""


@pytest.mark.parametrize("peaks", [SUPPRESSED, "peaks = Identity (heat)"], ids=["peaks", "values"])
def test_maps_are_compared_before_places_are_picked(peaks: str) -> None:
    """Of a map all but the peaks were 0, so that a step aside was two mistakes; shifts counted alike anywhere."""
    weights = {"w0": (16, 3, 3, 3), "b0": (16,), "wc": (1, 16, 1, 1), "bc": (1,), "wo": (2, 16, 1, 1), "bo": (2,)}
    numbers = SORTING_CONSTANTS | {"as_shifts": np.array([0, 2, -1]), "for_shifts": np.array([1, 1, 2])}
    parts = read_meaning(analyse(load(example(KEYPOINTS.format(peaks=peaks), weights, numbers)))).parts
    assert {part.kind: part.count for part in parts} == {"probabilities": 16, "quantities": 16}
    assert {part.output for part in parts} <= {"heat", "peaks", "listed"}
    (shifts,) = (part for part in parts if part.kind == "quantities")
    assert shifts.confidence


def test_sorted_outputs_stay_where_the_user_says_what_they_hold() -> None:
    meaning = read_meaning(analyse(load(sorting_detector())), onnxprune.OutputConfig(kinds=("dets=quantities",)))
    assert [part.output for part in meaning.parts] == ["dets"]


def test_what_is_computed_of_the_largest_is_no_order() -> None:
    """A mean of the largest values (multiple-instance pooling) is an output like any other."""
    text = """g (float[N,6] x) => (float[N,1] y) {
        h = Gemm (x, w1, b1)
        t, i = TopK <axis = 1> (h, k)
        m = ReduceMean <axes = [1], keepdims = 1> (t)
        y = Sigmoid (m) }"""
    proto = example(text, {"w1": (6, 12), "b1": (12,)}, {"k": np.array([4])}, opset=17)
    assert in_front(["y"], analyse(load(proto))) == {}


def test_places_beside_scores_change_nothing() -> None:
    """The numbers of the best classes, put out beside the scores, made these quantities."""
    text = """g (float[N,6] x) => (float[N,12] scores, int64[N,5] which) {
        scores = Gemm (x, w1, b1)
        s = Softmax (scores)
        best, which = TopK <axis = 1> (s, k) }"""
    proto = example(text, {"w1": (6, 12), "b1": (12,)}, {"k": np.array([5])})
    assert in_front(["scores", "which"], analyse(load(proto))) == {}
    assert [(part.output, part.kind) for part in read_meaning(analyse(load(proto))).parts] == [("scores", "classes")]
    more = text.replace("int64[N,5] which", "float[N,5] best")
    parts = read_meaning(analyse(load(example(more, {"w1": (6, 12), "b1": (12,)}, {"k": np.array([5])})))).parts
    assert [part.output for part in parts] == ["scores"]


COMPUTED = {
    "mean of the largest": "t, i = TopK <axis = 1> (h, k)  y = ReduceMean <axes = [1], keepdims = 0> (t)",
    "weighed by itself": "t, i = TopK <axis = 1> (h, k)  q = Mul (t, t)  y = ReduceSum (q, one)",
    "median": "t, i = TopK <axis = 1> (h, all)  y = Gather <axis = 1> (t, one)",
    "threshold": "t, i = TopK <axis = 1> (h, k)  l = Gather <axis = 1> (t, last)  d = Sub (h, l)  y = Relu (d)",
}


@pytest.mark.parametrize("end", COMPUTED.values(), ids=[*COMPUTED])
def test_what_is_computed_of_a_sorted_list_is_no_list(end: str) -> None:
    """Sizes told lists from sums: where as many are taken as there are classes, a mean was compared before it."""
    text = f"g (float[N,20,6] x) => (float y) {{ h = MatMul (x, w1)  {end} }}"
    numbers = {"k": np.array([5]), "all": np.array([20]), "one": np.array([1]), "last": np.array([4])}
    proto = example(text, {"w1": (6, 5)}, numbers, full_check=False)
    assert in_front(["y"], analyse(load(proto))) == {}


QUERIES = """g (float[N,20,6] x) => (float[N,8,3] y) {{
        h = MatMul (x, w1)
        r = ReduceMax <axes = [2], keepdims = 0> (h)
        t, i = TopK <axis = 1> (r, k)
        along = Unsqueeze (i, two)
        all = Tile (along, each)
        found = GatherElements <axis = 1> (h, all)
        {end} }}"""
TAKEN = {"k": np.array([8]), "two": np.array([2]), "each": np.array([1, 1, 8])}


def test_queries_that_are_sorted_within_a_network_train() -> None:
    proto = example(QUERIES.format(end="a = Relu (found) y = MatMul (a, w2)"), {"w1": (6, 8), "w2": (8, 3)}, TAKEN)
    assert [node.op_type for node in sorted_within(analyse(load(proto)))] == ["TopK"]
    rows = {"x": np.random.default_rng(0).standard_normal((40, 20, 6)).astype(np.float32)}
    pytest.importorskip("torch")
    trained = onnxprune.finetune(proto, rows, teacher=proto, config=onnxprune.FinetuneConfig(epochs=1))
    assert len(trained.history) == 2
    assert sorted_within(analyse(load(sorting_detector()))) == {}


def test_quantised_layers_behind_a_selection_are_layers() -> None:
    quantised = "q, s, z = DynamicQuantizeLinear (found) p = MatMulInteger (q, w2, z) y = Cast <to = 1> (p)"
    proto = example(QUERIES.format(end=quantised), {"w1": (6, 8)}, TAKEN | {"w2": np.ones((8, 3), np.int8)})
    assert in_front(["y"], analyse(load(proto))) == {}


def test_many_comparisons_before_a_selection_are_walked_once() -> None:
    """Each block of a quantised network doubled the steps of the walk: 18 of them took seven seconds."""
    blocks = " ".join(
        f"g{at} = Greater (h{at}, half) c{at} = Cast <to = 1> (g{at}) h{at + 1} = Add (c{at}, c{at})"
        for at in range(200)
    )
    text = f"""g (float[N,12] x) => (float[N,3] y) {{
        h0 = MatMul (x, w) {blocks} b = Greater (h200, half) a = Cast <to = 1> (b) y, i = TopK <axis = 1> (a, k) }}"""
    proto = example(text, {"w": (12, 12)}, {"half": np.float32(0.5), "k": np.array([3])})
    assert in_front(["y"], analyse(load(proto)))["y"]


def test_a_model_without_the_tensors_in_front_is_compared_at_what_both_put_out() -> None:
    """Two exports of one model name their inner tensors differently: `validate` refused them."""
    other = sorting_detector()
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = ["elsewhere" if name == "scores" else name for name in names]
    found = onnxprune.validate(sorting_detector(), other, images(4), time=False)
    assert found.metrics["relative_error"].after == 0


def test_an_order_that_layers_go_on_with_is_part_of_the_network() -> None:
    proto = sorting_detector("float[N,3,3] y", "y = MatMul (found, w9)", {"w9": (4, 3)})
    assert in_front(["y"], analyse(load(proto))) == {}


def test_classifiers_that_put_out_their_five_best_are_compared_at_all_scores() -> None:
    text = """g (float[N,6] x) => (float[N,5] best, int64[N,5] which) {
        h = Gemm (x, w1, b1)
        s = Softmax (h)
        best, which = TopK <axis = 1> (s, k) }"""
    proto = example(text, {"w1": (6, 12), "b1": (12,)}, {"k": np.array([5])})
    assert in_front(["best", "which"], analyse(load(proto))) == {"best": ("s",)}
    assert [(part.output, part.kind) for part in read_meaning(analyse(load(proto))).parts] == [("s", "classes")]


@pytest.mark.parametrize("model", [detector, sorting_detector])
def test_a_measure_of_the_users_own_gets_what_the_model_puts_out(model) -> None:
    """It got the tensors in front alone, of which no mean average precision can be counted."""
    asked, got = model(), []

    def measure(original, candidate, labels):
        got.append(original)
        return 1.0

    data = load_data(images(5), load(asked))
    compare(load(asked), load(asked), data, config=onnxprune.OutputConfig(metric=measure))
    names = {value.name for value in asked.graph.output}
    assert {*got[0]} == names | {"boxes", "scores"}
    assert all(len(got[0][name]) == 5 for name in got[0])
    if model is detector:
        assert {found.shape[1:] for found in got[0]["found"]} == {(4,)}
        assert [len(found) for found in got[0]["found"]] == [len(sure) for sure in got[0]["sure"]]
    else:
        assert got[0]["dets"].shape == (5, 3, 6)


@pytest.mark.parametrize("model", [detector, sorting_detector])
def test_detectors_learn_from_the_original_in_front_of_what_they_select(model) -> None:
    """`--distill` refused them: NonMaxSuppression and GatherElements cannot be trained, and need not be."""
    pytest.importorskip("torch")
    given = onnxprune.prune(model(), images(40), targets="macs=0.6", importance="magnitude", distill=1, time=False)
    taught = onnxprune.finetune(given.model, images(40), teacher=model(), config=onnxprune.FinetuneConfig(epochs=1))
    assert len(taught.history) == 2

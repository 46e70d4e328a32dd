"""Padding is what a mask leaves out and the model does not read: nothing is fitted to it, and it is not judged."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

import onnxprune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.layer_matrix import Drawing, positions
from onnxprune.calibration.runner import collect
from onnxprune.config import OutputConfig, PruneConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.evaluation.metrics import compare
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.meaning import Part
from onnxprune.outputs.padding import Padding, real_positions
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

TOKENS, WIDTH = 6, 8


MASKS = {  # what else than (rows, positions) of whole numbers: the type, and the shape of a row
    "heads": (T.FLOAT, [1, 1, TOKENS]),
    "pairs": (T.BOOL, [TOKENS, TOKENS]),
    "lengths": (T.INT64, []),
}


def encoder(mask: str, *, maps: bool = False) -> onnx.ModelProto:
    """Attention over embedded tokens, with a mask spelled in some way, or with one that is not used.

    With `maps` it puts out where attention looks, too.
    """
    generator = np.random.default_rng(0)
    weights = {"table": (20, WIDTH), "q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH)}
    constants = [
        onnx.numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    constants += [
        onnx.numpy_helper.from_array(np.float32(value), name)
        for name, value in (("one", 1), ("far", -1e4), ("least", -np.inf), ("zero", 0))
    ]
    constants.append(onnx.numpy_helper.from_array(np.arange(TOKENS)[None], "places"))
    constants.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    node = helper.make_node
    masked = {
        "added": [
            node("Cast", ["mask"], ["m"], to=T.FLOAT),
            node("Sub", ["one", "m"], ["out"]),
            node("Mul", ["out", "far"], ["bias"]),
            node("Unsqueeze", ["bias", "axis"], ["wide"]),
            node("Add", ["scores", "wide"], ["seen"]),
        ],
        "where": [
            node("Cast", ["mask"], ["left"], to=T.BOOL),
            node("Unsqueeze", ["left", "axis"], ["wide"]),
            node("Where", ["wide", "least", "scores"], ["seen"]),
        ],
        "heads": [node("Squeeze", ["mask", "axis"], ["wide"]), node("Add", ["scores", "wide"], ["seen"])],
        "pairs": [node("Where", ["mask", "scores", "least"], ["seen"])],
        "lengths": [
            node("Unsqueeze", ["mask", "axis"], ["length"]),
            node("Less", ["places", "length"], ["left"]),
            node("Unsqueeze", ["left", "axis"], ["wide"]),
            node("Where", ["wide", "scores", "far"], ["seen"]),
        ],
        "unused": [
            node("Cast", ["mask"], ["m"], to=T.FLOAT),
            node("Mul", ["m", "zero"], ["bias"]),
            node("Unsqueeze", ["bias", "axis"], ["wide"]),
            node("Add", ["scores", "wide"], ["seen"]),
        ],
    }[mask]
    nodes = [
        node("Gather", ["table", "tokens"], ["x"]),
        *(node("MatMul", ["x", name], [f"x{name}"], name=name) for name in "qkv"),
        node("Transpose", ["xk"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["xq", "kt"], ["scores"]),
        *masked,
        node("Softmax", ["seen"], ["p"], axis=-1),
        node("MatMul", ["p", "xv"], ["mixed"], name="mix"),
        node("MatMul", ["mixed", "o"], ["y"], name="o"),
    ]
    kind, shape = MASKS.get(mask, (T.INT64, [TOKENS]))
    inputs = [
        helper.make_tensor_value_info("tokens", T.INT64, ["N", TOKENS]),
        helper.make_tensor_value_info("mask", kind, ["N", *shape]),
    ]
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, ["N", TOKENS, WIDTH])]
    if maps:
        outputs.append(helper.make_tensor_value_info("p", T.FLOAT, ["N", TOKENS, TOKENS]))
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows(count: int = 12) -> tuple[Dataset, np.ndarray]:
    """Rows of 2 to 6 tokens, and which are real."""
    generator = np.random.default_rng(1)
    real = np.arange(TOKENS) < generator.integers(2, TOKENS + 1, (count, 1))
    real[0] = True
    real[1, 2:] = False
    tokens = np.where(real, generator.integers(1, 20, real.shape), 0)
    return Dataset({"tokens": tokens, "mask": real.astype(np.int64)}, None, "rows", np.arange(count)), real


def spelled(mask: str) -> tuple[Dataset, np.ndarray]:
    """Rows whose mask is what `encoder(mask)` takes, and which are real."""
    data, real = rows()
    value = {
        "added": real.astype(np.int64),
        "unused": real.astype(np.int64),
        "where": (~real).astype(np.int64),  # ones where nothing is
        "heads": np.where(real, 0, -1e4).astype(np.float32)[:, None, None],
        "pairs": np.broadcast_to(real[:, None], (*real.shape, TOKENS)),
        "lengths": real.sum(axis=1),
    }[mask]
    return Dataset({**data.arrays, "mask": value}, None, "rows", data.rows), real


def found(mask: str, data: Dataset, *, maps: bool = False) -> np.ndarray | None:
    model = load(encoder(mask, maps=maps))
    return real_positions(model, read_meaning(analyse(model), PruneConfig().outputs), data, ONE_CORE)


@pytest.mark.parametrize("maps", [False, True], ids=["", "with maps"])
@pytest.mark.parametrize("mask", ["added", "where", "heads", "pairs", "lengths"])
def test_a_mask_is_found_however_it_is_spelled(mask: str, maps: bool) -> None:
    data, real = spelled(mask)
    kept = found(mask, data, maps=maps)
    assert kept is not None
    assert np.array_equal(kept, real)


def test_a_mask_of_pairs_that_hides_nothing_from_all_leaves_no_padding() -> None:
    """Where each token sees itself and those before it, all are real."""
    data, real = rows()
    before = np.broadcast_to(np.tri(TOKENS, dtype=bool), (*real.shape, TOKENS))
    assert found("pairs", Dataset({**data.arrays, "mask": before}, None, "rows", data.rows)) is None


def test_an_input_of_zeros_and_ones_that_masks_nothing_is_no_mask() -> None:
    assert found("unused", rows()[0]) is None


def test_full_rows_have_no_padding() -> None:
    data, real = rows()
    full = Dataset({**data.arrays, "mask": np.ones_like(real, np.int64)}, None, "rows", data.rows)
    assert found("added", full) is None


def test_padding_is_never_drawn() -> None:
    _, real = rows()
    model = load(encoder("added"))
    layer = analyse(model).layers[0]
    padding = Padding(real, starts=(0, 5, 10))
    for index in range(3):
        batch = real[5 * index : 5 * index + 5]
        for count in (3, 10**6):
            for focus in (lambda shape: None, lambda shape: np.ones(np.prod(shape))):
                drawing = Drawing(padding.of_batch(index), focus)
                at = positions(layer, (*batch.shape, WIDTH), count, np.random.default_rng(index), drawing)
                assert len(at.chosen)
                assert batch.ravel()[at.chosen].all()


def test_what_outputs_say_at_padding_does_not_count() -> None:
    _, real = rows()
    meaning = read_meaning(analyse(load(encoder("added"))), PruneConfig().outputs)
    generator = np.random.default_rng(2)
    outputs = generator.normal(size=(*real.shape, WIDTH))
    at_padding = outputs + 5 * ~real[..., None]
    at_words = outputs + 0.5 * real[..., None]
    assert Reference(meaning, {"y": outputs}, real).divergence({"y": at_padding}) == 0
    assert Reference(meaning, {"y": outputs}).divergence({"y": at_padding}) > 0
    lost = Reference(meaning, {"y": at_padding}, real).rows({"y": at_words})
    # Not the number of words but what each of them lost; nor does padding count in the spread.
    assert lost == pytest.approx(np.full(len(real), lost[0]), rel=1e-9)
    assert lost[0] == pytest.approx(Reference(meaning, {"y": outputs}, real).rows({"y": at_words})[0], rel=1e-9)


def test_metrics_leave_out_padding() -> None:
    """Padded positions counted as tokens that stayed the same, or that changed."""
    data, real = spelled("heads")
    model = load(encoder("heads", maps=True))
    rng = np.random.default_rng(3)
    table = model.constants["table"].copy()
    table[0] += rng.normal(size=WIDTH)  # the token that pads
    spoilt = model.with_constants({"table": table})
    changed = model.with_constants({"o": model.constants["o"] + rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)})
    labels = collect(model, data, ["y"])["y"].argmax(axis=2)
    wrong_at_padding = np.where(real, labels, (labels + 1) % WIDTH)
    for kind, name, value in (
        ("classes", "agreement", 1.0),
        ("embedding", "cosine", pytest.approx(1.0)),
        ("quantities", "explained", pytest.approx(1.0)),
    ):
        config = OutputConfig(kinds=(f"y={kind}", "p=ignored"))
        metrics = compare(model, spoilt, data, config=config)
        assert metrics[name].after == value
        assert metrics["relative_error"].after < 1e-5
        assert compare(model, changed, data, config=config)[name].after < 0.99
    with_labels, config = replace(data, labels=wrong_at_padding), OutputConfig(kinds=("y=classes", "p=ignored"))
    found = compare(model, changed, with_labels, config=config)["accuracy"]
    assert found.before == 1.0
    scores = collect(changed, data, ["y"])["y"].argmax(axis=2)
    assert found.after == pytest.approx((scores == labels)[real].mean())


def test_positions_of_a_part_follow_the_sequence() -> None:
    _, real = rows()
    heads = Part("p", "classes", axis=3)
    kept = heads.real((len(real), 2, TOKENS, TOKENS), real)
    assert kept is not None
    assert np.array_equal(kept, np.tile(real, (1, 2)))
    assert Part("y", "quantities", axis=2).real((len(real), 4, WIDTH), real) is None
    assert Part("y", "quantities", axis=2).real((len(real) + 1, TOKENS, WIDTH), real) is None


def test_an_empty_cache_is_no_mask() -> None:
    """The first step of a decoder, with a cache of length 0, ended in "zero-size array to reduction operation"."""
    proto = example(
        """g (float[N,P,4] past, float[N,1,4] x) => (float[N,Q,4] present, float[N,1,4] y) {
        h = MatMul (x, w1)
        r = Relu (h)
        y = MatMul (r, w2)
        present = Concat <axis = 1> (past, y) }""",
        {"w1": (4, 12), "w2": (12, 4)},
    )
    x = np.random.default_rng(0).standard_normal((40, 1, 4)).astype(np.float32)
    rows = {"past": np.zeros((40, 0, 4), np.float32), "x": x}
    made = onnxprune.prune(proto, rows, targets="macs=0.6", time=False, threads=1)
    assert made.after.macs <= 0.6 * made.before.macs
    assert onnxprune.validate(proto, proto, rows, time=False).metrics["relative_error"].after == 0

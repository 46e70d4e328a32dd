"""Scores in front of a BatchNormalization, as in the authors' code."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import EPS, logits_at, program_of
from onnx import numpy_helper
from test_affine_form import linearised
from test_hand_counts import ALL, CLASSES, GAPS, LAMBDA
from test_lazy_rows import RAW, with_rows
from test_scorer import context, report

from onnxprune.config import OamipConfig
from onnxprune.graph.load import load
from onnxprune.importance.oamip.compile import score_points, seen_behind
from onnxprune.importance.oamip.scorer import score
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

PLAIN = """g (float[N,2,4,4] x) => (float[N,3] y) { c = Conv (x, w1, b1)
    n = BatchNormalization (c, s, b, m, var) h = Relu (n) f = Flatten (h) y = Gemm (f, w2, b2) }"""
PLAIN_WEIGHTS = {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (16, 3), "b2": (3,)} | dict.fromkeys(
    ("s", "b", "m", "var"), (4,)
)
# A stream that two convolutions add to, of which one has no BatchNormalization; inside the block a bias stands apart.
BLOCK = """g (float[N,2,6,6] x) => (float[N,3] y) { a = Conv (x, w1, b1) h = Relu (a)
    c = Conv <pads = [1,1,1,1]> (h, w2) d = Add (c, bias) n = BatchNormalization (d, s, b, m, var) k = Relu (n)
    e = Conv <pads = [1,1,1,1]> (k, w3) o = BatchNormalization (e, s2, b3, m2, var2) t = Add (o, h) r = Relu (t)
    q = GlobalAveragePool (r) f = Flatten (q) y = Gemm (f, w4) }"""
BLOCK_WEIGHTS = (
    {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (5, 4, 3, 3), "bias": (5, 1, 1), "w3": (4, 5, 3, 3), "w4": (4, 3)}
    | dict.fromkeys(("s", "b", "m", "var"), (5,))
    | dict.fromkeys(("s2", "b3", "m2", "var2"), (4,))
)
NETWORKS = {"plain": (PLAIN, PLAIN_WEIGHTS, (2, 4, 4)), "block": (BLOCK, BLOCK_WEIGHTS, (2, 6, 6))}


def built(name: str, rows: int) -> tuple[onnx.ModelProto, np.ndarray]:
    text, weights, shape = NETWORKS[name]
    return example(text, weights), np.random.default_rng(4).standard_normal((rows, *shape)).astype(np.float32)


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


def test_the_tensors_that_are_scored() -> None:
    proto, x = built("block", 1)
    analysis = analyse(load(proto), {"x": x.shape})
    assert list(score_points(analysis)) == ["h", "k", "r"]
    assert list(score_points(analysis, "before")) == ["a", "d", "e"]  # the first one for the stream's sake
    assert [seen_behind(analysis, name) for name in ("a", "d", "e")] == ["h", "k", "r"]


def test_without_an_activation_the_completed_values_are_seen() -> None:
    text = """g (float[N,4] x) => (float[N,3] y) { a = Gemm (x, w1) n = BatchNormalization (a, s, b, m, var)
        c = Gemm (n, w2) h = Relu (c) y = Gemm (h, w3) }"""
    sizes = {"w1": (4, 5), "w2": (5, 6), "w3": (6, 3)} | dict.fromkeys(("s", "b", "m", "var"), (5,))
    analysis = analyse(load(example(text, sizes)), {"x": (1, 4)})
    assert list(score_points(analysis)) == ["n", "h"]
    assert list(score_points(analysis, "before")) == ["a", "h"]
    assert seen_behind(analysis, "a") == "n"


def test_what_others_read_too_is_scored_as_before() -> None:
    """A BatchNormalization behind an activation, and one that does not read alone."""
    text = """g (float[N,4] x) => (float[N,3] y) { a = Gemm (x, w1) h = Relu (a)
        n = BatchNormalization (h, s, b, m, var) c = Gemm (n, w2) o = BatchNormalization (c, s2, b2, m2, var2)
        t = Add (o, c) r = Relu (t) y = Gemm (r, w3) }"""
    sizes = {"w1": (4, 5), "w2": (5, 6), "w3": (6, 3)} | dict.fromkeys(("s", "b", "m", "var"), (5,))
    proto = example(text, sizes | dict.fromkeys(("s2", "b2", "m2", "var2"), (6,)))
    analysis = analyse(load(proto), {"x": (1, 4)})
    assert list(score_points(analysis, "before")) == list(score_points(analysis)) == ["h", "r"]


@pytest.mark.parametrize("raw", [False, True])
def test_logits_are_what_the_formula_says(raw: bool) -> None:
    """`r = c - (1 - s) U+` (or `U`) of the convolution's own output, then BatchNormalization and the image's gates."""
    proto, x = built("plain", 3)
    w = weights(proto)
    built_program = program_of(
        proto, x, np.array([0, 1, 2]), replace(EPS, epsilon=0.0, raw=raw), normalisation="before"
    ).program
    scores = np.array([0.0, 0.3, 0.8, 1.0])
    point = built_program.start.copy()
    point[np.concatenate(built_program.layers)] = scores
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
    c = np.einsum("nihwkl,oikl->nohw", windows, w["w1"]) + w["b1"][:, None, None]
    assert (c < 0).any()
    top = c if raw else np.maximum(c, 0)

    def normalised(values: np.ndarray) -> np.ndarray:
        scale, shift, mean, variance = (w[name][:, None, None] for name in ("s", "b", "m", "var"))
        return (values - mean) / np.sqrt(variance + 1e-5) * scale + shift

    r = normalised(c - (1 - scores)[:, None, None] * top)
    h = np.where(normalised(c) > 0, r, 0.0)
    np.testing.assert_allclose(logits_at(built_program, point), h.reshape(3, -1) @ w["w2"] + w["b2"], atol=1e-5)


@pytest.mark.parametrize("change", [{"form": "joint"}, {"form": "affine"}, {"form": "decoupled"}, {"linear": "raw"}])
def test_one_layer_by_hand(change: dict) -> None:
    """Image `i` turns unit `i` on, which BatchNormalization makes `s + shift`; every other unit is at the shift.

    The gap of an image is `g s + d` with `d = shift (g of its class - g of the other)`, so that the derivative is zero
    at `s = (ln(lambda g - 1) - d) / g`.
    """
    text = """g (float[N,5] x) => (float[N,2] y) { a = Gemm (x, half)
        n = BatchNormalization <epsilon = 0.0> (a, s, b, m, var) h = Relu (n) y = Gemm (h, last) }"""
    last = np.zeros((5, 2), np.float32)
    last[np.arange(5), CLASSES] = GAPS
    each = {name: np.full(5, value, np.float32) for name, value in {"s": 4, "b": 0.6, "m": 0.25, "var": 4}.items()}
    proto = example(text, constants={"half": np.eye(5, dtype=np.float32) / 2, "last": last} | each)
    shift = 0.6 - 2 * 0.25
    totals = np.array([GAPS[CLASSES == 0].sum(), GAPS[CLASSES == 1].sum()])
    offset = shift * (totals[CLASSES] - totals[1 - CLASSES])
    expected = np.clip((np.log(np.maximum(LAMBDA * GAPS - 1, 1e-9)) - offset) / GAPS, 0, 1)
    config = replace(ALL, normalisation="before", **change)
    found = score(context(proto, np.eye(5, dtype=np.float32), CLASSES, config))
    assert expected[2] == 0
    assert ((expected > 0.1) & (expected < 1)).sum() == 4
    np.testing.assert_allclose(found.groups[0].scores, expected, atol=1e-3)
    loss = LAMBDA * np.log1p(np.exp(-GAPS * expected - offset)).mean()
    assert report(found)["loss_term"] == pytest.approx(loss, rel=1e-3)
    assert not any("BatchNormalization" in note for note in found.notes)


@pytest.mark.parametrize("name", NETWORKS)
def test_gains_are_derivatives_by_what_goes_into_the_normalisation(name: str) -> None:
    """A unit's own weights and bias a little smaller, by finite differences."""
    proto, x = built(name, 4)
    labels, step = np.zeros(4, np.int64), 1e-3
    analysis, found = linearised(proto, x, labels, "before")
    own = {"plain": {4: ("w1", "b1")}, "block": {4: ("w1", "b1", "w3"), 5: ("w2", "bias")}}[name]  # by units
    for group in analysis.groups:
        for position, unit in enumerate(group.units):
            less = onnx.ModelProto()
            less.CopyFrom(proto)
            for tensor in less.graph.initializer:
                if tensor.name in own[len(group)]:
                    values = numpy_helper.to_array(tensor).copy()
                    values[position] *= 1 - step
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            _, after = linearised(less, x, labels, "before")
            slopes = (found.logits - after.logits) / step
            np.testing.assert_allclose(found.gains[:, :, unit], slopes, atol=5e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_lead_to_the_joint_optimum(name: str) -> None:
    proto, x = built(name, 4)
    labels = program_of(proto, x, np.zeros(4, np.int64)).logits.argmax(axis=1)
    joint = solve(program_of(proto, x, labels, RAW, normalisation="before").program, "joint")
    found, gates = with_rows(proto, x, labels, "before")
    assert gates.open == 0
    assert found.violation == 0
    assert found.solution.objective == pytest.approx(joint.objective, rel=1e-3, abs=1e-3)


def test_every_module_of_the_decoupled_form_is_scored_before() -> None:
    proto, x = built("block", 30)
    labels = np.arange(30) % 3
    found = {
        normalisation: score(context(proto, x, labels, OamipConfig(form="decoupled", normalisation=normalisation)))
        for normalisation in ("after", "before")
    }
    assert list(report(found["before"])["scores"]) == ["a", "d", "e"]
    assert [report(one)["programs"] for one in found.values()] == [3, 3]
    # Heads read the same values: what is behind each activation.
    told = [[note for note in one.notes if "heads classify" in note] for one in found.values()]
    assert told[0] == told[1] != []


def test_a_model_without_normalisation_is_told() -> None:
    text = "g (float[N,5] x) => (float[N,3] y) { a = Gemm (x, w1, b1) h = Relu (a) y = Gemm (h, w2) }"
    proto = example(text, {"w1": (5, 4), "b1": (4,), "w2": (4, 3)})
    x = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    after, before = (
        score(context(proto, x, np.arange(9) % 3, OamipConfig(images="all", normalisation=one)))
        for one in ("after", "before")
    )
    np.testing.assert_array_equal(before.groups[0].scores, after.groups[0].scores)
    assert [note for note in before.notes if note not in after.notes] == [
        "no scored layer's values go into a BatchNormalization (many exporters fold it into the weights): "
        "--oamip-normalisation before changes nothing"
    ]

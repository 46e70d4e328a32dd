"""The affine form: the joint program's logits where no gate is open, its optimum from below, and its scores."""

import numpy as np
import onnx
import pytest
from helpers import program_of
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.split import split_rows
from onnxprune.config import OamipConfig
from onnxprune.core.engine import ONE_CORE, RunOptions
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.execution import SerialExecutor
from onnxprune.graph.load import load
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip import score
from onnxprune.importance.oamip.compile import logits_of, score_points
from onnxprune.importance.oamip.linearised import affine_program, linearise, removal_damage, removal_order
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

NETWORKS = {
    "dense": (
        "g (float[N,5] x) => (float[N,3] y) { a = Gemm (x, w1, b1) h = Relu (a) c = Gemm (h, w2, b2) k = Relu (c) "
        "y = Gemm (k, w3, b3) }",
        {"w1": (5, 4), "b1": (4,), "w2": (4, 4), "b2": (4,), "w3": (4, 3), "b3": (3,)},
        (5,),
    ),
    "residual": (
        "g (float[N,2,6,6] x) => (float[N,3] y) { a = Conv (x, w1, b1) h = Relu (a) "
        "c = Conv <pads = [1,1,1,1]> (h, w2) n = BatchNormalization (c, s, b, m, var) t = Add (n, h) r = Relu (t) "
        "p = AveragePool <kernel_shape = [2, 2]> (r) q = GlobalAveragePool (p) f = Flatten (q) y = Gemm (f, w3) }",
        {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "w3": (4, 3)}
        | dict.fromkeys(("s", "b", "m", "var"), (4,)),
        (2, 6, 6),
    ),
    "joined": (
        "g (float[N,2,5,5] x) => (float[N,3] y) { a = Conv (x, w1) h = Relu (a) c = Conv (x, w2) k = Relu (c) "
        "t = Concat <axis = 1> (h, k) d = Conv (t, w3, b3) e = Relu (d) f = Flatten (e) y = Gemm (f, w4) }",
        {"w1": (3, 2, 3, 3), "w2": (2, 2, 3, 3), "w3": (4, 5, 2, 2), "b3": (4,), "w4": (16, 3)},
        (2, 5, 5),
    ),
}


def built(name: str) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    text, weights, shape = NETWORKS[name]
    return example(text, weights), shape


def linearised(proto: onnx.ModelProto, x: np.ndarray, labels: np.ndarray, normalisation: str = "after"):
    name = proto.graph.input[0].name
    analysis = analyse(load(proto), {name: (1, *x.shape[1:])})
    data = Dataset({name: x}, labels, "test rows", np.arange(len(x)))
    points = score_points(analysis, normalisation)
    found = linearise(analysis, data, logits_of(analysis), points, labels, ONE_CORE)
    return analysis, found


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_logits_and_optimum_are_those_of_the_joint_program(name: str, seed: int) -> None:
    """At the joint optimum both programs have one loss; without the rows of gates the affine optimum is not higher."""
    proto, shape = built(name)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    labels = rng.integers(0, 3, 4)
    joint = program_of(proto, x, labels)
    analysis, found = linearised(proto, x, labels)
    layers = tuple(group.units for group in analysis.groups)
    affine = affine_program(found, labels, layers, 5.0)
    best = solve(joint.program, "joint")
    at = affine.start.copy()
    at[np.concatenate(affine.layers)] = best.x[np.concatenate(joint.program.layers)]
    if not joint.program.linear.integer.any() and len(joint.program.linear.c) == len(affine.linear.c):  # no open gate
        assert affine.losses(at) == pytest.approx(joint.program.losses(best.x), rel=1e-3, abs=1e-3)
        assert solve(affine, "affine").objective <= best.objective + 1e-3 * max(1.0, abs(best.objective))


def test_the_original_is_the_start() -> None:
    proto, shape = built("residual")
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    labels = np.array([0, 1, 2])
    analysis, found = linearised(proto, x, labels)
    program = affine_program(found, None, tuple(group.units for group in analysis.groups), 5.0)
    for image in range(3):
        z = program.offsets[image] + program.logits[image] @ program.start
        assert z[:-1] == pytest.approx(found.logits[image], abs=1e-4)
        p = np.exp(z - z.max())
        assert program.targets[image] == pytest.approx(p / p.sum(), abs=1e-5)


def test_of_many_classes_the_likeliest_are_linearised() -> None:
    proto = example(
        "g (float[N,5] x) => (float[N,50] y) { a = Gemm (x, w1) h = Relu (a) y = Gemm (h, w2) }",
        {"w1": (5, 6), "w2": (6, 50)},
    )
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    labels = np.array([3, 41, 7, 0])
    analysis, found = linearised(proto, x, labels)
    assert found.classes.shape == (4, 32)
    assert (found.classes == labels[:, None]).any(axis=1).all()
    program = affine_program(found, labels, tuple(group.units for group in analysis.groups), 5.0)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    z = np.maximum(x @ weights["w1"], 0) @ weights["w2"]
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(4), labels]
    assert program.losses(program.start) == pytest.approx(loss, rel=1e-4)


def test_damage_of_removal_by_hand() -> None:
    # Two images, two classes, three units: unit 1 goes first, then unit 0, whose contributions cancel in image 0.
    contribution = np.array([[[1.0, -1.0, 3.0], [-1.0, 1.0, -3.0]], [[0.0, 2.0, 1.0], [0.0, -2.0, -1.0]]])
    assert removal_damage(contribution, np.array([1, 0, 2])).tolist() == [18.0, 5.0, 5.0, 0.0]


def test_order_of_removal_by_hand() -> None:
    """Unit 2 adds least; then unit 0, which cancels a part of it, goes before unit 1, which alone adds as much."""
    contribution = np.array([[[2.0, 2.0, -1.0, 0.0], [-2.0, -2.0, 1.0, 3.0]]])
    contribution[0, :, 1] *= -1
    zeros, ones = np.zeros(4), np.array([0.0, 0.0, 1.0, 0.0])
    assert removal_order(contribution, zeros).tolist() == [2, 0, 1, 3]
    # A score of 1 counts what a unit adds alone twice; the sum of the removed ones stays as it is.
    assert removal_order(contribution * [1, 1, 2.5, 1], ones).tolist() == [0, 1, 3, 2]


@settings(max_examples=20, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_order_takes_what_adds_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contribution, scores = rng.standard_normal((3, 4, 6)), rng.random(6)
    order = removal_order(contribution, scores)
    assert sorted(order) == list(range(6))
    alone = (contribution**2).sum(axis=(0, 1)) / 3
    for place in range(len(order)):
        gone = contribution[:, :, order[:place]].sum(axis=2, keepdims=True)
        later = order[place:]
        total = ((gone + contribution[:, :, later]) ** 2).sum(axis=(0, 1)) / 3 + scores[later] * alone[later]
        assert total[0] <= total.min() + 1e-9


def context(config: OamipConfig, name: str = "residual", labels: bool = True) -> ScoreContext:
    proto, shape = built(name)
    x = np.random.default_rng(1).standard_normal((40, *shape)).astype(np.float32)
    analysis = analyse(load(proto), {"x": (1, *shape)})
    classes = np.random.default_rng(1).integers(0, 3, 40) if labels else None
    data = Dataset({"x": x}, classes, "test rows", np.arange(40))
    return ScoreContext(analysis, split_rows(data), RunOptions(threads=1), SerialExecutor(), oamip=config)


def test_scores_of_the_affine_form() -> None:
    found = score(context(OamipConfig(form="affine", images="random:20"), labels=False))
    assert found.oamip["form"] == "affine"
    assert found.program.status == "optimal"
    for group in found.groups:
        assert ((group.scores >= 0) & (group.scores <= 1)).all()
        assert sorted(group.order) == list(range(len(group.order)))
        assert (np.diff(group.damage) <= 0).all()
        assert group.damage[-1] == 0


def test_small_networks_take_the_joint_form_and_large_ones_the_affine_form(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OamipConfig(images="random:4")
    assert score(context(config)).oamip["form"] == "joint"
    monkeypatch.setattr("onnxprune.importance.oamip.form._JOINT_POSITIONS", 10)
    found = score(context(config))
    assert found.oamip["form"] == "affine"
    assert any("affine form" in note for note in found.notes)


@pytest.mark.parametrize("other", [{"bounds": "valid"}, {"gates": "integer"}, {"order": "last-first"}])
def test_the_affine_form_has_no_gates(other: dict) -> None:
    with pytest.raises(InputError, match="affine form has no gates"):
        score(context(OamipConfig(form="affine", **other)))


def test_a_joint_program_that_memory_does_not_hold_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.importance.oamip.form._MOST_POSITIONS", 10)
    with pytest.raises(ModelError, match="use --oamip-form affine"):
        score(context(OamipConfig(form="joint")))


@pytest.mark.parametrize("form", ["joint", "affine"])
def test_too_many_images_for_memory_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("onnxprune.importance.oamip.form._MOST_BYTES", 1e4)
    monkeypatch.setattr("onnxprune.importance.oamip.scorer.Runner", None)  # nothing runs
    with pytest.raises(ModelError, match="give fewer --oamip-images"):
        score(context(OamipConfig(form=form)))

"""Rows of gates that are added to the affine program lead to the joint program's optimum."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import EPS, program_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_affine_form import NETWORKS, context, linearised
from test_random_networks import networks

from onnxprune.config import OamipConfig
from onnxprune.core.errors import SolverError
from onnxprune.importance.oamip import score
from onnxprune.importance.oamip.compile import compile_network, logits_of, score_points
from onnxprune.importance.oamip.gate_rows import GateRows
from onnxprune.importance.oamip.lazy_rows import WithRows, solve_with_rows
from onnxprune.importance.oamip.linearised import affine_program
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example

MORE = NETWORKS | {
    "kinks": (
        "g (float[N,2,6,6] x) => (float[N,3] y) { a = Conv (x, w1, b1) h = LeakyRelu <alpha = 0.1> (a) "
        "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h) c = Conv (p, w2, b2) k = Clip (c, zero, six) "
        "f = Flatten (k) d = Gemm (f, w3) e = Identity (d) y = Gemm (e, w4) }",
        {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (5, 4, 1, 1), "b2": (5,), "w3": (20, 4), "w4": (4, 3)},
        (2, 6, 6),
    ),
}
SIX = {"zero": np.float32(0), "six": np.float32(6)}
RAW = replace(EPS, raw=True)
MODELS = Path(__file__).parents[3] / "models"


def with_rows(
    proto: onnx.ModelProto, x: np.ndarray, labels: np.ndarray, normalisation: str = "after"
) -> tuple[WithRows, GateRows]:
    analysis, found = linearised(proto, x, labels, normalisation)
    name = proto.graph.input[0].name
    network = compile_network(analysis, score_points(analysis, normalisation), [logits_of(analysis)])
    gates = GateRows(network, [{name: row[None]} for row in x], analysis.units, 1e-5)
    layers = tuple(group.units for group in analysis.groups)
    program = affine_program(found, labels, layers, 5.0)
    return solve_with_rows(program, gates, np.concatenate(layers), "program", time_limit=None, seed=0), gates


@pytest.mark.parametrize("name", MORE)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_optimum_is_the_joint_one(name: str, seed: int) -> None:
    text, weights, shape = MORE[name]
    proto = example(text, weights, SIX if name == "kinks" else None)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    labels = rng.integers(0, 3, 4)
    try:
        joint = solve(program_of(proto, x, labels, RAW).program, "joint")
    except SolverError:
        return
    found, gates = with_rows(proto, x, labels)
    if gates.open:  # a gate within rounding of its kink
        return
    assert found.violation == 0
    assert found.solution.status == "optimal"
    assert found.solution.objective == pytest.approx(joint.objective, rel=1e-3, abs=1e-3)
    assert found.solution.bound <= joint.objective + 1e-3 * max(1.0, abs(joint.objective))


@given(drawn=networks())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_networks_without_open_gates(drawn: tuple[onnx.ModelProto, np.ndarray, np.ndarray]) -> None:
    """Layers without ReLU, slopes, pools, strides and residual sums, drawn at random."""
    joint = program_of(*drawn, RAW).program
    found, gates = with_rows(*drawn)
    assume(not gates.open and len(joint.linear.c) == len(found.program.linear.c))
    best = solve(joint, "joint")
    assert found.violation == 0
    assert found.solution.objective == pytest.approx(best.objective, rel=1e-3, abs=1e-3)


def test_the_reference_program(corpus_path: Callable[[str], Path]) -> None:
    reference = json.loads(corpus_path("oamip/ref_fc3.json").read_text())
    with np.load(corpus_path("oamip/ref_fc3.npz")) as held:
        x, y = held["x"], held["y"]
    found, gates = with_rows(onnx.load(corpus_path("oamip/fc3.onnx")), x, y)
    assert gates.open <= 1e-3 * gates.gates
    assert found.solution.status == "optimal"
    assert found.solution.objective == pytest.approx(reference["objective"], rel=1e-3)


def test_lenet_5() -> None:
    """Five of its 65,000 gates are open on these rows: all but them are as in the joint program."""
    with np.load(MODELS / "mnist_calibration.npz") as held:
        x, labels = held["x"], held["y"].astype(int)
    chosen = np.array([np.flatnonzero(labels == digit)[0] for digit in range(10)])
    rows = ((x[chosen].reshape(10, 1, 28, 28) / 255 - 0.1307) / 0.3081).astype(np.float32)
    proto = onnx.load(MODELS / "lenet5_mnist.onnx")
    joint = solve(program_of(proto, rows, labels[chosen]).program, "joint")
    found, gates = with_rows(proto, rows, labels[chosen])
    assert gates.open <= 1e-3 * gates.gates
    assert found.rounds > 1
    assert found.solution.objective == pytest.approx(joint.objective, rel=1e-3)


def test_a_row_is_what_the_network_does_at_other_scores() -> None:
    """What a gate reads, at scores near 1 where gates are as they were, is on the row's bound where the row says so."""
    text, weights, shape = MORE["kinks"]
    proto = example(text, weights, SIX)
    x = np.random.default_rng(5).standard_normal((2, *shape)).astype(np.float32)
    _, gates = with_rows(proto, x, np.array([0, 1]))
    scores = np.full(gates.units, 0.3)
    rows = gates.at(scores)
    assert len(rows.nodes)
    breaks = np.maximum(rows.lower - rows.matrix @ scores, rows.matrix @ scores - rows.upper)
    assert (breaks > 0).all()  # each is broken at the scores that it was written out for,
    ones = rows.matrix @ np.ones(gates.units)
    assert (ones >= rows.lower - 1e-6).all()  # and holds in the original
    assert (ones <= rows.upper + 1e-6).all()


def test_the_report_tells_of_rows() -> None:
    found = score(context(OamipConfig(form="affine", images="4")))
    assert found.oamip["bounds"] == "eps"
    assert found.oamip["lazy_rows"] > 0
    assert found.oamip["violation"] == 0
    assert found.oamip["rounds"] > 1
    without = score(context(OamipConfig(form="affine", images="4", rows="none")))
    assert "lazy_rows" not in without.oamip
    assert without.program.objective < found.program.objective


def test_open_gates_are_told_and_rows_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(context(OamipConfig(form="affine", images="4", epsilon=1.0)))
    assert found.oamip["open_gates"] > 0
    assert found.oamip["lazy_rows"] == 0
    assert found.oamip["bounds"] == "none"
    assert any("of the gates open" in note for note in found.notes)

"""The scorer of the paper's program, from calibration rows to scores."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import mlp

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.calibration.split import split_rows
from onnxprune.config import OamipConfig
from onnxprune.core.engine import ONE_CORE, RunOptions
from onnxprune.core.errors import InputError, ModelError, SolverError
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.scores import Scores
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.scorer import score
from onnxprune.importance.oamip.task import ProgramTask, TaskResult, run_task
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

X = np.random.default_rng(3).standard_normal((30, 5)).astype(np.float32)


def context(proto: onnx.ModelProto, x: np.ndarray, labels: np.ndarray | None, oamip: OamipConfig) -> ScoreContext:
    model = load(proto)
    graph = read_graph(model)
    (name,) = graph.inputs
    analysis = analyse(model, {name: (1, *x.shape[1:])})
    data = Dataset({name: x}, labels, "test rows", np.arange(len(x)))
    return ScoreContext(analysis, split_rows(data), RunOptions(threads=1), SerialExecutor(), oamip=oamip)


def report(found: Scores) -> Mapping[str, Any]:
    assert found.oamip is not None
    return found.oamip


def test_reference_through_the_scorer(corpus_path: Callable[[str], Path]) -> None:
    reference = json.loads(corpus_path("oamip/ref_fc3.json").read_text())
    with np.load(corpus_path("oamip/ref_fc3.npz")) as held:
        x, y = held["x"], held["y"]
    proto = onnx.load(corpus_path("oamip/fc3.onnx"))
    found = score(context(proto, x, y, OamipConfig(images="all")))
    assert found.program is not None
    assert found.program.status == "optimal"
    assert found.program.objective == pytest.approx(reference["objective"], rel=1e-4)
    assert report(found)["images"] == 10
    # The three numbers belong to the scores that are given out: the sparsity term is the largest mean less 2.
    means = [float(np.mean(group.scores)) for group in found.groups]
    assert sorted(len(group.scores) for group in found.groups) == [100, 300]
    assert report(found)["sparsity_term"] == pytest.approx(max(means) - 2, abs=1e-6)
    assert report(found)["sparsity_term"] + report(found)["loss_term"] == pytest.approx(found.program.objective)


@pytest.mark.parametrize("oamip", [OamipConfig(), OamipConfig(order="last-first"), OamipConfig(decoupled=True)])
def test_units_go_in_the_order_of_their_scores(oamip: OamipConfig) -> None:
    found = score(context(mlp(), X, np.arange(30) % 3, oamip))
    assert sorted(len(group.order) for group in found.groups) == [3, 4]
    for group in found.groups:
        assert np.all((group.scores >= 0) & (group.scores <= 1))
        assert np.all(np.diff(group.scores[group.order]) >= 0)
        assert sorted(group.order) == list(range(len(group.order)))
    assert min(float(group.scores.min()) for group in found.groups) < 0.5


def test_without_labels_the_models_own_classes_serve() -> None:
    model = load(mlp())
    graph = read_graph(model)
    logits = Runner(model, engine=ONE_CORE).run_feed({graph.inputs[0]: X})[graph.outputs[0]]
    own = score(context(mlp(), X, None, OamipConfig(images="all")))
    given = score(context(mlp(), X, logits.argmax(axis=1), OamipConfig(images="all")))
    assert report(own)["objective"] == pytest.approx(report(given)["objective"])
    assert any("arg-max" in note for note in own.notes)
    assert not any("arg-max" in note for note in given.notes)


def test_valid_bounds_without_loss_score_everything_zero() -> None:
    found = score(context(mlp(), X, None, OamipConfig(bounds="valid", lambda_=0.0)))
    for group in found.groups:
        np.testing.assert_allclose(group.scores, 0.0, atol=1e-4)


def test_no_inputs_is_an_error() -> None:
    with pytest.raises(InputError, match="--data"):
        score(context(mlp(), X[:0], None, OamipConfig()))


def test_a_limit_that_leaves_scores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two modules one was stopped with scores, one without: the units of that one stay."""

    def stopped(task: ProgramTask) -> TaskResult:
        first = "module 1 " in task.name
        return replace(run_task(task), status="limit", **({"scores": np.ones(len(task.layers[0]))} if first else {}))

    monkeypatch.setattr("onnxprune.importance.oamip.scorer.run_task", stopped)
    found = score(context(mlp(), X, np.arange(30) % 3, OamipConfig(decoupled=True)))
    assert found.program is not None
    assert found.program.status == "limit"
    assert sorted((len(group.order), group.judged) for group in found.groups) == [(3, True), (4, False)]
    assert any("program 1" in note and "say nothing" in note for note in found.notes)
    assert any("program 2: stopped at the time limit" in note for note in found.notes)


def test_a_limit_without_any_score_is_an_error() -> None:
    limited = OamipConfig(bounds="valid", gates="integer", time_limit=0.0)
    with pytest.raises(SolverError, match="say nothing"):
        score(context(mlp(), X, None, limited))


def test_a_stream_is_charged_in_every_module_that_it_runs_through() -> None:
    text = """g (float[N,2,5,5] x) => (float[N,3] y) {
        a = Conv (x, w1, b1)
        h = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (h, w2)
        e = Add (c, h)
        t = Relu (e)
        f = Flatten (t)
        y = Gemm (f, w3) }"""
    proto = example(text, {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "w3": (36, 3)})
    x = np.random.default_rng(0).standard_normal((30, 2, 5, 5)).astype(np.float32)
    found = score(context(proto, x, np.arange(30) % 3, OamipConfig(decoupled=True)))
    (group,) = found.groups
    assert report(found)["programs"] == 2
    assert 0 < group.scores.sum() < 4
    assert group.damage[0] == pytest.approx(2 * group.scores.sum())


def test_a_recurrent_net_without_activations_is_one_clear_line() -> None:
    """Modules of nothing ended in an IndexError."""
    text = """g (float[N,5,6] x) => (float[N,4] y) { t = Transpose <perm = [1, 0, 2]> (x)
        h, l, c = LSTM <hidden_size = 8> (t, w, r, b)  s = Squeeze (l, z)  y = MatMul (s, v) }"""
    proto = example(text, {"w": (1, 32, 6), "r": (1, 32, 8), "b": (1, 64), "v": (8, 4)}, {"z": np.array([0])})
    rows = np.random.default_rng(0).standard_normal((30, 5, 6)).astype(np.float32)
    with pytest.raises(ModelError, match="there are none; use another"):
        score(context(proto, rows, np.arange(30) % 3, OamipConfig(decoupled=True)))

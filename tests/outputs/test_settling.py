"""Vectors that look like class scores, but whose largest column is the same on every row."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.config import OutputConfig
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((300, 6)).astype(np.float32)
WEIGHTS = {"w1": (6, 48), "w2": (48, 3)}


def network(bias: list[float], end: str = "y = Add (h, b)", **constants: np.ndarray) -> onnx.ModelProto:
    text = f"g (float[N,6] x) => (float[N,3] y) {{ a = MatMul (x, w1)  r = Relu (a)  h = MatMul (r, w2)  {end} }}"
    return example(text, WEIGHTS, {"b": np.array(bias, np.float32), **constants})


def kind(proto: onnx.ModelProto) -> str:
    (part,) = read_meaning(analyse(load(proto))).parts
    return part.kind


REGRESSION = network([300, 40, 5])


def test_targets_of_a_regression_are_kept() -> None:
    """With the first always the largest "the same answers" were told of a model that explained a third of each."""
    assert kind(REGRESSION) == "classes"  # without rows nothing tells
    small = onnxprune.prune(REGRESSION, ROWS[:200], evaluation=ROWS[200:], max_drop=1.0, time=False)
    assert small.metrics["explained"].rules
    assert small.metrics["explained"].after > 0.98
    assert "agreement" not in small.metrics
    assert any("output 'y' is taken for quantities: on all of" in note for note in small.notes)
    ruined = onnxprune.prune(REGRESSION, ROWS, targets="macs=0.1", repair=False, time=False)
    compared = onnxprune.validate(REGRESSION, ruined, ROWS, time=False)
    assert compared.metrics["explained"].after < 0.9
    assert any("is taken for quantities" in note for note in compared.notes)


def test_quantiles_are_quantities() -> None:
    """Quantiles of one value were classes, of which the last is always the largest."""
    common = RNG.standard_normal((48, 1)) + 0.1 * RNG.standard_normal((48, 3))
    text = "g (float[N,6] x) => (float[N,3] y) { a = MatMul (x, w1)  r = Relu (a)  h = MatMul (r, q)  y = Add (h, b) }"
    weights = {"q": common.astype(np.float32), "b": np.array([0, 30, 60], np.float32)}
    found = onnxprune.prune(example(text, {"w1": (6, 48)}, weights), ROWS, targets="macs=0.5", time=False)
    assert found.metrics["explained"].rules


def test_what_the_user_says_holds() -> None:
    said = OutputConfig(kinds=("y=classes",))
    found = onnxprune.prune(REGRESSION, ROWS, targets="macs=0.5", outputs=said, time=False)
    assert found.metrics["agreement"].after == 1.0
    assert not any("is taken for quantities" in note for note in found.notes)


def test_training_and_inspection_take_them_so_too(tmp_path: Path) -> None:
    onnx.save(REGRESSION, tmp_path / "model.onnx")
    np.save(tmp_path / "rows.npy", ROWS)
    command = [sys.executable, "-m", "onnxprune", "inspect", "model.onnx", "--data", "rows.npy"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "quantities" in shown
    assert "is taken for quantities" in " ".join(shown.split())
    pytest.importorskip("torch")
    config = onnxprune.FinetuneConfig(epochs=1)
    trained = onnxprune.finetune(REGRESSION, ROWS, teacher=REGRESSION, config=config)
    assert math.isnan(trained.history[0].held_out_agreement)  # that of classes


@pytest.mark.parametrize("rows", ["random", ROWS[:10], ROWS])
def test_classes_stay_classes(rows: object) -> None:
    """Made-up and few rows tell nothing; and others show several classes."""
    classifier = network([0, 0, 0]) if rows is ROWS else network([300, 40, 5])
    found = onnxprune.prune(classifier, rows, targets="macs=0.5", repair=False, time=False)
    assert "agreement" in found.metrics


def test_columns_with_units_of_their_own_are_no_class_scores() -> None:
    scale = {"s": np.array([20, 3, 0.5], np.float32)}
    assert kind(network([300, 40, 5], "z = Mul (h, s)  y = Add (z, b)", **scale)) == "quantities"
    even = {"s": np.array(2.0, np.float32)}
    assert kind(network([0.1, 0.2, 0.3], "z = Mul (h, s)  y = Add (z, b)", **even)) == "classes"

"""Every recipe of the documentation, run on a small model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.ops.examples import example

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "recipes"
LENET = ROOT / "models" / "lenet5_mnist.onnx"
CALIBRATION = ROOT / "models" / "mnist_calibration.npz"
DIGITS = ROOT / "models" / "mnist_test.npz"


def run(*command: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_export_from_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra finetune is not installed")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    done = run(sys.executable, RECIPES / "export_from_torch.py", "out.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MACs" in done.stdout
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))


def test_quantize_int8(tmp_path: Path) -> None:
    done = run(
        *(sys.executable, RECIPES / "quantize_int8.py", LENET, "out.onnx", "--data", CALIBRATION, "--eval", DIGITS),
        *("--target", "macs=0.7", "--importance", "magnitude", "--images", 100, "--quantize-images", 50),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" top1 ") for line in done.stdout.splitlines() if " top1 " in line]
    accuracies = {step.strip(): float(figures.split("%")[0]) for step, _, figures in lines}
    assert [*accuracies] == ["original", "int8", "pruned", "pruned, int8"]
    assert min(accuracies["original"], accuracies["int8"]) > 95
    assert accuracies["pruned, int8"] > accuracies["pruned"] - 3
    assert (tmp_path / "out.onnx").stat().st_size < LENET.stat().st_size / 2
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "out.onnx").graph.node)


def test_quantising_shows_the_metric_that_there_is(tmp_path: Path) -> None:
    """Without class numbers it ended, after all the work, in a KeyError: 'top1'."""
    np.save(tmp_path / "rows.npy", next(onnxprune.feeds(LENET, CALIBRATION, batch=100))["input"])
    done = run(
        *(sys.executable, RECIPES / "quantize_int8.py", LENET, "out.onnx", "--data", CALIBRATION),
        *("--eval", "rows.npy", "--target", "macs=0.7", "--importance", "magnitude"),
        *("--images", 100, "--quantize-images", 20, "--threads", 1),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(" %")[0].split()[-2] for line in done.stdout.splitlines()] == ["agreement"] * 4


def test_what_the_quantiser_refuses_is_told_in_one_line_before_the_work(tmp_path: Path) -> None:
    """It was a traceback, after the pruning."""
    text = """g (float[N,6] x) => (float[N,3] y) {
        t = ai.onnx.ml.Scaler <offset=[0.5], scale=[2.0]> (x) h = Gemm (t, w1, b1) r = Relu (h) z = Gemm (r, w2)
        s = Softmax (z) y = Identity (s) }"""
    model = example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3)}, domain="ai.onnx.ml")
    onnx.save(model, tmp_path / "sk.onnx")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32))
    recipe = (sys.executable, RECIPES / "quantize_int8.py")
    given = ("out.onnx", "--data", "rows.npy", "--eval", "rows.npy", "--target", "macs=0.1")  # which cannot be met
    done = run(*recipe, "sk.onnx", *given, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "quantize_int8: sk.onnx: onnxruntime's quantiser cannot do this model ("
    )
    done = run(*recipe, "missing.onnx", *given, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "quantize_int8: missing.onnx does not exist\n")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_recipes_use_what_is_public(path: Path) -> None:
    imported = re.findall(r"^\s*(?:from|import) (onnxprune[.\w]*)", path.read_text(encoding="utf-8"), re.M)
    assert set(imported) == {"onnxprune"}
    names = re.findall(r"\bonnxprune\.(\w+)", path.read_text(encoding="utf-8"))
    assert names
    assert set(names) <= set(onnxprune.__all__)


@pytest.mark.parametrize(("max_drop", "passes"), [("9", True), ("0.0", False)])
def test_a_makefile_with_an_accuracy_floor(tmp_path: Path, max_drop: str, passes: bool) -> None:
    """A failed build left the weights beside the model, one file more each time."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    onnx.save(onnx.load(LENET), tmp_path / "model.onnx", save_as_external_data=True, location="weights")
    # 30 % of the multiply-adds, by magnitude: about five points are lost
    done = run(
        *(make, "-f", RECIPES / "ci" / "Makefile", "MODEL=model.onnx", f"DATA={CALIBRATION}", f"EVAL={DIGITS}"),
        *("TARGET=macs=0.3", f"MAX_DROP={max_drop}", "FLAGS=--importance magnitude --images 200"),
        f"ONNXPRUNE={sys.executable} -m onnxprune",
        cwd=tmp_path,
    )
    assert (done.returncode == 0) == passes, done.stderr
    made = {path.name for path in tmp_path.iterdir()} - {"model.onnx", "weights"}
    assert made == ({"smaller.onnx", "smaller.onnx.data"} if passes else set())
    assert passes or "Error 5" in done.stderr


def test_olive_pass(tmp_path: Path) -> None:
    pytest.importorskip("olive.passes", reason="olive-ai is not installed", exc_type=ImportError)
    done = run(
        *(sys.executable, RECIPES / "olive_pass.py", LENET, tmp_path / "out", "--data", CALIBRATION),
        *("--target", "macs=0.5", "--importance", "magnitude"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    written = Path(done.stdout.splitlines()[-1])
    assert written.is_relative_to(tmp_path)
    assert written.stat().st_size < LENET.stat().st_size

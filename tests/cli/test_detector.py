"""A detector from the command line: detections found again rule, and what is lost is loud."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from blobs import detector, images
from onnx import numpy_helper


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "onnxprune", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(detector(), folder / "detector.onnx")
    for name, seed in (("rows", 3), ("others", 4)):
        np.savez(folder / f"{name}.npz", image=images(60, seed=seed)[0])
    return folder


def with_scores(folder: Path, name: str, *, factor: float, bias: float) -> None:
    """Write a detector whose scores say less, or more."""
    proto = onnx.ModelProto()
    proto.CopyFrom(detector())
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name == "w6":
            tensor.CopyFrom(numpy_helper.from_array(factor * values, tensor.name))
        elif tensor.name == "b6":
            tensor.CopyFrom(numpy_helper.from_array(values + np.float32(bias), tensor.name))
    onnx.save(proto, folder / name)


def test_an_accuracy_floor_is_about_detections_found_again(folder: Path) -> None:
    done = run(folder, "prune", "detector.onnx", "-o", "small.onnx", "--data", "rows.npz", "--eval", "others.npz",
               "--max-drop", "5", "--json", "small.json", "--no-time")  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "small.json").read_text())["metrics"]
    assert [name for name, metric in metrics.items() if metric.get("rules")] == ["found_again"]
    assert 0.95 <= metrics["found_again"]["after"] < 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factor": 0.01, "bias": -2}, "heavy loss: detections found again falls to 0.0 %"),
        ({"factor": 1.0, "bias": 2}, "new ones are made"),
    ],
    ids=["blind", "sees too much"],
)
def test_scores_that_are_lost_are_loud_though_boxes_stay(folder: Path, change: dict[str, float], said: str) -> None:
    """Boxes are a hundred times as large as scores: the mean error of all outputs says that nothing happened."""
    with_scores(folder, "changed.onnx", **change)
    done = run(folder, "validate", "detector.onnx", "changed.onnx", "--data", "others.npz", "--json", "v.json",
               "--max-drop", "1")  # fmt: skip
    report = json.loads((folder / "v.json").read_text())
    assert report["metrics"]["relative_error"]["after"] < 0.03
    assert any(said in warning for warning in report["warnings"])
    assert said in " ".join(done.stdout.split())
    blind = change["bias"] < 0
    assert done.returncode == (5 if blind else 0)
    if blind:
        assert "detections found again falls by 100.00 points" in done.stderr

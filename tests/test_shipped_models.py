"""The models and rows in `models/` are those that their manifest describes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.evaluation.metrics import evaluate
from onnxprune.graph.load import load

FOLDER = Path(__file__).resolve().parents[1] / "models"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


@pytest.mark.parametrize("entry", [*MANIFEST["models"], *MANIFEST["data"]], ids=lambda entry: entry["file"])
def test_files_have_the_checksums_and_licences_of_the_manifest(entry: dict[str, Any]) -> None:
    assert hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert entry["licence"]


def test_everything_together_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


@pytest.mark.parametrize("entry", MANIFEST["models"], ids=lambda entry: entry["file"])
def test_accuracy_on_the_shipped_test_rows_is_near_that_on_the_whole_test_set(entry: dict[str, Any]) -> None:
    model = load(FOLDER / entry["file"])
    how = entry["preprocessing"]
    preprocess = PreprocessConfig(mean=tuple(how["mean"]), std=tuple(how["std"]))
    rows = load_data(FOLDER / "mnist_test.npz", model, preprocess)
    assert len(rows) == 2000
    assert evaluate(model, rows, engine=ONE_CORE)["top1"] == pytest.approx(entry["top1_test"], abs=0.01)


def test_the_calibration_rows_are_balanced_and_disjoint_from_the_test_rows() -> None:
    calibration, test = (np.load(FOLDER / f"mnist_{name}.npz") for name in ("calibration", "test"))
    assert np.bincount(calibration["y"]).tolist() == [100] * 10
    assert calibration["x"].dtype == np.uint8
    seen = {image.tobytes() for image in calibration["x"]}
    assert not seen.intersection(image.tobytes() for image in test["x"])

"""The class that a smaller classifier recognises worst stands in every report, with labels and without."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"
WORDS = "agreement in the worst class"


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "without labels"])
def test_the_worst_class_stands_in_every_report(labelled: bool, tmp_path: Path) -> None:
    with np.load(MODELS / "mnist_test.npz") as held:
        arrays = {name: held[name][:500] for name in ("x", "y")[: 1 + labelled]}
    np.savez(tmp_path / "rows.npz", **arrays)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "onnxprune", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    model, data = str(MODELS / "lenet5_mnist.onnx"), "rows.npz"
    done = run("prune", model, "-o", "small.onnx", "--eval", data, "--target", "macs=0.3", "--importance", "magnitude",
               "--json", "p.json", "--html", "p.html", "--no-time")  # fmt: skip
    compared = run("validate", model, "small.onnx", "--data", data, "--json", "v.json")
    figures = [json.loads((tmp_path / name).read_text())["metrics"]["worst_class"] for name in ("p.json", "v.json")]
    assert figures[0] == figures[1]
    assert figures[0]["after"] < 1
    assert figures[0]["detail"].startswith("class ")
    for text in (done.stderr, compared.stdout, (tmp_path / "p.html").read_text()):
        assert WORDS in text
        assert figures[0]["detail"] in " ".join(text.split())

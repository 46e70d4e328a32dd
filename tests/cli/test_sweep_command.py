"""`onnxprune sweep` as a user runs it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema


def test_a_sweep_writes_models_page_and_report(
    run: Callable, lenet: Path, calibration: Path, digits: Path, schema: Mapping[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    done = run(
        *("sweep", lenet, "--data", calibration, "--eval", digits, "--importance", "magnitude", "--images", 100),
        *("--points", 2, "--lowest", 0.5, "--no-time", "-o", folder, "--save-models", "--json", "-"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert [Path(point["file"]).name for point in report["points"]] == [
        "lenet5_mnist-macs-0.9.onnx",
        "lenet5_mnist-macs-0.5.onnx",
    ]
    assert all(Path(point["file"]).is_file() for point in report["points"])
    assert json.loads((folder / "sweep.json").read_text())["points"] == report["points"]
    page = (folder / "sweep.html").read_text()
    assert "macs=0.5" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "macs=0.9" in done.stderr


def test_models_need_a_folder(run: Callable, lenet: Path) -> None:
    done = run("sweep", lenet, "--importance", "magnitude", "--save-models")
    assert done.returncode == 2
    assert "-o DIR" in done.stderr

"""`--minimise` and budgets of time, as a user gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
FLOOR = ("--importance", "activation", "--no-repair", "--no-time", "--max-drop", 1, "--mean", 0.1307, "--std", 0.3081)


def costs(run: Run, folder: Path, model: Path, rows: Path, *options: object) -> dict[str, float]:
    report = folder / "report.json"
    words = ("-o", folder / "small.onnx", "--data", rows, "--eval", rows, "--allow-overlap", "--images", 200)
    done = run("prune", model, *words, "--json", report, *FLOOR, *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(report.read_text())["after"])


def test_the_floor_makes_small_what_is_asked_for(run: Run, lenet: Path, digits: Path, tmp_path: Path) -> None:
    by_macs = costs(run, tmp_path, lenet, digits)
    by_params = costs(run, tmp_path, lenet, digits, "--minimise", "params")
    assert by_params["params"] < by_macs["params"]
    settings = tmp_path / "onnxprune.toml"
    settings.write_text('minimise = "params"\n')
    assert costs(run, tmp_path, lenet, digits, "--config", settings) == by_params


def test_a_cost_that_does_not_exist_is_refused(run: Run, lenet: Path, digits: Path, tmp_path: Path) -> None:
    done = run("prune", lenet, "-o", tmp_path / "s.onnx", "--data", digits, "--max-drop", 1, "--minimise", "speed")
    assert done.returncode == 2
    assert "time" in done.stderr


@pytest.mark.parametrize(
    "options", [("--target", "macs=0.5"), ("--max-drop", 1, "--target", "macs=0.5"), ("--lossless",)]
)
def test_what_is_made_small_without_a_search_is_refused(
    run: Run, lenet: Path, digits: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """It had no effect, and nothing said so."""
    words = ("-o", tmp_path / "s.onnx", "--data", digits, "--eval", digits, "--minimise", "time")
    done = run("prune", lenet, *words, *options)
    assert done.returncode == 2
    assert "give --max-drop, and leave out --target" in " ".join(done.stderr.split())


@pytest.mark.parametrize("target", ["latency=0.001", "latency=1.01us"])
def test_a_budget_of_time_is_refused_with_the_measured_figure(
    run: Run, lenet: Path, tmp_path: Path, target: str
) -> None:
    """No model of any kind is as fast."""
    words = ("--importance", "magnitude", "--no-repair", "--target", target, "--latency-cache", "off")
    done = run("prune", lenet, "-o", tmp_path / "small.onnx", *words)
    assert done.returncode == 4
    assert "the fastest model takes" in done.stderr
    assert not (tmp_path / "small.onnx").exists()

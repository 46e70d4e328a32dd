"""`--provider` and the options of timing on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

SECOND = "AzureExecutionProvider"
COMMANDS = ("prune", "score", "sweep", "validate", "bench", "finetune")


def arguments(command: str, lenet: Path, calibration: Path, folder: Path) -> list[object]:
    models = [lenet, lenet] if command == "validate" else [lenet]
    data = [] if command == "bench" else ["--data", calibration]
    output = {"prune": ["-o", folder / "out.onnx"], "finetune": ["-o", folder / "out.onnx"], "sweep": []}
    return [command, *models, *data, *output.get(command, [])]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_provider_that_is_absent_ends_a_command(
    command: str, run: Callable[..., Any], lenet: Path, calibration: Path, tmp_path: Path
) -> None:
    done = run(*arguments(command, lenet, calibration, tmp_path), "--provider", "NoSuch:device_id=1")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    version, has = onnxruntime.__version__, "CPU"
    assert line.startswith(f"onnxprune: error: provider 'nosuch' is not in the installed onnxruntime {version}")
    assert has in line
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_options_in_another_form_end_a_command(
    command: str, run: Callable[..., Any], lenet: Path, calibration: Path, tmp_path: Path
) -> None:
    done = run(*arguments(command, lenet, calibration, tmp_path), "--provider", "cpu:arena")
    assert done.returncode == 2
    assert "'arena' is no key=value" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_nothing_reads_end_a_command(
    command: str, run: Callable[..., Any], lenet: Path, calibration: Path, tmp_path: Path
) -> None:
    """onnxruntime ignores any option of its own provider, and so did the run."""
    done = run(*arguments(command, lenet, calibration, tmp_path), "--provider", "CPU:foo=bar,a=1")
    told = "provider 'cpu:a=1,foo=bar': cpu takes no options in onnxruntime; leave out a, foo"
    assert (done.returncode, done.stderr) == (2, f"onnxprune: error: {told}\n")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.skipif(SECOND not in onnxruntime.get_available_providers(), reason="no second provider")
def test_reports_name_the_provider(
    run: Callable[..., Any], lenet: Path, calibration: Path, tmp_path: Path, schema: Any
) -> None:
    import jsonschema

    page, report = tmp_path / "report.html", tmp_path / "report.json"
    options = tmp_path / "options.toml"
    options.write_text('provider = "azure"\nimages = 64\n[latency]\nbatch = 2\n')
    words = ["prune", lenet, "-o", tmp_path / "out.onnx", "--data", calibration, "--importance", "magnitude"]
    words += ["--no-repair", "--target", "macs=0.5", "--html", page, "--json", report, "--config", options]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    jsonschema.validate(written, schema)
    assert (written["time"]["provider"], written["settings"]["provider"]) == ("azure", "azure")
    assert written["time"]["batch"] == 2
    assert "onnxruntime ran the models on azure" in written["notes"]
    assert "1 thread, batch 2, on azure" in page.read_text()
    assert "batch 2, on azure" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "names", [("--batch", "--threads"), ("--latency-batch", "--latency-threads"), ("--batch", "--latency-threads")]
)
def test_bench_takes_old_and_new_names(names: tuple[str, str], run: Callable[..., Any], lenet: Path) -> None:
    words = ["bench", lenet, "--seconds", 0, "--rounds", 1, "--no-memory", "--json", "-", "-q"]
    done = run(*words, names[0], 3, names[1], 2)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["models"]
    assert (entry["batch"], entry["threads"], entry["provider"]) == (3, 2, "cpu")


def test_the_names_of_timing_and_their_defaults_are_in_every_help(run: Callable[..., Any]) -> None:
    for command in ("prune", "sweep", "validate", "bench"):
        said = " ".join(run(command, "--help", COLUMNS="200").stdout.replace("│", " ").split())
        for name in ("--latency-batch", "--latency-threads"):
            assert "default: 1]" in said.partition(f"{name} N")[2][:200], (command, name)
        assert "default: cpu]" in said.partition("--provider NAME[:OPTIONS]")[2][:400], command


@pytest.mark.skipif(SECOND not in onnxruntime.get_available_providers(), reason="no second provider")
def test_a_teacher_runs_on_the_provider(
    run: Callable[..., Any], lenet: Path, calibration: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    words = ["finetune", lenet, "-o", tmp_path / "out.onnx", "--data", calibration, "--teacher", lenet, "--images", 32]
    done = run(*words, "--epochs", 1, "--provider", "azure", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provider"] == "azure"
    assert "the teacher on azure" in " ".join(done.stderr.split())

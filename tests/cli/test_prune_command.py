import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import onnx
import onnxruntime
import pytest


@pytest.fixture(scope="module")
def done(run, tmp_path_factory: pytest.TempPathFactory, lenet: Path, calibration: Path, digits: Path):
    """One run with every output, and its folder."""
    folder = tmp_path_factory.mktemp("prune")
    before = lenet.read_bytes()
    process = run(
        *("prune", lenet, "-o", "small.onnx", "--importance", "activation", "--target", "macs=0.6", "--no-repair"),
        *("--data", calibration, "--eval", digits, "--images", 100, "--keep", "/conv1/*", "--seed", 3),
        *("--json", "-", "--html", "report.html", "--plan-out", "plan.json"),
        cwd=folder,
    )
    assert process.returncode == 0, process.stderr
    assert lenet.read_bytes() == before
    return process, folder


def test_stdout_is_the_machine_report_alone(done, schema) -> None:
    process, _ = done
    report = json.loads(process.stdout)
    jsonschema.validate(report, schema)
    assert report["command"] == "prune"
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert report["seed"] == 3
    assert report["settings"]["images"] == 100


def test_report_says_how_many_rows_did_what(done) -> None:
    report = json.loads(done[0].stdout)
    counts = {"fit": 65, "curves": 15, "choose": 20}
    assert report["rows"] == {**counts, "report": report["rows"]["report"], "used": "unused", "made_up": False}
    assert report["rows"]["report"] > 100


def test_rows_of_eval_that_were_fitted_to_are_said_to_be(run, tmp_path: Path, lenet: Path, calibration: Path) -> None:
    process = run(
        *("prune", lenet, "-o", tmp_path / "small.onnx", "--importance", "activation", "--target", "macs=0.6"),
        *("--no-repair", "--no-time", "--data", calibration, "--eval", calibration, "--images", 50, "--json", "-"),
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report["rows"]["used"] == "fitted"
    assert any("50 of 50 calibration rows are also in --eval" in note for note in report["notes"])


def test_report_of_the_shipped_model(done) -> None:
    """The parts that no change of a scorer may move."""
    report = json.loads(done[0].stdout)
    golden = json.loads((Path(__file__).parent / "lenet5_report.json").read_text())
    found = {
        "before": report["before"],
        "groups": [{k: g[k] for k in ("name", "units", "producers", "consumers")} for g in report["groups"]],
        "layers": [{k: x[k] for k in ("node", "op_type", "macs_before", "params_before")} for x in report["layers"]],
        "not_pruned": [{k: x[k] for k in ("tensor", "reason", "node")} for x in report["not_pruned"]],
        "metrics": sorted(report["metrics"]),
    }
    assert found == golden


def test_report_describes_the_files(done, lenet: Path) -> None:
    process, folder = done
    files = json.loads(process.stdout)["files"]
    assert files["model"]["sha256"] == hashlib.sha256(lenet.read_bytes()).hexdigest()
    assert files["output"]["sha256"] == hashlib.sha256((folder / "small.onnx").read_bytes()).hexdigest()
    assert files["data"]["path"].endswith("mnist_calibration.npz")


def test_output_loads_and_kept_groups_are_whole(done) -> None:
    process, folder = done
    onnxruntime.InferenceSession(folder / "small.onnx")
    groups = {group["name"]: group for group in json.loads(process.stdout)["groups"]}
    assert groups["/conv1/Conv"]["kept"] == groups["/conv1/Conv"]["units"]


def test_summary_for_people_is_on_stderr_without_colour_or_bars(done) -> None:
    process, _ = done
    for part in ("MACs", "top-1 accuracy", "channels removed", "written small.onnx"):
        assert part in process.stderr
    assert "\x1b" not in process.stderr


def test_html_report_is_written(done) -> None:
    page = (done[1] / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "lenet5_mnist.onnx" in page


def test_the_last_lines_name_every_file_and_nothing_is_padded(done) -> None:
    lines = done[0].stderr.splitlines()
    assert lines[-3].startswith("written small.onnx (")
    assert [line.strip() for line in lines[-2:]] == ["plan.json", "report.html"]
    assert all(line == line.rstrip() for line in lines)


def test_a_heavy_loss_is_told_once(run, done, lenet: Path) -> None:
    """It is logged for Python callers too."""
    given = ("--plan", "plan.json", "--no-repair", "--no-time", "--data", "random", "--images", 20)
    heavy = run("prune", lenet, "-o", "heavy.onnx", *given, "--no-provenance", cwd=done[1])
    told = heavy.stderr.split("heavy loss: ")[1:]
    assert told
    assert len(told) == len({text.split("falls")[0] for text in told})
    assert not onnx.load(done[1] / "heavy.onnx").metadata_props


def graph(path: Path) -> bytes:
    """A model file but for its metadata, which tell the options."""
    proto = onnx.load(path)
    del proto.metadata_props[:]
    return proto.SerializeToString(deterministic=True)


def test_plan_gives_the_same_file(run, done, lenet: Path) -> None:
    _, folder = done
    again = run("prune", lenet, "-o", "again.onnx", "--plan", "plan.json", "--no-repair", "-q", cwd=folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert graph(folder / "again.onnx") == graph(folder / "small.onnx")


def test_a_budget_beside_a_plan_is_not_used_and_that_is_said(run, done, lenet: Path) -> None:
    _, folder = done
    given = ("--plan", "plan.json", "--no-repair", "--target", "macs=0.1")
    again = run("prune", lenet, "-o", "beside.onnx", *given, cwd=folder)
    assert again.returncode == 0
    assert "--target had no effect" in " ".join(again.stderr.split())
    assert graph(folder / "beside.onnx") == graph(folder / "small.onnx")


def test_toml_is_read_and_the_command_line_wins(run, lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text(
        'importance = "random"\ntarget = ["macs=0.9", "params=0.9"]\nseed = 5\noutput = "a.onnx"\n[oamip]\nlambda = 7\n'
    )
    done = run("prune", lenet, "--config", "options.toml", "--target", "macs=0.5", "--json", "-", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["settings"]
    assert settings["targets"] == [{"kind": "macs", "value": 0.5, "layers": None}]
    assert (settings["importance"], settings["seed"], settings["oamip"]["lambda"]) == ("random", 5, 7.0)
    assert (tmp_path / "a.onnx").exists()


def _on_a_terminal(arguments: list[str], folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and what a terminal shows."""
    here, there = pty.openpty()
    process = subprocess.Popen(arguments, cwd=folder, env=env, stderr=there, stdout=subprocess.DEVNULL)
    os.close(there)
    shown = b""
    while True:
        try:
            block = os.read(here, 65536)
        except OSError:  # the other end was closed
            break
        if not block:
            break
        shown += block
    os.close(here)
    return process.wait(), shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_colour_and_bars_on_a_terminal_and_no_color(command, environment, lenet: Path, tmp_path: Path) -> None:
    arguments = command("prune", lenet, "-o", "a.onnx", "--importance", "magnitude", "--target", "macs=0.9")
    code, shown = _on_a_terminal(arguments, tmp_path, environment(TERM="xterm"))
    assert code == 0
    assert "\x1b[32m" in shown
    code, shown = _on_a_terminal(arguments, tmp_path, environment(TERM="xterm", NO_COLOR="1"))
    assert code == 0
    assert "\x1b[32m" not in shown
    assert "MACs" in shown


def test_interrupt_is_exit_code_130_without_output(run, lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "feeds.py").write_text("def rows():\n    raise KeyboardInterrupt\n")
    done = run(
        *("prune", lenet, "-o", "a.onnx", "--importance", "activation", "--target", "macs=0.5", "--data", "feeds:rows"),
        cwd=tmp_path,
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.strip().splitlines() == ["onnxprune: interrupted"]
    assert not list(tmp_path.glob("*.onnx"))


def _with_a_defect(env: Mapping[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`inspect` where loading a model raises an error that nobody foresaw."""
    program = (
        "import sys, onnxprune.graph.load as load\n"
        "def broken(path): raise ZeroDivisionError('a defect')\n"
        "load.load = broken\n"
        f"sys.argv = ['onnxprune', 'inspect', *{[str(a) for a in arguments]!r}]\n"
        "from onnxprune.cli import main\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


def test_internal_error_is_one_line_and_verbose_shows_where(environment, lenet: Path) -> None:
    done = _with_a_defect(environment(), lenet)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "internal error: ZeroDivisionError: a defect" in done.stderr
    done = _with_a_defect(environment(), lenet, "--verbose")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_weights_beside_the_model_are_told(run, lenet: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(lenet), tmp_path / "outside.onnx", save_as_external_data=True, size_threshold=0)
    done = run(
        *("prune", "outside.onnx", "-o", "small.onnx", "--data", "random", "--images", 8, "--importance", "magnitude"),
        *("--target", "params=0.5"),
        cwd=tmp_path,
        COLUMNS="200",
    )
    assert done.returncode == 0, done.stderr
    assert "written small.onnx and small.onnx.data (" in done.stderr
    assert (tmp_path / "small.onnx.data").stat().st_size > 10 * (tmp_path / "small.onnx").stat().st_size

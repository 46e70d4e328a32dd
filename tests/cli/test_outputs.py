"""Where the command line writes: never over what it reads, through links and pipes, and as much as can be written."""

import itertools
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

OPTIONS = ("--importance", "magnitude", "--no-repair", "--target", "macs=0.6", "--threads", "1")


def perceptron() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 32), (32, 32), (32, 4))]
    names = ["x", "a", "b", "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(3)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its weights apart, one with them inside, rows, a plan and a configuration."""
    onnx.save(perceptron(), tmp_path / "apart.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    onnx.save(perceptron(), tmp_path / "inside.onnx")
    (tmp_path / "rows").mkdir()
    for name in ("rows/a.npy", "rows/b.npy", "eval.npy"):
        np.save(tmp_path / name, np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32))
    (tmp_path / "plan.json").write_text(json.dumps({"schema": 1, "units": {"a": 32}, "removed": {"a": [1, 2]}}))
    (tmp_path / "options.toml").write_text('importance = "magnitude"\nrepair = false\nthreads = 1\n')
    (tmp_path / "near").symlink_to(".")
    (tmp_path / "link").symlink_to("weights")
    os.link(tmp_path / "eval.npy", tmp_path / "hard")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READ = ("--data", "rows", "--eval", "eval.npy", "--plan", "plan.json", "--config", "options.toml")
OUTPUTS = ("-o", "--json", "--html", "--plan-out")
INPUTS = (
    *("apart.onnx", "weights", "link", "near/weights", "rows/a.npy", "near/rows/../rows/b.npy"),
    *("eval.npy", "hard", "plan.json", "options.toml"),
)


@pytest.mark.parametrize(("name", "option"), [*zip(INPUTS, itertools.cycle(OUTPUTS), strict=False)])
def test_prune_writes_over_nothing_it_reads(run, folder: Path, name: str, option: str) -> None:
    """Weights beside the model, the plan, the configuration and the rows were written over: exit code 0."""
    before = contents(folder)
    output = () if option == "-o" else ("-o", "out.onnx")
    done = run("prune", "apart.onnx", *READ, *output, option, name, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "never changed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(folder) == before


COMMANDS = {
    "inspect": ("inspect", "apart.onnx"),
    "score": ("score", "apart.onnx", "--data", "rows", "--importance", "magnitude", "--config", "options.toml"),
    "validate": ("validate", "inside.onnx", "apart.onnx", "--data", "rows"),
    "bench": ("bench", "inside.onnx", "apart.onnx", "--data", "rows"),
    "sweep": ("sweep", "apart.onnx", "--data", "rows", "--eval", "eval.npy"),
    "finetune": ("finetune", "inside.onnx", "--teacher", "apart.onnx", "--data", "rows", "-o", "out.onnx"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_write_over_nothing_they_read(run, folder: Path, name: str) -> None:
    before = contents(folder)
    for target in ("weights", "rows/a.npy" if "--data" in COMMANDS[name] else "apart.onnx"):
        done = run(*COMMANDS[name], "--json", target, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert f"--json {target} is an input" in done.stderr
    assert contents(folder) == before


def test_sweep_writes_over_nothing_it_reads(run, folder: Path) -> None:
    (folder / "inside.onnx").rename(folder / "x-macs-0.9.onnx")
    (folder / "x.onnx").symlink_to("x-macs-0.9.onnx")
    before = contents(folder)
    done = run("sweep", "x.onnx", *OPTIONS[:3], "-o", ".", "--save-models", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "x-macs-0.9.onnx is an input" in done.stderr
    assert contents(folder) == before


def test_finetune_keeps_its_state_in_no_input(run, folder: Path) -> None:
    before = contents(folder)
    done = run(*COMMANDS["finetune"], "--checkpoint", "weights", cwd=folder)
    assert done.returncode == 2
    assert "--checkpoint weights is an input" in done.stderr
    assert contents(folder) == before


def test_a_result_takes_another_name_for_its_weights(run, folder: Path) -> None:
    (folder / "weights").rename(folder / "out.onnx.data")
    proto = onnx.load(folder / "apart.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "out.onnx.data"
    (folder / "apart.onnx").write_bytes(proto.SerializeToString())
    before = contents(folder)
    done = run("prune", "apart.onnx", *OPTIONS, "-o", "out.onnx", "--json", "out.onnx.1.data", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "out.onnx and out.onnx.2.data" in " ".join(done.stderr.split())
    after = contents(folder)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"out.onnx", "out.onnx.1.data", "out.onnx.2.data"}
    assert json.loads(after["out.onnx.1.data"])["command"] == "prune"
    onnx.checker.check_model(str(folder / "out.onnx"))


def test_one_file_under_two_names_is_one_output(run, folder: Path) -> None:
    (folder / "later").symlink_to("report")
    done = run(
        "prune", "inside.onnx", *OPTIONS, "-o", "out.onnx", "--json", "near/report", "--html", "later", cwd=folder
    )
    assert done.returncode == 2
    assert "--html and --json are both later" in done.stderr
    assert not (folder / "out.onnx").exists()


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("option", OUTPUTS)
def test_a_link_to_stdout_is_written_through(command, environment, folder: Path, option: str) -> None:
    """The link was replaced by a file: run by root, that was the machine's /dev/stdout."""
    link = folder / "stdout"
    link.symlink_to("/proc/self/fd/1")
    output = () if option == "-o" else ("-o", "out.onnx")
    arguments = command("prune", "inside.onnx", *OPTIONS, *output, option, "stdout")
    (folder / "printed").write_bytes(b"")
    with (folder / "printed").open("ab") as stdout:
        done = subprocess.run(
            arguments, cwd=folder, env=environment(), stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    printed = (folder / "printed").read_bytes()
    if option == "-o":
        onnx.checker.check_model(onnx.load_model_from_string(printed))
    else:
        assert printed.startswith(b"<!doctype html>" if option == "--html" else b"{")
        assert printed.endswith(b"\n")


def test_pipes_and_devices_are_written_into(command, environment, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/null")
    arguments = command("prune", "inside.onnx", *OPTIONS, "-o", "out.onnx", "--json", "pipe", "--html", "device")
    with subprocess.Popen(["cat", "pipe"], cwd=folder, stdout=subprocess.PIPE) as reader:
        subprocess.run(arguments, cwd=folder, env=environment(), check=True, capture_output=True)
        assert reader.stdout is not None
        assert json.loads(reader.stdout.read())["command"] == "prune"
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    assert (folder / "device").is_symlink()
    assert stat.S_ISCHR((folder / "device").stat().st_mode)


UNWRITABLE = {"full": ("--json", "/dev/full"), "stdout": ("--json", "-")}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_told_once_the_rest_is_there(command, environment, folder: Path, case: str) -> None:
    arguments = command("prune", "inside.onnx", *OPTIONS, "-o", "out.onnx", *UNWRITABLE[case], "--html", "page.html")
    with Path("/dev/full").open("w") as stdout:
        done = subprocess.run(
            arguments, cwd=folder, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("onnxprune: ")]
    assert len(lines) == 1
    assert "cannot be written: No space left on device" in lines[0]
    assert "written out.onnx" in done.stderr
    onnx.checker.check_model(str(folder / "out.onnx"))
    assert (folder / "page.html").is_file()


@pytest.fixture
def shell(command, environment, folder: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line with the redirections of a shell behind it."""

    def start(redirections: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        script = f'"$@" {redirections}'
        line = ["sh", "-c", script, "sh", *command(*arguments)]
        return subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, check=False)

    return start


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"])
def test_the_work_is_done_though_nobody_listens(shell, folder: Path, redirections: str) -> None:
    """A closed stdout was an internal error before any work."""
    done = shell(redirections, "prune", "inside.onnx", *OPTIONS, "-o", "out.onnx", "--json", "report.json", "-v")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "report.json").read_text())["command"] == "prune"
    onnx.checker.check_model(str(folder / "out.onnx"))
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_cannot_take_a_report(shell, folder: Path) -> None:
    done = shell(">&-", "prune", "inside.onnx", *OPTIONS, "-o", "out.onnx", "--json", "-", "-q")
    assert done.returncode == 2
    assert done.stderr == "onnxprune: error: stdout cannot be written: Bad file descriptor\n"
    onnx.checker.check_model(str(folder / "out.onnx"))


@pytest.mark.parametrize("arguments", [("--version",), ("prune", "--help"), ("config", "--template")])
@pytest.mark.parametrize("redirections", [">/dev/full", "| true"])
def test_help_that_cannot_be_printed_is_no_internal_error(shell, redirections: str, arguments: tuple[str, ...]) -> None:
    done = shell(redirections, *arguments)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


NAMES = {
    "too long": "a" * 256,
    "no text": os.fsdecode(b"a\xff.onnx"),
    "in a place that takes no files": "/proc/a.onnx",
    "a link to nowhere": "lost",
    "links in a circle": "around",
    "a folder": "rows",
}


@pytest.mark.parametrize(("name", "option"), [*zip(NAMES, itertools.cycle(OUTPUTS), strict=False)])
def test_a_name_that_cannot_be_written_is_refused_at_once(run, folder: Path, name: str, option: str) -> None:
    """Some of them were noticed when the work was done."""
    (folder / "lost").symlink_to("nowhere/file")
    (folder / "around").symlink_to("around")
    (folder / "empty.onnx").touch()  # refused as well, had the work begun
    before = contents(folder)
    output = () if option == "-o" else ("-o", "out.onnx")
    done = run("prune", "empty.onnx", *OPTIONS, *output, option, NAMES[name], cwd=folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{option} " in done.stderr
    assert contents(folder) == before

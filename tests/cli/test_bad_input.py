"""Bad input: one clear line that says what to do, the right exit code, no traceback, no output file."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lenet: Path) -> Path:
    """Everything that can be wrong with a file."""
    made = tmp_path_factory.mktemp("bad")
    (made / "empty.onnx").touch()
    (made / "cut.onnx").write_bytes(lenet.read_bytes()[:5000])
    (made / "text.onnx").write_text("# a heading\n" * 50)
    (made / "good.onnx").write_bytes(lenet.read_bytes())
    rows = np.zeros((4, 1, 28, 28), np.float32)
    np.savez(made / "shape.npz", x=rows[..., :27])
    np.savez(made / "type.npz", x=np.array(["a", "b"]))
    np.savez(made / "name.npz", other=rows, another=rows)
    np.savez(made / "nan.npz", x=np.where(np.arange(28) == 3, np.nan, rows))
    (made / "cut.npz").write_bytes((made / "shape.npz").read_bytes()[:200])
    (made / "plan.json").write_text('{"schema": 1}')
    (made / "other_plan.json").write_text('{"schema": 1, "units": {"a": 3}, "removed": {"a": [1]}}')
    (made / "unknown.toml").write_text("round_to = 8\n")
    (made / "broken.toml").write_text("round-to = \n")
    (made / "type.toml").write_text('images = "many"\n')
    os.mkfifo(made / "pipe")
    return made


MAGNITUDE = ("--importance", "magnitude", "--target", "macs=0.5")
ACTIVATION = ("--importance", "activation", "--target", "macs=0.5")
CASES = {
    "missing file": (("missing.onnx", *MAGNITUDE), 2, "missing.onnx does not exist"),
    "empty file": (("empty.onnx", *MAGNITUDE), 2, "is empty"),
    "truncated file": (("cut.onnx", *MAGNITUDE), 2, "cut off"),
    "not ONNX": (("text.onnx", *MAGNITUDE), 2, "not an ONNX file"),
    "a folder": ((".", *MAGNITUDE), 2, "is a folder"),
    "a pipe that nobody writes into": (("pipe", *MAGNITUDE), 2, "nobody writes into it"),
    "no data": (("good.onnx", *ACTIVATION), 2, "give --data"),
    "missing data": (("good.onnx", *ACTIVATION, "--data", "no.npz"), 2, "no.npz does not exist"),
    "data of the wrong shape": (("good.onnx", *ACTIVATION, "--data", "shape.npz"), 2, "[4, 1, 28, 27] does not fit"),
    "data of the wrong type": (("good.onnx", *ACTIVATION, "--data", "type.npz"), 2, "does not fit the model"),
    "data of the wrong name": (("good.onnx", *ACTIVATION, "--data", "name.npz"), 2, "no array for input 'input'"),
    "data with NaN": (("good.onnx", *ACTIVATION, "--data", "nan.npz"), 2, "NaN"),
    "truncated data": (("good.onnx", *ACTIVATION, "--data", "cut.npz"), 2, "cut.npz"),
    "target of 0": (("good.onnx", "--importance", "magnitude", "--target", "macs=0"), 2, "must be above 0"),
    "target out of reach": (("good.onnx", "--importance", "magnitude", "--target", "macs=0.001"), 4, "cannot go below"),
    "target without a value": (("good.onnx", "--target", "macs"), 2, "for example macs=50%"),
    "no target": (("good.onnx", "--importance", "magnitude"), 2, "--target"),
    "unknown importance": (("good.onnx", "--importance", "guess", "--target", "macs=0.5"), 2, "use one of"),
    "not a number": (("good.onnx", *MAGNITUDE, "--images", "x"), 2, "--images: 'x' is not a whole number"),
    "a number left out": (("good.onnx", *MAGNITUDE, "--mean", "1,,2"), 2, "--mean: '1,,2' lacks a number"),
    "too small a number": (("good.onnx", *MAGNITUDE, "--round-to", "0"), 2, "use 1 or more"),
    "a plan that is none": (("good.onnx", "--plan", "plan.json"), 2, "not a pruning plan"),
    "another graph's plan": (("good.onnx", "--plan", "other_plan.json"), 2, "made for another graph"),
    "unknown TOML key": (("good.onnx", *MAGNITUDE, "--config", "unknown.toml"), 2, "did you mean 'round-to'"),
    "broken TOML": (("good.onnx", *MAGNITUDE, "--config", "broken.toml"), 2, "not a TOML file"),
    "wrong type in TOML": (("good.onnx", *MAGNITUDE, "--config", "type.toml"), 2, "is not a whole number"),
    "a pipe in place of a plan": (("good.onnx", "--plan", "pipe"), 2, "nobody writes into it"),
    "missing TOML": (("good.onnx", *MAGNITUDE, "--config", "no.toml"), 2, "cannot be read"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_line(run, folder: Path, name: str) -> None:
    arguments, code, message = CASES[name]
    done = run("prune", *arguments, "-o", "out.onnx", "--json", "-", cwd=folder)
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("onnxprune: error: ")
    assert message in lines[0]
    assert done.stdout == ""
    assert not (folder / "out.onnx").exists()


def test_a_pipe_is_read_though_its_writer_comes_late(run, lenet: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    late = "import sys, time; time.sleep(1); open(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read())"
    with subprocess.Popen([sys.executable, "-c", late, lenet, tmp_path / "pipe"]):
        done = run("inspect", tmp_path / "pipe", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["before"]["macs"] == 416520


OUTPUTS = {
    "missing folder": (("-o", "nowhere/out.onnx"), "nowhere does not exist"),
    "a file as folder": (("-o", "text.onnx/out.onnx"), "text.onnx"),
    "a folder": (("-o", "."), "is a folder"),
    "the input": (("-o", "good.onnx"), "never changed"),
    "none": ((), "-o OUT.onnx"),
    "a device": (("-o", "/dev/null"), "regular file"),
    "stdout": (("-o", "-"), "regular file"),
    "report over the input": (("-o", "out.onnx", "--json", "good.onnx"), "never changed"),
    "report in a missing folder": (("-o", "out.onnx", "--html", "nowhere/a.html"), "nowhere does not exist"),
    "two in one": (("-o", "out.onnx", "--html", "out.onnx"), "are both out.onnx"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_that_cannot_be_written_is_refused_first(run, folder: Path, name: str) -> None:
    arguments, message = OUTPUTS[name]
    before = hashlib.sha256((folder / "good.onnx").read_bytes()).digest()
    # The empty model would be refused too, had the work begun.
    model = "good.onnx" if "good.onnx" in arguments else "empty.onnx"
    done = run("prune", model, *MAGNITUDE, *arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert hashlib.sha256((folder / "good.onnx").read_bytes()).digest() == before
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("arguments", [("prune", "--bogus"), ("prune",), ("nonsense",), ("inspect", "a", "b")])
def test_wrong_usage_is_exit_code_2(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("onnxprune: error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prune", "a.onnx", "--max_drop", "1"), "no such option: --max_drop; is --max-drop meant"),
        (("prune", "a.onnx", "--minimize", "time"), "is --minimise meant"),
        (("prune", "a.onnx", "b.onnx"), "unexpected argument: b.onnx; is -o b.onnx meant"),
        (("validate", "a.onnx", "b.onnx", "c.npz"), "unexpected argument: c.npz; is --data c.npz meant"),
        (("sweep", "a.onnx", "out"), "is -o out (a folder) meant"),
        (("inspect", "a.onnx", "b.onnx"), "unexpected argument: b.onnx (onnxprune inspect -h"),
        (("a.onnx",), "is onnxprune prune a.onnx meant"),
        (("prun", "a.onnx"), "no such command 'prun'; is prune meant"),
        (("prune", "a.onnx", "--target"), "'--target' requires an argument (onnxprune prune -h lists all options)"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_may_be_meant(run, arguments: tuple[str, ...], said: str) -> None:
    """Errors of the option parser were four lines in another style."""
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("onnxprune: error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_arguments_show_the_help(run) -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Make trained ONNX models smaller" in done.stderr


def test_inspect_and_validate_refuse_bad_files_too(run, folder: Path, lenet: Path) -> None:
    done = run("inspect", "cut.onnx", "--json", "-", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    done = run("validate", lenet, "cut.onnx", "--data", "shape.npz", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cut off" in done.stderr

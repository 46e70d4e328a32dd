"""Hostile and unlucky input of the command line: one line, the right exit code, no file; and what must work, works."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CODE = """
import sys
import numpy
def exits(): sys.exit(0)
def raises(): raise ValueError("my file is missing")
def lazy():
    import beside
    return beside.rows()
def printing():
    print("to stdout")
    return numpy.ones((64, 8), "f4")
"""


def perceptron(width: int = 32) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s).astype(np.float32) for s in ((8, width), (width, width), (width, 4))]
    names = ["x", "a", "b", "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]], name=f"layer{n}") for n in range(3)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    onnx.save(perceptron(), made / "net.onnx")
    (made / "own.py").write_text(CODE)
    (made / "beside.py").write_text("import numpy\ndef rows(): return numpy.ones((64, 8), 'f4')\n")
    (made / "syntax.py").write_text("def f(:\n")
    for name, shape in {"negative": "(-5, 8)", "endless": "(18446744073709551616, 8)"}.items():
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        (made / f"{name}.npy").write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
    (made / "infinite.json").write_text('{"schema": 1, "units": {"a": 32}, "removed": {"a": [Infinity]}}')
    (made / "half.json").write_text(
        '{"schema": 1, "units": {"layer0": 32, "layer1": 32}, "removed": {"layer0": [1.5]}}'
    )
    (made / "deep.json").write_text("[" * 100_000)
    (made / "deep.toml").write_text("a = " + "[" * 100_000)
    (made / "long.toml").write_text(".".join("a" * 20_000) + " = 1\n")
    (made / "digits.toml").write_text("images = " + "9" * 5000 + "\n")
    (made / "infinite.toml").write_text("max-drop = inf\n")
    return made


MAGNITUDE = ("--importance", "magnitude", "--no-repair", "--target", "macs=0.6", "--threads", "1")
ACTIVATION = ("--importance", "activation", "--target", "macs=0.6", "--threads", "1")
CASES = {
    "a function that ends the program": ((*ACTIVATION, "--data", "own:exits"), "own:exits ended the program"),
    "a function that fails": (
        (*ACTIVATION, "--eval", "own:raises", "--data", "random"),
        "own:raises failed: ValueError: my",
    ),
    "a module that is none": ((*ACTIVATION, "--data", "syntax:f"), "'syntax' cannot be imported"),
    "a negative number of rows": ((*ACTIVATION, "--data", "negative.npy"), "negative.npy cannot be read"),
    "2^64 rows": ((*ACTIVATION, "--data", "endless.npy"), "endless.npy cannot be read"),
    "an endless name": ((*ACTIVATION, "--data", "a" * 5000), "cannot be read: File name too long"),
    "an infinite plan": (("--plan", "infinite.json"), "Infinity is no number"),
    "a plan of halves": (("--plan", "half.json"), "1.5 is no number of units"),
    "a deep plan": (("--plan", "deep.json"), "not a pruning plan"),
    "an endless plan": (("--plan", "/dev/zero"), "is larger than"),
    "a deep configuration": ((*MAGNITUDE, "--config", "deep.toml"), "is not a TOML file"),
    "a long key": ((*MAGNITUDE, "--config", "long.toml"), "unknown key|not a TOML file"),
    "a number of 5000 digits": ((*MAGNITUDE, "--config", "digits.toml"), "is not a TOML file"),
    "an infinite option": ((*MAGNITUDE, "--config", "infinite.toml"), "inf is no finite number"),
    "more threads than processors": ((*MAGNITUDE[:-1], "100000"), "100000 is too large; use 1024 or less"),
    "more processes": ((*MAGNITUDE, "--workers", "100000"), "use 1024 or less"),
    "a huge seed": ((*MAGNITUDE, "--seed", str(2**64)), "is too large"),
    "a huge memory": ((*MAGNITUDE, "--memory", "9" * 400 + "GB"), "too large"),
    "a huge target": ((*MAGNITUDE, "--target", "macs=1e999"), "the value is too large"),
    "more rows than memory": (
        (*ACTIVATION, "--data", "random", "--images", "2147483647", "--threads", "1"),
        "2147483647 random rows|out of memory",
    ),
    "a folder that keeps nothing": ((*ACTIVATION, "--data", "random", "--cache", "net.onnx/cache"), "--cache"),
    "a name that is none": ((*MAGNITUDE, "--keep", "layer7"), "--keep 'layer7' matches nothing"),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_input_is_one_line(run, folder: Path, case: str) -> None:
    arguments, message = CASES[case]
    done = run("prune", "net.onnx", "-o", "out.onnx", "--json", "-", *arguments, cwd=folder)
    assert done.returncode == (3 if "out of memory" in done.stderr else 2), done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 3000
    assert done.stdout == ""
    assert not (folder / "out.onnx").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".onnxprune")]


def test_models_that_are_devices_are_refused(run, folder: Path) -> None:
    for name in ("/dev/zero", "/dev/null"):
        done = run("inspect", name, cwd=folder)
        assert done.returncode == 2
        assert "is a device" in done.stderr


def test_functions_that_print_and_import_what_lies_beside_them_work(run, folder: Path, tmp_path: Path) -> None:
    for name in ("own:lazy", "own:printing"):
        output = tmp_path / "out.onnx"
        done = run("prune", "net.onnx", *ACTIVATION, "--data", name, "-o", output, "--json", "-", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["command"] == "prune"
        assert output.is_file()


def test_a_latency_table_that_cannot_be_kept_is_a_note(run, folder: Path, tmp_path: Path) -> None:
    """It was exit code 2."""
    done = run("prune", "net.onnx", *MAGNITUDE[:3], "--target", "latency=1", "-o", tmp_path / "out.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    (tmp_path / "file").touch()
    done = run(
        *("prune", "net.onnx", *MAGNITUDE[:3], "--target", "latency=1", "-o", tmp_path / "out.onnx"),
        cwd=folder,
        XDG_CACHE_HOME=str(tmp_path / "file"),
    )
    assert done.returncode == 0, done.stderr
    assert "note: the latency table" in done.stderr


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a bound on memory")
def test_out_of_memory_says_what_asked_for_how_much(command, environment, folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "import numpy as np\n"
        "from onnxprune.pipeline import prepare\n"
        "from onnxprune.cli import main\n"
        "def greedy(*_): return np.ones((10**6, 10**6))\n"
        "prepare.lossless = greedy\n"
        "options = ['--importance', 'magnitude', '--target', 'macs=0.5']\n"
        "sys.argv = ['onnxprune', 'prune', 'net.onnx', '-o', sys.argv[1], *options]\n"
        "main()\n"
    )
    done = subprocess.run(
        [command()[0], "-c", script, str(tmp_path / "out.onnx")],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36)),
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(
        "onnxprune: error: out of memory in lossless: Unable to allocate 7.28 TiB for an array"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_file_is_written_leaves_nothing(
    command, environment, folder: Path, tmp_path: Path, how: signal.Signals
) -> None:
    onnx.save(perceptron(2048), tmp_path / "wide.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "out.onnx").write_text("old")
    arguments = command("prune", "wide.onnx", "-o", "out/out.onnx", "--importance", "magnitude", "--target", "macs=0.9")
    # Where the tests run under nohup, what they start ignores the signal too.
    heeding = f"import os, signal, sys; signal.signal({int(how)}, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not [*(tmp_path / "out").glob(".onnxprune-*/*")]:
        time.sleep(0.002)
    assert process.poll() is None
    process.send_signal(how)
    assert process.wait() == -how
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("out.onnx", "old")]

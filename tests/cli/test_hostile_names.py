"""Names that would move the cursor, set the terminal's title or fill it: shown, never sent."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ESCAPE = "\x1b]0;title\x07\x1b[2J\x1b[1;1Hfake\r\n[/red][bold]\u202e"
LONG = "n" * 10_000_000
SENT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def perceptron(change: str, name: str) -> onnx.ModelProto:
    """Three layers; one name of the file is another."""
    rng = np.random.default_rng(0)
    names = {key: key for key in ("x", "a", "y", "w0", "first", "MatMul", "", "doc")} | {change: name}
    weights = {names["w0"]: (8, 16), "w1": (16, 16), "w2": (16, 4)}
    nodes = [
        helper.make_node("MatMul", [names["x"], names["w0"]], [names["a"]], name=names["first"]),
        helper.make_node("Relu", [names["a"]], ["r"]),
        helper.make_node(
            names["MatMul"], ["r", "w1"], ["b"], name="second", domain="own" if change == "MatMul" else ""
        ),
        helper.make_node("MatMul", ["b", "w2"], [names["y"]], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        names["doc"],
        [helper.make_tensor_value_info(names["x"], TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info(names["y"], TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)], ir_version=8
    )


PRUNE = ("--importance", "magnitude", "--no-repair", "--target", "params=0.8", "--threads", "1", "--round-to", "1")


@pytest.mark.parametrize("change", ["x", "a", "first", "MatMul"])
def test_escapes_in_names_are_shown(run, tmp_path: Path, change: str) -> None:
    """They were sent to the terminal; brackets were taken for colours."""
    onnx.save(perceptron(change, ESCAPE), tmp_path / "net.onnx")
    for arguments in (
        ("inspect", "net.onnx", "-v"),
        ("prune", "net.onnx", *PRUNE, "-o", "out.onnx", "--html", "page.html", "--json", "report.json", "-v"),
        ("prune", "net.onnx", *PRUNE, "-o", "out.onnx", "--keep", f"{ESCAPE}x"),
    ):
        done = run(*arguments, cwd=tmp_path, FORCE_COLOR="")
        assert not SENT.search(done.stdout + done.stderr), done.stdout + done.stderr
        assert done.returncode in (0, 2, 3, 4), done.stderr
        assert "internal error" not in done.stderr
    if (tmp_path / "page.html").exists():
        assert not SENT.search((tmp_path / "page.html").read_text())
        report = json.loads((tmp_path / "report.json").read_text())
        if change == "first":
            assert ESCAPE in {layer["node"] for layer in report["layers"]}


def test_escapes_in_the_name_of_a_file_are_shown(run, tmp_path: Path) -> None:
    name = "\x1b[2J\x07.onnx"
    (tmp_path / name).write_bytes(b"no model")
    done = run("inspect", name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("onnxprune: error: \\x1b[2J\\x07.onnx is not an ONNX file")
    onnx.save(perceptron("first", "f"), tmp_path / name)
    done = run("prune", name, *PRUNE, "-o", f"out{name}", cwd=tmp_path)
    assert done.returncode == 0
    assert not SENT.search(done.stderr)


@pytest.mark.parametrize("change", ["first", "MatMul"])
def test_endless_names_are_cut(run, tmp_path: Path, change: str) -> None:
    onnx.save(perceptron(change, LONG), tmp_path / "net.onnx")
    done = run("inspect", "net.onnx", cwd=tmp_path)
    assert done.returncode == 0
    assert 0 < len(done.stdout) < 20_000
    done = run("prune", "net.onnx", *PRUNE, "-o", "out.onnx", "--html", "page.html", cwd=tmp_path)
    assert len(done.stderr) < 20_000
    assert done.returncode in (0, 3, 4)
    if done.returncode == 0:
        assert (tmp_path / "page.html").stat().st_size < 200_000

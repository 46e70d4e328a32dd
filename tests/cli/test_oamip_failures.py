"""The paper's program where it has no solution, or no time for one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.ops.examples import example

ROWS = np.random.default_rng(1).standard_normal((12, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier, and one in which two huge numbers cancel in the layer `second`, so that its bounds,
    reached by another sum than its value, are wrong by more than the scores can make up for."""
    made = tmp_path_factory.mktemp("oamip")
    text = """g (float[N,5] x) => (float[N,3] y) {
        a = Gemm (x, w1, b1)
        h = Relu (a)
        c = Gemm (h, w2, b2)
        d = Gemm (x, w3, b3)
        e = Add (c, d)
        k = Relu (e)
        y = Gemm (k, w4, b4) }"""
    sizes = {"w1": (5, 6), "b1": (6,), "w2": (6, 4), "b2": (4,), "w3": (5, 4), "b3": (4,), "w4": (4, 3), "b4": (3,)}
    proto = example(text, sizes)
    for node in proto.graph.node:
        node.name = "second" if node.output[0] == "k" else node.output[0]
    onnx.save(proto, made / "good.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in ("w3", "b3"):
            factor = np.float32(1e13 if tensor.name == "w3" else 1e12)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
    onnx.save(proto, made / "broken.onnx")
    np.savez(made / "rows.npz", x=ROWS)
    return made


def arguments(model: str, *more: object) -> Iterable[object]:
    """Pruning by the paper's scores."""
    return (
        *("prune", model, "-o", "out.onnx", "--data", "rows.npz", "--importance", "oamip", "--threshold", "0.1"),
        *("--no-repair", "--threads", "1", "--executor", "serial", *more),
    )


@pytest.mark.parametrize("more", [(), ("--oamip-gates", "integer"), ("--oamip-order", "last-first")])
def test_contradicting_bounds_end_with_code_6_and_the_layer(run, folder: Path, more: tuple[str, ...]) -> None:
    done = run(*arguments("broken.onnx", "--oamip-epsilon", "0", *more), cwd=folder)
    assert done.returncode == 6, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "has no solution" in line
    assert "'second'" in line
    assert "raise --oamip-epsilon" in line
    assert "--oamip-bounds valid" in line
    assert not (folder / "out.onnx").exists()


def test_what_the_message_advises_helps(run, folder: Path) -> None:
    done = run(*arguments("broken.onnx", "--oamip-epsilon", "1e-3"), cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "out.onnx").unlink()


@pytest.mark.parametrize("more", [("--oamip-form", "joint"), ("--oamip-form", "affine", "--oamip-rows", "none")])
def test_without_time_nothing_is_known_and_nothing_written(run, folder: Path, more: tuple[str, ...]) -> None:
    """There always is a solution, but scores that are all alike say nothing of any unit."""
    done = run(*arguments("good.onnx", *more, "--oamip-time-limit", "0"), cwd=folder)
    assert done.returncode == 6, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "all scores alike, which say nothing" in line
    assert "--oamip-time-limit" in line
    assert not (folder / "out.onnx").exists()


def test_rows_on_another_axis_inside_the_model_are_one_clear_line(run, tmp_path: Path) -> None:
    """With time as the only open axis, a convolution over it has the rows last: an internal error."""
    proto = example(
        """g (float[T,1,5] x) => (float[T,1,3] y) {
        c = Transpose <perm = [1, 2, 0]> (x)
        h = Conv <pads = [1, 1]> (c, w1)
        r = Relu (h)
        u = Transpose <perm = [2, 0, 1]> (r)
        y = MatMul (u, w2) }""",
        {"w1": (6, 5, 3), "w2": (6, 3)},
    )
    onnx.save(proto, tmp_path / "late.onnx")
    np.savez(tmp_path / "rows.npz", x=ROWS[:, None])
    done = run(*arguments("late.onnx", "--oamip-form", "affine"), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "'h' does not have the rows on its first axis" in line or "'r' does not have the rows" in line
    assert not (tmp_path / "out.onnx").exists()

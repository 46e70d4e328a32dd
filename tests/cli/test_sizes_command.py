"""`--shape` on the command line and in the TOML file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import onnx
import pytest

from onnxprune.ops.examples import example

Run = Callable[..., object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    text = "g (float[N,steps,6] x) => (float[N,steps,3] y) { h = MatMul (x, w1) y = MatMul (h, w2) }"
    onnx.save(example(text, {"w1": (6, 8), "w2": (8, 3)}), path)
    return path


def test_sizes_of_the_command_line_and_of_the_file(run: Run, model: Path, schema: Mapping[str, object]) -> None:
    config = model.with_name("options.toml")
    config.write_text('shape = ["x=1,9,6"]\n')
    wanted = [{"name": "steps", "size": 9, "origin": "given", "inputs": ["x"]}]
    for options in (("--shape", "x=1,9,6"), ("--config", config)):
        done = run("inspect", model, *options, "--json", "-", "--quiet")
        report = json.loads(done.stdout)
        jsonschema.validate(report, schema)
        assert (report["sizes"], report["before"]["macs"]) == (wanted, 9 * (6 * 8 + 8 * 3))
        assert report["macs_convention"] == 2
    out = model.with_name("out.onnx")
    chosen = ("--importance", "magnitude", "--no-repair", "--no-time", "--target", "macs=0.7", "--json", "-")
    done = run("prune", model, "-o", out, *chosen, "--config", config)
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert (report["sizes"], report["settings"]["shapes"]) == (wanted, ["x=1,9,6"])
    assert "sizes steps 9, as given" in done.stderr


def test_sizes_that_do_not_fit_are_one_line_and_no_file(run: Run, model: Path) -> None:
    out = model.with_name("out.onnx")
    commands = (("inspect", model), ("bench", model), ("prune", model, "-o", out, "--target", "macs=0.7"))
    for command in commands:
        for shape in ("x=1", "z=1,2,3", "x=1,2,7", "x"):
            done = run(*command, "--shape", shape)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
            assert done.stderr.startswith("onnxprune: error: --shape ")
            assert not out.exists()

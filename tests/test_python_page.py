"""The page on the Python API, and the docstrings of its names: everything is named, and every example runs."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.ops.examples import example

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NAMES = [name for name in onnxprune.__all__ if name != "__version__"]
# Their fields are the options of the command line, which stand in docs/cli.md.
OPTIONS = [name for name in NAMES if name.endswith("Config")]
RUN = """
import contextlib, io, json, traceback
import numpy as np
import onnxprune
failed, spaces = [], {}
for name, code in json.load(open("examples.json")):
    space = spaces.setdefault(name, {"calibration": np.load("rows.npz")["x"], "onnxprune": onnxprune})
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, space)
    except Exception:
        failed.append([name, traceback.format_exc()])
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples read."""
    folder = tmp_path_factory.mktemp("python")
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    proto = example(text, {"w1": (6, 32), "b1": (32,), "w2": (32, 3)})
    onnx.save(proto, folder / "model.onnx")
    rows = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows)
    np.savez(folder / "test.npz", x=rows + 1, y=np.arange(64) % 3)
    small = onnxprune.prune(proto, rows, targets="macs=0.5", importance="magnitude", repair=False, time=False)
    small.save(folder / "smaller.onnx")
    return folder


def failures(folder: Path, examples: list[tuple[str, str]]) -> list[list[str]]:
    """Run pieces of code in one process; pieces of one name share their variables."""
    (folder / "examples.json").write_text(json.dumps(examples))
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def blocks(text: str) -> list[str]:
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)\n *```", text, re.S)]


@pytest.mark.slow
def test_every_example_of_the_page_runs(folder: Path) -> None:
    pytest.importorskip("torch", reason="the page trains a model, which needs torch")
    examples = blocks(PAGE)
    assert len(examples) >= 12
    assert failures(folder, [("page", code) for code in examples]) == []


@pytest.mark.slow
def test_every_example_of_a_docstring_runs(folder: Path) -> None:
    pytest.importorskip("torch", reason="finetune's example needs torch")
    examples = [(name, code) for name in NAMES for code in blocks(getattr(onnxprune, name).__doc__)]
    assert {name for name, _ in examples} == set(NAMES)
    assert failures(folder, examples) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize(
    "name", ["prune", "sweep", "analyze", "validate", "bench", "feeds", "finetune", "register_scorer"]
)
def test_signatures_on_the_page_are_those_of_the_functions(name: str) -> None:
    shown = re.search(rf"`{name}\((.*?)\)\s*(?:->|`)", PAGE, re.S)
    assert shown is not None
    found = inspect.signature(getattr(onnxprune, name))
    listed = [part.strip().partition("=")[0].strip("* ") for part in re.sub(r"\(\)", "", shown[1]).split(",")]
    assert [part for part in listed if part] == list(found.parameters)
    for parameter in found.parameters.values():
        if parameter.default not in (inspect.Parameter.empty, None, ()):
            written = json.dumps(parameter.default) if isinstance(parameter.default, str) else repr(parameter.default)
            assert f"{parameter.name}={written}" in shown[1]


@pytest.mark.parametrize("name", ["PruneResult", "SweepResult", "SweepPoint", "Comparison", "Latency", "PrunePlan"])
def test_every_field_of_a_result_is_on_the_page(name: str) -> None:
    for field in dataclasses.fields(getattr(onnxprune, name)):
        assert f"`{field.name}`" in PAGE, field.name


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_described_where_python_looks(name: str) -> None:
    """Types, defaults and texts, in the words of arguments."""
    cls = getattr(onnxprune, name)
    told = inspect.getdoc(cls) or ""
    for field in dataclasses.fields(cls):
        line = re.search(rf"^ +{field.name}: (\S.*) \((.+)\)$", told, re.M)
        assert line is not None, field.name
        assert "--" not in line[1].replace("inspect --keep", ""), line[0]
    assert f"`{name}`" in PAGE

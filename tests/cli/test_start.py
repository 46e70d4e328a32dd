"""The command line starts fast because it imports nothing heavy."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

HEAVY = {"torch", "scipy", "numpy", "onnx", "onnxruntime", "pyscipopt", "onnx_graphsurgeon", "PIL"}


def _imported(program: str, env: Mapping[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sorted(sys.modules), file=sys.stderr)"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


def test_help_imports_nothing_heavy(environment) -> None:
    program = (
        "from onnxprune.cli import application\n"
        "for arguments in (['--help'], ['prune', '--help'], ['inspect', '--help']):\n"
        "    try: application()(arguments)\n"
        "    except SystemExit as end: assert end.code == 0"
    )
    modules = _imported(program, environment())
    assert "onnxprune.cli.prune" in modules
    assert not HEAVY & modules


def test_looking_at_a_model_imports_no_solver(environment) -> None:
    """What lists the groups of a pattern, and what puts a result into a sentence, brought the programs along."""
    model = Path(__file__).parents[2] / "models" / "lenet5_mnist.onnx"
    program = (
        "from onnxprune.cli import application\n"
        f"try: application()(['inspect', {str(model)!r}])\n"
        "except SystemExit as end: assert end.code == 0"
    )
    modules = _imported(program, environment())
    assert "onnxprune.report.terminal" in modules
    assert not {"torch", "scipy", "pyscipopt", "onnxprune.latency", "pydantic"} & modules


def test_package_imports_nothing_heavy(environment) -> None:
    assert not HEAVY & _imported("import onnxprune; onnxprune.__version__", environment())


def test_public_names_are_there() -> None:
    import onnxprune

    for name in onnxprune.__all__:
        assert getattr(onnxprune, name) is not None
    assert not hasattr(onnxprune, "no_such_name")


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_help_is_whole_at_any_width(environment, columns: int) -> None:
    """At 40 columns the boxes cut their text: `Calib…`, `input…`."""
    command = [sys.executable, "-m", "onnxprune", "prune", "--help"]
    env = {**environment(), "COLUMNS": str(columns)}
    text = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "…" not in text
    assert "Calibration" in text

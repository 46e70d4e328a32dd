"""Runs the command line as a user does: as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnxprune", *map(str, arguments)]


def _environment(**changes: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """The command line as arguments of a process."""
    return _command


@pytest.fixture(scope="session")
def environment() -> Callable[..., Mapping[str, str]]:
    """This process' environment without what changes colours."""
    return _environment


@pytest.fixture(scope="session")
def schema() -> Mapping[str, object]:
    return json.loads((ROOT / "docs" / "report-schema.json").read_text())


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cli")

    def start(*arguments: object, cwd: Path = folder, **changes: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            _command(*arguments), cwd=cwd, env=_environment(**changes), capture_output=True, text=True, check=False
        )

    return start


@pytest.fixture(scope="session")
def lenet() -> Path:
    return MODELS / "lenet5_mnist.onnx"


@pytest.fixture(scope="session")
def calibration() -> Path:
    return MODELS / "mnist_calibration.npz"


@pytest.fixture(scope="session")
def digits() -> Path:
    return MODELS / "mnist_test.npz"

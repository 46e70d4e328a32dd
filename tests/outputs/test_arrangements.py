"""It makes no difference how a detector's output is arranged: the same channels go, as much is found again."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from blobs import detector, images

import onnxprune
from onnxprune.api.result import PruneResult

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NAMES = ("two outputs", "scores first", "transposed", "boxes scaled", "all scaled")


def pruned(model: onnx.ModelProto) -> PruneResult:
    return onnxprune.prune(
        model, images(60, seed=3)[0], evaluation=images(60, seed=4)[0], targets="macs=0.6", time=False
    )


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        return importlib.import_module("check_arrangements")


@pytest.fixture(scope="module")
def plain() -> PruneResult:
    return pruned(detector())


def shares(result: PruneResult) -> dict[str, float]:
    return {group.name: group.kept / group.units for group in result.groups}


def test_all_arrangements_of_the_tool_are_tried(tool: ModuleType) -> None:
    assert set(NAMES) == set(tool.ARRANGEMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_an_arrangement_makes_no_difference(name: str, tool: ModuleType, plain: PruneResult) -> None:
    arrangement = tool.Arrangement(detector(), 1, 4)
    tool.ARRANGEMENTS[name](arrangement)
    onnx.checker.check_model(arrangement.model, full_check=True)
    result = pruned(arrangement.model)
    assert result.metrics["found_again"].after == pytest.approx(plain.metrics["found_again"].after, abs=0.02)
    before, after = shares(plain), shares(result)
    assert min(before.values()) < 0.9
    assert {name: round(share, 2) for name, share in after.items()} == pytest.approx(before, abs=0.05)


def test_the_tool_tells_what_differs(tmp_path: Path) -> None:
    """Where the boxes do not come first, what it calls boxes are no boxes."""
    onnx.save(detector(), tmp_path / "detector.onnx")
    np.savez(tmp_path / "rows.npz", image=images(30, seed=3)[0])
    options = ["--data", "rows.npz", "--boxes", "3", "--only", "two outputs", "--only", "all scaled"]
    command = [sys.executable, TOOLS / "check_arrangements.py", "detector.onnx", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    plain, *others = done.stdout.splitlines()
    assert "found again" in plain
    assert others[0].endswith("not taken for boxes beside scores")
    assert others[1].endswith("shares within 0.0 points")

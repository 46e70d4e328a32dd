"""The commands of the guides run, on small models with the names that the page uses."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from commands import PAGES, ROOT, blocks
from stand_ins import network, write_all

GUIDES = [block for block in blocks(ROOT / "docs" / "guides.md") if block.is_run and block.kind in ("sh", "python")]
NEEDS = {
    "--distill": "torch",
    "torch.onnx": "torch",
    "finetune": "torch",
    "convert_float_to_float16": "onnxruntime.transformers.float16",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guides take for given."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("docs", "tools", "models"):
        (folder / name).symlink_to(ROOT / name)
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> Mapping[str, str]:
    """A shell that finds the command and the interpreter."""
    programs = folder / "programs"
    programs.mkdir()
    for name, line in {"onnxprune": f"{sys.executable} -m onnxprune", "python": sys.executable}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("block", GUIDES, ids=lambda block: block.text.split("\n")[0][:70])
def test_a_guide_runs(block, folder: Path, environment: Mapping[str, str]) -> None:
    for word, module in NEEDS.items():
        if word in block.text:
            pytest.importorskip(module, reason=f"{word} needs {module}", exc_type=ImportError)
    if block.kind == "python":
        onnx.save(network(), folder / "small.onnx")
    line = ["bash", "-euc", block.text] if block.kind == "sh" else [sys.executable, "-c", block.text]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def on_shipped_models() -> list[str]:
    """Documented commands that read nothing but what ships."""
    lines = {line for page in PAGES for block in blocks(page) if block.kind == "sh" for line in block.commands}
    return sorted(line for line in lines if line.startswith("onnxprune") and "models/" in line)


@pytest.mark.parametrize("line", on_shipped_models())
def test_a_command_on_shipped_models_runs(line: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euc", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "MACs" in done.stderr


@pytest.mark.parametrize(
    "block", [b for b in blocks(ROOT / "README.md") if b.kind == "python"], ids=lambda block: block.name
)
def test_snippets_of_the_readme_run(block, folder: Path, environment: Mapping[str, str]) -> None:
    line = [sys.executable, "-c", block.text]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_most_guides_are_run() -> None:
    every = [block for block in blocks(ROOT / "docs" / "guides.md") if block.kind == "sh"]
    assert len([block for block in every if not block.is_run]) < len(every) / 3

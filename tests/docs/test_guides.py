"""The commands and snippets of the documentation run, on small models with the names that the pages use."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from commands import PAGES, ROOT, Block, blocks, outside_fences
from stand_ins import network, write_all

ELSEWHERE = {"CONTRIBUTING.md", "python.md"}  # test_contributing.py and test_python_page.py run these
EVERY = [block for page in PAGES for block in blocks(page) if block.kind in ("sh", "python")]
RUN = [block for block in EVERY if block.is_run and block.page.name not in ELSEWHERE]
NEEDS = {
    "--distill": "torch",
    "torch.onnx": "torch",
    "finetune": "torch",
    "convert_float_to_float16": "onnxruntime.transformers.float16",
}
PLACEHOLDERS = {
    r"\b(MODEL|A|ORIGINAL)\.onnx": "model.onnx",
    r"\b(OTHER|B|SMALL)\.onnx": "other.onnx",
    r"\bCALIB(RATION)?(\.npz)?\b": "inputs.npy",
    r"\b(EVAL|LABELLED|TRAINING)(\.npz)?\b": "labelled.npz",
    r"-o DIR\b": "-o swept",
    r"--importance NAME": "--importance magnitude",
    r"--json FILE": "--json found.json",
    r" \.\.\.": "",
    r"\[(?=--)|(?<=\S)\](?=\s|$)": "",
}


def runnable(block: Block) -> str:
    """A block with names of files for what stands for any, and with all that is optional."""
    text = block.text
    for pattern, name in PLACEHOLDERS.items() if block.kind == "sh" else ():
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text


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
    command = f"{sys.executable} -m onnxprune"
    for name, line in {"onnxprune": command, "python": sys.executable, "pip": "true"}.items():  # it is installed
        (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_a_block_runs(block: Block, folder: Path, environment: Mapping[str, str]) -> None:
    for word, module in NEEDS.items():
        if word in block.text:
            pytest.importorskip(module, reason=f"{word} needs {module}", exc_type=ImportError)
    if "| jq" in block.text and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    if block.kind == "python":
        onnx.save(network(), folder / "small.onnx")
    line = ["bash", "-euc", runnable(block)] if block.kind == "sh" else [sys.executable, "-c", block.text]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_run_is_little_and_no_command_hides() -> None:
    """A block that no test runs says why in the page's source."""
    assert [line for page in PAGES for line in outside_fences(page)] == []
    assert len([block for block in EVERY if not block.is_run]) < len(EVERY) / 3

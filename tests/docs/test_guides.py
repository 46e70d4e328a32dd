"""The commands of the guides run, on small models with the names that the page uses."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import PAGES, ROOT, blocks

from onnxprune.ops.examples import example

GUIDES = [block for block in blocks(ROOT / "docs" / "guides.md") if block.is_run and block.kind in ("sh", "python")]
NEEDS = {
    "--distill": "torch",
    "torch.onnx": "torch",
    "finetune": "torch",
    "convert_float_to_float16": "onnxruntime.transformers.float16",
}
RNG = np.random.default_rng(0)


def network(*, half: bool = False, wide: int = 16) -> onnx.ModelProto:
    kind = "float16" if half else "float"
    proto = example(
        f"""g ({kind}[N,3,8,8] x) => ({kind}[N,4] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        d = Relu (c)
        p = GlobalAveragePool (d)
        f = Flatten (p)
        h = Gemm <transB = 1> (f, w3)
        r = Relu (h)
        y = Gemm <transB = 1> (r, w4) }}""",
        {} if half else {"w1": (wide, 3, 3, 3), "w2": (wide, wide, 3, 3), "w3": (wide, wide), "w4": (4, wide)},
        {
            name: (RNG.standard_normal(shape) / 4).astype(np.float16)
            for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16), "w4": (4, 16)}.items()
        }
        if half
        else {},
    )
    for node, name in {0: "/stem/Conv", 2: "/layer1/Conv", 6: "/head/hidden", 8: "/head/out"}.items():
        proto.graph.node[node].name = name
    return proto


def detector() -> onnx.ModelProto:
    return example(
        """g (float[N,3,8,8] images) => (float[N,6,64] y) {
        a = Conv <pads = [1, 1, 1, 1]> (images, w1)
        b = Relu (a)
        boxes = Conv (b, w2)
        logits = Conv (b, w3)
        scores = Sigmoid (logits)
        both = Concat <axis = 1> (boxes, scores)
        y = Reshape (both, shape) }""",
        {"w1": (16, 3, 3, 3), "w2": (4, 16, 1, 1), "w3": (2, 16, 1, 1)},
        {"shape": np.array([0, 6, 64])},
    )


def encoder() -> onnx.ModelProto:
    """Tokens through one feed-forward layer, averaged over those that the mask names."""
    return example(
        """g (int64[N,S] ids, float[N,S] mask) => (float[N,3] scores) {
        e = Gather (table, ids)
        h = MatMul (e, w1)
        r = Relu (h)
        o = MatMul (r, w2)
        m = Unsqueeze (mask, last)
        k = Mul (o, m)
        s = ReduceMean <axes = [1], keepdims = 0> (k)
        scores = Gemm <transB = 1> (s, w3) }""",
        {"table": (50, 8), "w1": (8, 16), "w2": (16, 8), "w3": (3, 8)},
        {"last": np.array([-1])},
    )


def tagger() -> onnx.ModelProto:
    return example(
        """g (float[N,6,4] x) => (float[N,6,3] y) {
        t = Transpose <perm = [1, 0, 2]> (x)
        s, last = LSTM <hidden_size = 8> (t, w, r)
        q = Squeeze (s, one)
        b = Transpose <perm = [1, 0, 2]> (q)
        y = MatMul (b, w2) }""",
        {"w": (1, 32, 4), "r": (1, 32, 8), "w2": (8, 3)},
        {"one": np.array([1])},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guides take for given."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("docs", "tools", "models"):
        (folder / name).symlink_to(ROOT / name)
    onnx.save(network(), folder / "model.onnx")
    onnx.save(network(half=True), folder / "half.onnx")
    onnx.save(network(wide=24), folder / "large.onnx", save_as_external_data=True, size_threshold=0)
    onnx.save(detector(), folder / "detector.onnx")
    onnx.save(encoder(), folder / "encoder.onnx")
    onnx.save(tagger(), folder / "tagger.onnx")
    images = RNG.standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.save(folder / "inputs.npy", images)
    np.savez(folder / "labelled.npz", x=images, y=np.arange(64) % 4)
    np.savez(folder / "images.npz", images=images)
    ids = RNG.integers(0, 50, (64, 32))
    np.savez(folder / "tokens.npz", ids=ids, mask=np.ones((64, 32), np.float32))
    np.savez(folder / "sequences.npz", x=RNG.standard_normal((64, 6, 4)).astype(np.float32))
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

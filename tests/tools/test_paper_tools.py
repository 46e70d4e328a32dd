"""The tools that train the shipped models and repeat the paper, on small made-up data."""

import gzip
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="the tools train networks in torch")

TOOLS = Path(__file__).resolve().parents[2] / "tools"
_PARTS = {"train-images-idx3": 0, "train-labels-idx1": 1, "t10k-images-idx3": 2, "t10k-labels-idx1": 3}


def write_idx(path: Path, array: np.ndarray) -> None:
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of 28x28 images in which the class is easy to see: a bright row or a bright column a class."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("mnist", "fashion_mnist"):
        (folder / name).mkdir()
        arrays = []
        for rows, seed in ((1440, 0), (2200, 1)):
            rng = np.random.default_rng(seed)
            y = np.arange(rows, dtype=np.uint8) % 10
            x = rng.integers(0, 90, (rows, 28, 28)).astype(np.uint8)
            band = (np.arange(28) // 2)[None] == y[:, None] + 2
            x[band if name == "mnist" else np.broadcast_to(band[:, None], x.shape)] += 150
            arrays += [x, y]
        for part, index in _PARTS.items():
            write_idx(folder / name / f"{part}-ubyte.gz", arrays[index])
    return folder


def run(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOOLS.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_models_rows_and_manifest_are_made(data: Path, tmp_path: Path) -> None:
    run(TOOLS / "make_models.py", "--data", data / "mnist", "--out", tmp_path, "--epochs", "3")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["network"] for entry in manifest["models"]] == ["lenet5", "fc3"]
    for entry in manifest["models"]:
        model = onnx.load(tmp_path / entry["file"])
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        assert entry["top1_test"] > 0.5
    with np.load(tmp_path / "mnist_test.npz") as held:
        assert np.bincount(held["y"]).tolist() == [200] * 10


def test_images_take_the_shape_of_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    images = importlib.import_module("paper.images").Images
    rng = np.random.default_rng(0)
    y = np.zeros(6, np.int64)
    grey, colour = (rng.integers(0, 256, (6, *shape)).astype(np.uint8) for shape in ((28, 28), (32, 32, 3)))
    grey, colour = images("mnist", grey, y, grey, y), images("cifar10", colour, y, colour, y)

    small = colour.shaped_as(grey)
    assert small.train_x.shape == (6, 28, 28)
    luma = colour.train_x[:, 2:30, 2:30] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(small.train_x, luma, atol=0.51)
    scaled = small.scaled(small.train_x).numpy()
    assert scaled.shape == (6, 1, 28, 28)
    assert abs(scaled.mean()) < 1e-3
    assert abs(scaled.std() - 1) < 1e-2

    large = grey.shaped_as(colour)
    assert large.train_x.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(large.train_x[:, 2:30, 2:30], np.repeat(grey.train_x[..., None], 3, axis=3))
    assert large.train_x.sum() == 3 * grey.train_x.astype(np.int64).sum()  # black around them
    assert grey.shaped_as(grey).mean == grey.mean


@pytest.mark.slow
def test_the_papers_protocol_ends_in_a_document(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper.md"
    options = ("--datasets", "mnist", "--networks", "fc3", "--seeds", "0", "--epochs", "1", "mnist=4", "--threads", "1")
    options = (*options, "--transfer-epochs", "3")
    out.write_text("# Old\n\n<!-- Below: by hand. -->\n\n## Deep networks\n")
    run(TOOLS / "reproduce_paper.py", "--data", data, *options, "--work", tmp_path, "--out", out)
    (results,) = tmp_path.glob("*results.json")
    found = json.loads(results.read_text())
    assert found["original"] > 0.8
    assert 0 < found["removed"] < 1
    assert found["critical"] <= found["pruned"] + 0.05
    assert found["to fashion_mnist in 3 epochs"] > 0.5
    text = out.read_text()
    assert "| **MNIST, FC-3** |" in text
    assert re.search(r"^\| FC-3: MNIST to Fashion-MNIST \|.*\| 3, 1 \|$", text, re.MULTILINE)
    assert "| 1,440, 4, 1 |" in text
    assert "# Old" not in text
    assert text.endswith("<!-- Below: by hand. -->\n\n## Deep networks\n")
    results.write_text(json.dumps(found | {"repaired": 0.0}))
    for plan in tmp_path.glob("*plan.json"):
        plan.unlink()  # as in folders of earlier versions
    run(TOOLS / "reproduce_paper.py", "--data", data, *options, "--work", tmp_path, "--out", out, "--repair-again")
    assert json.loads(results.read_text()) == pytest.approx(found)


AGAIN = ", drawn with replacement among scores above 0"


@pytest.mark.slow
def test_the_variations_end_in_a_document_and_a_figure(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "variations.md"
    models = TOOLS.parent / "models"
    few = ("--networks", "fc3", "--images", "random:10", "per-class:1", "--lambdas", "5", "--shares", "0.7", "0.3")
    run(TOOLS / "vary_paper.py", "--data", data / "mnist", "--models", models, *few, "--out", out)
    lines = [line.split("|") for line in out.read_text().splitlines() if line.startswith("|") and "--" not in line]
    named = {cells[1].strip(): [cell.strip() for cell in cells[2:5]] for cells in lines}
    assert {"ours", "affine, with rows", "ours, as they count it", "random:10", "per-class:1", "5"} <= named.keys()
    assert named["ours"][1] == named["affine, with rows"][1]  # one optimum, one removal
    assert 0 < float(named["ours, as they count it"][1]) < float(named["ours"][1])
    random, again = (named[f"as many random units{rest}"] for rest in (" a layer", AGAIN))
    assert float(random[1]) == pytest.approx(float(named["ours"][1]), abs=0.5)
    assert float(again[1]) < float(random[1])  # some are drawn twice
    figure = ET.parse(tmp_path / "paper-fc-3.svg").getroot()
    curves = [line for line in figure.iter() if line.tag.endswith("polyline")]
    assert len(curves) == 5
    for line in curves:
        xs = [float(point.split(",")[0]) for point in line.attrib["points"].split()]
        assert xs == sorted(xs)
        assert len(xs) == 2
    # Rows and figures that a run does not make stay.
    before = out.read_text()
    (box,) = (line for line in before.splitlines() if line.startswith("| input box clamped |"))
    out.write_text(before.replace(box, "| input box clamped | 1 | 2 | 3 |"))
    none = ("--choices", "input box clamped", "--images", "--lambdas", "--shares")
    run(TOOLS / "vary_paper.py", "--data", data / "mnist", "--models", models, "--networks", "fc3", *none, "--out", out)
    assert re.sub(r"clamped \|.*", "", out.read_text()) == re.sub(r"clamped \|.*", "", before)
    assert box.rpartition("|")[0].rpartition("|")[0] in out.read_text()  # all but the seconds

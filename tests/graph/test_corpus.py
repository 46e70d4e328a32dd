"""Real files that nobody here made: each is analysed, pruned at random, held against the oracle and recounted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune.core.errors import ModelError
from onnxprune.structure.coupling import analyze

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "corpus.json").read_text())
REFUSED = "omlt/maxpool_2d.onnx"

Find = Callable[[str], Path]


@pytest.mark.parametrize("name", GOLDEN)
def test_pruned_equals_masked(name: str, corpus_path: Find) -> None:
    path = corpus_path(f"models/{name}")
    before = path.read_bytes()
    a = analysed(path)
    for seed in range(2):
        check_removal(a, random_removal(a, 0.2, np.random.default_rng(seed)), seed)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", GOLDEN)
def test_prunable_share(name: str, corpus_path: Find) -> None:
    analysis = analyze(corpus_path(f"models/{name}"))
    assert analysis.prunable >= GOLDEN[name]["prunable"]
    assert analysis.prunable == analysis.total or analysis.not_pruned


def test_the_golden_file_knows_every_model(corpus_path: Find) -> None:
    folder = corpus_path("models")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")}
    assert found == {*GOLDEN, REFUSED}


def test_contradicting_shapes_are_refused(corpus_path: Find) -> None:
    with pytest.raises(ModelError, match=r"maxpool_2d\.onnx.*MaxPool.*kernel_shape"):
        analyze(corpus_path(f"models/{REFUSED}"))


@pytest.mark.parametrize(
    ("name", "removed"),
    [("yunet/yunet_n_dynamic.onnx", 0.3), ("rapidocr_onnxruntime/ch_PP-OCRv4_det_infer.onnx", 0.3)],
)
def test_other_input_sizes_than_those_of_the_analysis(name: str, removed: float, corpus_path: Find) -> None:
    a = analysed(corpus_path(f"models/{name}"), {})
    wide = dict.fromkeys(a.graph.inputs, (2, 3, 96, 160))
    b = analysed(a.model, wide)
    assert [g.name for g in a.groups] == [g.name for g in b.groups]
    check_removal(b, random_removal(a, removed, np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet20_cifar10_bn", "resnet56_cifar10_bn"])
def test_the_residual_stream_is_prunable(name: str, corpus_path: Find) -> None:
    analysis = analyze(corpus_path(f"models/cifar10_resnet_akamaster/{name}.onnx"))
    streams = [group for group in analysis.groups if len(group.consumers) > 2]
    assert sum(len(group) for group in streams) == 64
    assert {n.reason for n in analysis.not_pruned} == {"it is an output of the model"}


def test_attention_heads_are_units(corpus_path: Find) -> None:
    analysis = analyze(corpus_path("models/vnncomp2023/ibp_3_3_8.onnx"))
    heads = [group for group in analysis.groups if len(group) == 3]
    assert len(heads) == 3
    assert all(len(group.producers) >= 3 for group in heads)


def test_output_shapes_of_detectors_stay(corpus_path: Find) -> None:
    a = analysed(corpus_path("models/ultra_light_face/version-slim-320.onnx"))
    smaller = check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))
    before = {v.name: onnx.helper.printable_value_info(v) for v in a.model.proto.graph.output}
    assert {v.name: onnx.helper.printable_value_info(v) for v in smaller.proto.graph.output} == before

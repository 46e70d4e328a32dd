from pathlib import Path

import numpy as np
import pytest

from onnxprune import prune
from onnxprune.graph.load import load
from onnxprune.ops.contrib_attention import Attention, MultiHeadAttention
from onnxprune.ops.examples import example
from onnxprune.report.text import units_in_words
from onnxprune.structure.coupling import analyse
from onnxprune.structure.heads import head_groups


@pytest.mark.parametrize("handler", [Attention(), MultiHeadAttention()])
def test_whole_attention_has_heads_and_layers_have_channels(handler) -> None:
    analysis = analyse(load(next(handler.examples())))
    heads = head_groups(analysis)
    assert {len(group) for group in analysis.groups if group.name in heads} == {4}
    assert all(len(group) != 4 for group in analysis.groups if group.name not in heads)


def test_a_convolution_has_no_heads() -> None:
    model = load(Path(__file__).resolve().parents[2] / "models" / "lenet5_mnist.onnx")
    assert head_groups(analyse(model)) == frozenset()


def test_heads_are_called_heads() -> None:
    """A report spoke of 336 of 520 channels where 8 of them were attention heads."""
    text = """g (float[N,5,6] x) => (float[N,5,3] y) {
        grid = Constant <value = int64[4] {0, 0, 4, 2}> ()
        flat = Constant <value = int64[3] {0, 0, 8}> ()
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        qr = Reshape (q, grid)
        kr = Reshape (k, grid)
        vr = Reshape (v, grid)
        qh = Transpose <perm = [0, 2, 1, 3]> (qr)
        kh = Transpose <perm = [0, 2, 3, 1]> (kr)
        vh = Transpose <perm = [0, 2, 1, 3]> (vr)
        s = MatMul (qh, kh)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, vh)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)
        a = Reshape (ot, flat)
        h = MatMul (a, w1)
        y = MatMul (h, w2) }"""
    proto = example(text, {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "w1": (8, 16), "w2": (16, 3)})
    rows = np.random.default_rng(0).standard_normal((16, 5, 6)).astype(np.float32)
    options = {"importance": "magnitude", "repair": False, "round_to": 1, "time": False, "targets": "params=0.5"}
    result = prune(proto, rows, **options)
    assert {group.name: group.kind for group in result.groups} == {"q": "head", "h": "channel"}
    heads, channels = (sum(group.kept for group in result.groups if group.kind == kind) for kind in ("head", "channel"))
    assert units_in_words(result.groups, "stay") == f"{channels} of 16 channels and {heads} of 4 heads stay"

"""The picture of a network: blocks and branches from a real graph, and what is drawn of them."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import prune
from onnxprune.core.results import LayerCost, RemovedBlock
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.report.depth import Block, blocks
from onnxprune.report.picture import network_picture

RESIDUAL = """g (float[N,3,4,4] x) => (float[N,8,4,4] y) {
    a = Conv (x, w1)
    b = Conv (a, w2)
    r = Relu (b)
    c = Conv (r, w3)
    s = Add (a, c)
    y = Conv (s, w4) }"""
WEIGHTS = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (8, 8, 1, 1), "w4": (8, 8, 1, 1)}


@pytest.fixture(scope="module")
def pruned():
    rows = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    proto: onnx.ModelProto = example(RESIDUAL, WEIGHTS)
    return prune(proto, rows, importance="magnitude", repair=False, round_to=1, targets="macs=0.5", time=False)


def test_branches_part_and_meet_as_in_the_graph(pruned) -> None:
    found = {block.name: block for block in blocks(pruned)}
    names = [block.name for block in blocks(pruned)]
    follows = {block.name: {names[n] for n in block.sources} for block in found.values()}
    assert follows == {"x": set(), "a": {"x"}, "b": {"a"}, "c": {"b"}, "s": {"a", "c"}, "y": {"s"}}
    assert [found[name].depth for name in ("x", "a", "b", "c", "s", "y")] == [0, 1, 2, 3, 4, 5]
    assert found["a"].before == 8
    assert {name for name, block in found.items() if block.is_layer} == {"a", "b", "c", "y"}
    kept = {layer.node: (layer.width_before, layer.width_after) for layer in pruned.layers}
    assert all((block.before, block.after) == kept[name] for name, block in found.items() if block.is_layer)


def test_a_block_that_went_is_cut_out(pruned) -> None:
    cut = dataclasses.replace(pruned, removed_blocks=(RemovedBlock("b", ("b", "r", "c", "s")),))
    drawn = network_picture(blocks(cut), {})
    assert drawn.count('class="cutout"') == 2
    assert "b (Conv): cut out" in drawn
    assert 'class="join cut"' in drawn


def test_paths_that_only_carry_shapes_are_no_branches() -> None:
    graph = """g (float[N,3,4,4] x) => (float[N,8,16] y) {
        i = Constant <value = int64[1] {0}> ()
        j = Constant <value = int64[2] {8, 16}> ()
        a = Conv (x, w1)
        h = Shape (x)
        n = Gather (h, i)
        d = Concat <axis = 0> (n, j)
        y = Reshape (a, d) }"""
    model = load(example(graph, {"w1": (8, 3, 1, 1)}))
    layers = (LayerCost("a", "Conv", 1, 1, 1, 1, 8, 8),)
    found = blocks(SimpleNamespace(original=model, layers=layers, removed_blocks=()))  # type: ignore[arg-type]
    assert [block.name for block in found] == ["x", "a"]


def test_long_names_say_what_tells_layers_apart() -> None:
    """All layers of an encoder were called /t/la…tMul."""
    names = ("/t/layers.0/self_attn/MatMul", "/t/layers.0/linear1/MatMul_1", "model/dense/Conv2D", "x" * 40, "/h/Conv")
    kinds = ("MatMul", "MatMul", "Conv", "Conv", "Conv")
    made = [
        Block(name, kind, 8, 8, True, False, (n - 1,) if n else (), n)
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    drawn = network_picture(made, {})
    told = re.findall(r'class="mono">([^<]*)<', drawn)
    assert told == ["self_attn", "linear1", "model/dense", f"{'x' * 6}…{'x' * 5}", "/h/Conv"]


def test_without_the_graph_layers_form_a_chain(result) -> None:
    found = blocks(result(groups=4))
    assert [block.depth for block in found] == [0, 1, 2, 3]
    assert {block.lane for block in found} == {0}


@given(st.integers(1, 700), st.integers(1, 4))
def test_every_layer_is_within_the_picture(number: int, lanes: int) -> None:
    made = [
        Block(f"n{n}", "Conv", 64, 32, True, False, (n - lanes,) if n >= lanes else (), n // lanes, n % lanes)
        for n in range(number)
    ]
    drawn = network_picture(made, {})
    width, height = map(float, re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn).groups())
    boxes = re.findall(r'<rect y="([0-9.-]+)" height="([0-9.]+)" class="whole" x="([0-9.-]+)" width="([0-9.]+)"', drawn)
    assert len(boxes) == number
    for y, high, x, wide in (map(float, box) for box in boxes):
        assert y >= 0
        assert x >= 0
        assert y + high <= height
        assert x + wide <= width
    assert width / (-(-number // lanes)) >= 8

"""Fused kernels: what belongs together, what is equal, and what widths mean."""

import numpy as np
import onnx
import pytest

from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import read_graph
from onnxprune.latency.fused_kernels import CONSTANT, FusedKernel, fused_kernels
from onnxprune.ops.examples import example
from onnxprune.ops.recurrent import Recurrent
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.session import open_session
from onnxprune.structure.coupling import analyse

ATTENTION = """g (float[N,6,8] x) => (float[N,6,3] y) {
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    s = Shape (x)
    n = Slice (s, zero, one)
    t = Concat <axis = 0> (n, six, two, four)
    qh = Reshape (q, t)
    kh = Reshape (k, t)
    vh = Reshape (v, t)
    qt = Transpose <perm = [0, 2, 1, 3]> (qh)
    kt = Transpose <perm = [0, 2, 3, 1]> (kh)
    vt = Transpose <perm = [0, 2, 1, 3]> (vh)
    scores = MatMul (qt, kt)
    p = Softmax <axis = -1> (scores)
    o = MatMul (p, vt)
    ot = Transpose <perm = [0, 2, 1, 3]> (o)
    u = Concat <axis = 0> (n, six, eight)
    joined = Reshape (ot, u)
    y = MatMul (joined, wo) }"""


def attention() -> onnx.ModelProto:
    weights = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 3)}
    numbers = {"zero": 0, "one": 1, "two": 2, "four": 4, "six": 6, "eight": 8}
    return example(ATTENTION, weights, {name: np.array([number]) for name, number in numbers.items()})


def in_doubles() -> onnx.ModelProto:
    text = "g (double[N,6] x) => (double[N,3] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }"
    return example(text, constants={"w": np.full((6, 8), 0.5), "v": np.full((8, 3), 0.5)})


def cut(model: Model) -> tuple[FusedKernel, ...]:
    return fused_kernels(analyse(model))


def test_a_site_holds_what_onnxruntime_fuses(network: Model) -> None:
    found = cut(network)
    assert [kernel.nodes for kernel in found] == [
        ("stem", "stem.relu"),
        *(run for n in range(3) for run in [(f"a{n}", f"a{n}.relu"), (f"b{n}", f"add{n}", f"add{n}.relu")]),
        ("pool",),
        ("flat",),
        ("fc",),
    ]


def test_equal_blocks_share_a_key(network: Model) -> None:
    keys = {kernel.nodes[0]: kernel.key for kernel in cut(network)}
    assert keys["a0"] == keys["a1"] == keys["a2"]
    assert keys["b0"] == keys["b1"]
    assert keys["a0"] != keys["b0"]  # one has an Add


def test_widths_reach_the_small_model(network: Model) -> None:
    analysis = analyse(network)
    names = [group.name for group in analysis.groups]
    kept = [len(group) for group in analysis.groups]
    kept[names.index("stem")], kept[names.index("a1")] = 12, 5
    kernel = next(kernel for kernel in cut(network) if kernel.nodes[0] == "a1")
    assert kernel.widths(kept) == (12, 5)
    small = kernel.at((12, 5))
    assert (5, 12, 3, 3) in [array.shape for array in small.constants.values()]
    feed = random_feed(small)
    outputs = open_session(small, engine=ONE_CORE).run(None, feed)
    assert all(np.isfinite(output).all() for output in outputs)


def test_every_site_of_the_shipped_models_runs_at_least_width() -> None:
    for path in ("models/lenet5_mnist.onnx", "models/fc3_mnist.onnx"):
        model = load(path)
        analysis = analyse(model)
        for kernel in cut(model):
            small = kernel.at(kernel.widths([1] * len(analysis.groups)))
            outputs = open_session(small, engine=ONE_CORE).run(None, random_feed(small))
            assert all(np.isfinite(output).all() for output in outputs)


def test_a_flattened_group_counts_once_per_position() -> None:
    model = load("models/lenet5_mnist.onnx")
    analysis = analyse(model)
    kernel = next(kernel for kernel in cut(model) if "/fc1/Gemm" in kernel.nodes)
    kept = [len(group) for group in analysis.groups]
    index = next(n for n, group in enumerate(analysis.groups) if "/fc1/Gemm" in group.consumers)
    per_unit = 400 // kept[index]
    kept[index] = 3
    assert kernel.widths(kept)[0] == 3 * per_unit


def test_groups_that_share_an_axis_add_up() -> None:
    """Two branches concatenated before a convolution."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,8,8] x) => (float[1,2,8,8] y)
    <float[4,3,1,1] wa, float[6,3,1,1] wb, float[5,10,1,1] wc, float[2,5,1,1] wd> {
      a = Conv(x, wa)
      b = Conv(x, wb)
      c = Concat<axis=1>(a, b)
      d = Conv(c, wc)
      y = Conv(d, wd)
    }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    shapes = {"wa": (4, 3, 1, 1), "wb": (6, 3, 1, 1), "wc": (5, 10, 1, 1), "wd": (2, 5, 1, 1)}
    del proto.graph.initializer[:]
    for name, shape in shapes.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.random(shape, np.float32), name))
    model = load(proto)
    analysis = analyse(model)
    kernel = next(
        kernel
        for kernel in cut(model)
        if "d" in {n.outputs[0] for n in read_graph(model).nodes if n.name in kernel.nodes}
    )
    kept = {"a": 3, "b": 2, "d": 4}
    by_tensor = {group.producers[0]: n for n, group in enumerate(analysis.groups)}
    order = [kept[name] for name, _ in sorted(by_tensor.items(), key=lambda item: item[1])]
    assert sorted(kernel.widths(order)) == [4, 5]


@pytest.mark.parametrize("proto", [attention(), in_doubles(), *Recurrent().examples()])
def test_every_group_that_a_node_meets_is_a_width_of_its_kernel(proto: onnx.ModelProto) -> None:
    """Layers with states of zeros, reshapes and products with keys were not timed: time was said to lie elsewhere."""
    analysis = analyse(load(proto))
    group_of = {int(unit): g for g, group in enumerate(analysis.groups) for unit in group.units}
    found = {name: kernel for kernel in fused_kernels(analysis) for name in kernel.nodes}
    assert analysis.groups
    for node in analysis.graph.nodes:
        if all(analysis.pinned_value(name) is not None for name in node.inputs if name) or node.name == "k":
            continue  # it only makes a tensor of some size, or joins what only a later node tells apart
        axes = [ids for name in (*node.inputs, *node.outputs) for ids in analysis.labels.get(name, ())]
        met = {group_of[unit] for ids in axes if ids is not None for unit in ids.tolist() if unit in group_of}
        timed = {g for form in found[node.name].forms for g in form} if node.name in found else set()
        assert met <= timed - {CONSTANT}, node.name


@pytest.mark.parametrize("proto", [attention(), in_doubles(), *Recurrent().examples()])
def test_kernels_of_layers_with_sizes_run_at_least_width(proto: onnx.ModelProto) -> None:
    analysis = analyse(load(proto))
    for kernel in fused_kernels(analysis):
        small = kernel.at(kernel.widths([1] * len(analysis.groups)))
        outputs = open_session(small, engine=ONE_CORE).run(None, random_feed(small))
        assert all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f")

"""The widths that groups may be given: by the kernels' rule, by number, and finer where a budget needs it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.allocation.widths import Widths
from onnxprune.core.errors import BudgetError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.ops.traits import ChannelUse
from onnxprune.structure.coupling import analyse
from onnxprune.structure.kernels import STEPS, kernel_steps

# Convolutions, depthwise and grouped ones, pools, a Concat, dense layers.
MIXED = """g (float[N,3,16,16] x) => (float[N,10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa)
    b = Relu (a)
    c = Conv (b, wc)
    d = Conv <group = 96, pads = [1, 1, 1, 1]> (c, wd)
    e = Relu (d)
    f = Conv (e, wf)
    g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
    h = Conv <group = 2> (g, wh)
    i = Conv (g, wi)
    j = Concat <axis = 1> (h, i)
    k = Conv (j, wk)
    l = GlobalAveragePool (k)
    m = Flatten (l)
    n = Gemm (m, wn)
    o = Relu (n)
    y = Gemm (o, wo) }"""
SIZES = {"a": 48, "c": 96, "f": 64, "h": 64, "i": 80, "k": 128, "n": 256}


def mixed() -> onnx.ModelProto:
    weights = {
        "wa": (SIZES["a"], 3, 3, 3),
        "wc": (SIZES["c"], SIZES["a"], 1, 1),
        "wd": (SIZES["c"], 1, 3, 3),
        "wf": (SIZES["f"], SIZES["c"], 1, 1),
        "wh": (SIZES["h"], SIZES["f"] // 2, 1, 1),
        "wi": (SIZES["i"], SIZES["f"], 1, 1),
        "wk": (SIZES["k"], SIZES["h"] + SIZES["i"], 1, 1),
        "wn": (SIZES["k"], SIZES["n"]),
        "wo": (SIZES["n"], 10),
    }
    return example(MIXED, weights)


def reorders(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Changes of layout in the graph that onnxruntime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath)
    return Counter(node.op_type for node in optimised.graph.node if node.op_type.startswith("Reorder"))


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_pruned_models_change_layout_no_more_often_than_the_original(share, tmp_path):
    proto = mixed()
    found = onnxprune.prune(proto, importance="magnitude", targets=f"macs={share}", repair=False)
    assert found.after.macs <= share * found.before.macs
    assert found.plan.widths == "kernel cpu"
    assert reorders(found.proto, tmp_path) == reorders(proto, tmp_path)


def growing(stem: int, more: int, blocks: int = 4) -> onnx.ModelProto:
    """Blocks that each add a few channels to a stream: depthwise, pointwise, and a sum with the padded stream."""
    nodes, weights, width = ["s0 = Conv <pads = [1, 1, 1, 1]> (x, w)"], {"w": (stem, 3, 3, 3)}, stem
    pads = {"pads": np.array([0, 0, 0, 0, 0, more, 0, 0])}
    for b in range(blocks):
        nodes += [
            f"d{b} = Conv <group = {width}, pads = [1, 1, 1, 1]> (s{b}, d{b}w)",
            f"p{b} = Conv (d{b}, p{b}w)",
            f"l{b} = Pad (s{b}, pads)",
            f"a{b} = Add (p{b}, l{b})",
            f"s{b + 1} = Relu (a{b})",
        ]
        weights |= {f"d{b}w": (width, 1, 3, 3), f"p{b}w": (width + more, width, 1, 1)}
        width += more
    nodes += [f"g = GlobalAveragePool (s{blocks})", "f = Flatten (g)", "y = Gemm (f, wy)"]
    text = f"g (float[N,3,16,16] x) => (float[N,5] y) {{ {' '.join(nodes)} }}"
    return example(text, weights | {"wy": (width, 5)}, pads)


@pytest.mark.parametrize("share", [0.8, 0.7])
def test_streams_that_grow_keep_sums_that_kernels_like(share: float, tmp_path: Path) -> None:
    """Groups of 4 channels lost one each, and sums of 53 took kernels out of the blocked layout: 1.65 of the time."""
    proto = growing(48, 4)
    found = onnxprune.prune(proto, importance="magnitude", targets=f"macs={share}", repair=False)
    assert found.after.macs <= share * found.before.macs
    assert not any("no widths that the rule" in note for note in found.notes)
    assert {group.units for group in found.groups} == {48, 4}
    widths = [weight.shape[0] for name, weight in found.model.constants.items() if name.startswith("d")]
    assert len(widths) == 4
    assert all(width % 4 == 0 for width in widths)
    assert reorders(found.proto, tmp_path) == reorders(proto, tmp_path)


def test_groups_without_which_a_sum_is_odd_do_not_go_as_a_whole() -> None:
    """Blocks of a face detector went whole that left sums of 42: 1.47 of its time."""
    analysis = analyse(load(growing(24, 6, 6)))
    liked = kernel_steps(analysis, "cpu")
    assert {len(analysis.groups[g]) for g in liked.bound} == {6}
    assert kernel_steps(analyse(load(growing(24, 4, 6))), "cpu").bound == frozenset()
    assert Widths((6,), (6,), (0,), "rule", alone=((1,), (0,)), bound=frozenset({0})).finer().bound == frozenset()


def test_sums_that_kernels_do_not_like_anyway_bind_no_group() -> None:
    assert kernel_steps(analyse(load(growing(45, 4))), "cpu").steps[1:] == (1, 1, 1, 1)
    assert kernel_steps(analyse(load(growing(48, 4))), "cpu").steps[1:] == (4, 4, 4, 1)


@pytest.mark.parametrize("kernels", [*STEPS])
@pytest.mark.parametrize("widths", [(34, 34, 64), (40, 40, 64), (20, 20, 64), (36, 12, 6)])
def test_groups_side_by_side_come_free_together(kernels: str, widths: tuple[int, int, int]) -> None:
    """One stayed whole while its neighbour was halved again and again, to sums that no kernel likes."""
    a, b, d = widths
    text = """g (float[N,3,8,8] x) => (float[N,5,8,8] y) {
        a = Conv (x, wa)  b = Conv (x, wb)  c = Concat <axis = 1> (a, b)  d = Conv (c, wd)  y = Conv (d, wy) }"""
    shapes = {"wa": (a, 3, 1, 1), "wb": (b, 3, 1, 1), "wd": (d, a + b, 1, 1), "wy": (5, d, 1, 1)}
    analysis = analyse(load(example(text, shapes)))
    sizes = [len(group) for group in analysis.groups]
    for sums in (True, False):
        liked = kernel_steps(analysis, kernels, sums=sums)
        assert all(
            step <= size and floor <= size for step, floor, size in zip(liked.steps, liked.floors, sizes, strict=True)
        )
        assert all(
            floor % step == 0 or floor == size
            for step, floor, size in zip(liked.steps, liked.floors, sizes, strict=True)
        )
    found = onnxprune.prune(
        example(text, shapes), importance="magnitude", targets="macs=0.2", repair=False, kernels=kernels, time=False
    )
    assert found.after.macs <= 0.2 * found.before.macs
    if a == b:
        assert len({group.kept == group.units for group in found.groups if group.units == a}) == 1


def test_steps_follow_from_where_channels_appear():
    analysis = analyse(load(mixed()))
    by_name = dict(zip((group.name for group in analysis.groups), kernel_steps(analysis, "cpu").steps, strict=True))
    # Pooled, then one half of each in a grouped convolution, whose outputs are joined with others.
    assert by_name == {"a": 4, "c": 4, "f": 16, "h": 16, "i": 16, "k": 16, "n": 16}
    assert set(kernel_steps(analysis, "cuda").steps) == {8}
    assert set(kernel_steps(analysis, "int8").steps) == {16}


def test_every_target_has_a_step_for_every_use():
    for steps in STEPS.values():
        assert set(steps) == set(ChannelUse)


def test_narrow_groups_mind_nothing():
    narrow = example(
        """g (float[N,3,8,8] x) => (float[N,4,1,1] y) {
        a = Conv (x, w1)
        b = MaxPool <kernel_shape = [2, 2]> (a)
        y = Conv (b, w2) }""",
        {"w1": (14, 3, 3, 3), "w2": (4, 14, 5, 5)},
    )
    assert kernel_steps(analyse(load(narrow)), "cpu").steps == (1,)


@given(st.integers(1, 400), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 400), st.sampled_from([0, 16]))
@settings(deadline=None)
def test_widths_are_multiples_or_whole(size, step, least, floor):
    widths = Widths((size,), (step,), (floor,), "rule")
    own = widths.of(0)
    assert own[-1] == size
    assert np.all(np.diff(own) > 0)
    assert all(width % step == 0 or width == size for width in own.tolist())
    chosen = widths.at_least(0, least)
    assert chosen in own
    assert chosen >= min(least, size)
    assert not any(least <= width < chosen for width in own.tolist())
    finer = widths.finer()
    assert (finer is None) == (max(step, floor) == 1)
    if finer is not None:
        assert set(own.tolist()) <= set(finer.of(0).tolist())


def test_a_budget_below_all_steps_is_met_with_finer_ones():
    proto = mixed()
    options = {"importance": "magnitude", "repair": False}
    least = onnxprune.prune(proto, targets="macs=0.12", round_to=1, **options)
    found = onnxprune.prune(proto, targets="macs=0.02", **options)
    assert found.after.macs <= 0.02 * found.before.macs
    assert any("widths are multiples of at most" in note for note in found.notes)
    assert not any("widths are multiples of at most" in note for note in least.notes)
    with pytest.raises(BudgetError, match="lower round_to"):
        onnxprune.prune(proto, targets="macs=0.02", round_to=32, **options)


def test_what_stays_for_the_kernels_sake_is_told():
    proto = mixed()
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "wc")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[:5] = 0.0  # five channels that are always zero
    weights.CopyFrom(onnx.numpy_helper.from_array(values, "wc"))
    kept = {group.name: group.kept for group in onnxprune.prune(proto, lossless=True).groups}
    assert kept["c"] == SIZES["c"] - 4
    found = onnxprune.prune(proto, lossless=True)
    assert any("1 more unit could go without loss" in note for note in found.notes)
    assert {g.name: g.kept for g in onnxprune.prune(proto, lossless=True, round_to=1).groups}["c"] == SIZES["c"] - 5


def test_widths_that_leave_much_less_than_the_budget_say_so() -> None:
    """A single group of 32 channels in steps of 16 has half of its multiply-adds where 90 % were asked for."""
    weights = {"wa": (32, 3, 3, 3), "wc": (8, 32, 1, 1)}
    model = example(
        """g (float[N,3,8,8] x) => (float[N,8] y) {
        a = Conv (x, wa)
        b = Relu (a)
        p = GlobalAveragePool (b)
        c = Conv (p, wc)
        y = Flatten (c) }""",
        weights,
    )
    options = {"importance": "magnitude", "repair": False, "time": False}
    in_steps = onnxprune.prune(model, targets="macs=0.9", **options)
    told = [note for note in in_steps.notes if "of the budget is used" in note]
    assert len(told) == 1
    assert "only 5" in told[0]
    assert "in steps of up to 16" in told[0]
    assert in_steps.after.macs < 0.6 * in_steps.before.macs
    exact = onnxprune.prune(model, targets="macs=0.9", round_to=1, **options)
    assert not [note for note in exact.notes if "of the budget is used" in note]
    rows = {"x": np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)}
    floor = onnxprune.prune(model, rows, evaluation={"x": rows["x"] + 1}, targets="macs=0.9", max_drop=100.0, **options)
    assert not [note for note in floor.notes if "of the budget is used" in note]  # the floor says how far to go

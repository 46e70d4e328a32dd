"""Layers that share their weights: the towers of a Siamese network, a head on every level of a pyramid."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration.statistics import MomentSums, pooled
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.shared import side_by_side, tied

TOWERS = """g (float[N,3,8,8] a, float[N,3,8,8] b) => (float[N,6] y) {{
    {0}
    a1 = Conv <pads = [1, 1, 1, 1]> (a, w1, c1) a2 = Relu (a1) a3 = Conv (a2, w2, c2) a4 = Relu (a3)
    a5 = GlobalAveragePool (a4) a6 = Flatten (a5) u = Gemm <transB = 1> (a6, w3, c3)
    b1 = Conv <pads = [1, 1, 1, 1]> (b, {1}w1, {1}c1) b2 = Relu (b1) b3 = Conv (b2, {1}w2, {1}c2) b4 = Relu (b3)
    b5 = GlobalAveragePool (b4) b6 = Flatten (b5) v = Gemm <transB = 1> (b6, {1}w3, {1}c3)
    d = Sub (u, v) y = Mul (d, d) }}"""
SHAPES = {"w1": (16, 3, 3, 3), "c1": (16,), "w2": (24, 16, 3, 3), "c2": (24,), "w3": (6, 24), "c3": (6,)}
ALIASES = " ".join(f"i_{name} = Identity ({name})" for name in SHAPES)


def towers(*, named_twice: bool) -> onnx.ModelProto:
    """Two images through the same layers; an exporter may give the second tower its weights by other names."""
    return example(TOWERS.format(ALIASES if named_twice else "", "i_" if named_twice else ""), SHAPES)


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = rng.standard_normal((2, count, 3, 4, 4)).repeat(2, axis=3).repeat(2, axis=4)
    return dict(zip("ab", smooth.astype(np.float32), strict=True))


def outputs(model: onnx.ModelProto | bytes, rows: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, rows)[0])


def repaired_and_not(model: onnx.ModelProto, rows: object, fresh: object) -> list[onnxprune.PruneResult]:
    """A model pruned with repair, and by the same plan without."""
    options = {"evaluation": fresh, "threads": 1, "time": False}
    result = onnxprune.prune(model, rows, targets="macs=0.6", **options)
    return [result, onnxprune.prune(model, rows, plan=result.plan, repair=False, **options)]


@pytest.mark.parametrize("named_twice", [False, True])
def test_towers_are_repaired_and_stay_one(named_twice: bool) -> None:
    """Weights that several nodes read were never repaired ("61 points less"), or came apart without a word."""
    model, rows, fresh = towers(named_twice=named_twice), images(120), images(60, 1)
    result, plain = repaired_and_not(model, rows, fresh)
    assert result.metrics["relative_error"].after < 0.8 * plain.metrics["relative_error"].after
    assert len(result.proto.graph.initializer) == len(SHAPES)
    assert result.before.params == sum(map(np.prod, SHAPES.values()))
    data = result.proto.SerializeToString()
    swapped = {"a": fresh["b"], "b": fresh["a"]}
    np.testing.assert_allclose(outputs(data, fresh), outputs(data, swapped), rtol=1e-4, atol=1e-5)
    same = {"a": fresh["a"], "b": fresh["a"]}
    assert np.abs(outputs(data, same)).max() < 1e-6
    assert not any("read the same weights" in note for note in result.notes)


def test_towers_stay_one_in_distillation() -> None:
    """Biases of shared layers were trained apart: d(a, b) and d(b, a) differed."""
    pytest.importorskip("torch", reason="the extra finetune is not installed")
    options = {"targets": "macs=0.6", "threads": 1, "time": False, "distill": 2}
    data = onnxprune.prune(towers(named_twice=False), images(120), **options).proto.SerializeToString()
    fresh = images(60, 1)
    swapped = {"a": fresh["b"], "b": fresh["a"]}
    np.testing.assert_allclose(outputs(data, fresh), outputs(data, swapped), rtol=1e-4, atol=1e-5)


def test_a_head_on_two_levels_is_fitted_to_both() -> None:
    text = """g (float[N,3,16,16] x) => (float[N,5] y) {
        s = Conv <pads = [1, 1, 1, 1]> (x, w0) t = Relu (s)
        p = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (t, w1) q = Relu (p)
        a1 = Conv (t, h1, c1) a2 = Relu (a1) a3 = Conv (a2, h2) a4 = GlobalAveragePool (a3)
        b1 = Conv (q, h1, c1) b2 = Relu (b1) b3 = Conv (b2, h2) b4 = GlobalAveragePool (b3)
        m = Add (a4, b4) y = Flatten (m) }"""
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3), "h1": (24, 16, 3, 3), "c1": (24,), "h2": (5, 24, 1, 1)}
    rng = np.random.default_rng(0)
    rows, fresh = (rng.standard_normal((count, 3, 16, 16)).astype(np.float32) for count in (100, 60))
    result, plain = repaired_and_not(example(text, shapes), rows, fresh)
    assert result.metrics["relative_error"].after < 0.8 * plain.metrics["relative_error"].after


def test_layers_that_share_a_weight_follow_each_other() -> None:
    analysis = analyse(load(towers(named_twice=False)))
    nodes, shared = side_by_side(analysis)
    made = {*analysis.graph.inputs, *analysis.model.constants}
    for node in nodes:
        assert made.issuperset(node.reads), "an order of execution"
        made.update(node.outputs)
    assert {*nodes} == {*analysis.graph.nodes}
    assert len(shared) == 3
    names = [node.name for node in nodes]
    for together in shared:
        start = names.index(together[0])
        assert tuple(names[start : start + len(together)]) == together
    assert not tied(analysis)


def test_a_block_that_feeds_itself_is_left_and_told() -> None:
    text = """g (float[N,12] x) => (float[N,4] y) {
        a = MatMul (x, w) b = Relu (a) c = MatMul (b, v) d = Relu (c) e = MatMul (d, w) f = Relu (e) h = MatMul (f, v)
        k = MatMul (h, l) r = Relu (k) y = MatMul (r, o) }"""
    shapes = {"w": (12, 20), "v": (20, 12), "l": (12, 32), "o": (32, 4)}
    analysis = analyse(load(example(text, shapes)))
    assert side_by_side(analysis) == (analysis.graph.nodes, ())
    assert len(tied(analysis)) == 4
    rows = np.random.default_rng(0).standard_normal((80, 12)).astype(np.float32)
    result = onnxprune.prune(example(text, shapes), rows, targets="params=0.8", threads=1, time=False)
    (note,) = (note for note in result.notes if "read the same weights" in note)
    assert "of 4 layers" in note


def test_moments_of_several_layers_are_those_of_all_their_rows() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((2, count, 3)) * scale + scale for count, scale in ((50, 1), (20, 4), (7, 0.5))]

    def moments(*columns: np.ndarray):
        sums = MomentSums()
        for rows in columns:
            sums.add(rows)
        return sums.finish()

    ours, whole = pooled([moments(part) for part in parts]), moments(*parts)
    np.testing.assert_allclose(ours.covariance, whole.covariance, rtol=1e-9)
    np.testing.assert_allclose(ours.mean, whole.mean, rtol=1e-9)
    assert ours.rows == whole.rows


def test_a_weight_that_one_layer_reads_turned_is_not_shared() -> None:
    """What corrects its rows for one layer would correct its columns for the other."""
    text = """g (float[N,8] a, float[N,8] b) => (float[N,8] y) {
        c = MatMul (a, v) d = Relu (c) e = MatMul (b, v2) f = Relu (e)
        u = Gemm (d, w) t = Gemm <transB = 1> (f, w) s = Add (u, t) r = Relu (s) y = MatMul (r, o) }"""
    shapes = {"v": (8, 12), "v2": (8, 12), "w": (12, 12), "o": (12, 8)}
    analysis = analyse(load(example(text, shapes)))
    assert side_by_side(analysis)[1] == ()
    assert len(tied(analysis)) == 2
    rng = np.random.default_rng(0)
    rows = {name: rng.standard_normal((60, 8)).astype(np.float32) for name in "ab"}
    onnxprune.prune(example(text, shapes), rows, targets="params=0.8", threads=1, time=False)

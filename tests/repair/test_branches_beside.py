"""Repair of networks whose branches stand side by side, and behind branches that went as a whole."""

import numpy as np
from oracle import analysed

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import split_rows
from onnxprune.core.engine import ONE_CORE, RunOptions
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.repair import repair
from onnxprune.structure.removal import remove

TWO_OUTPUTS = """g (float[N,3,8,8] x) => (float[N,2,8,8] field, float[N,3] numbers) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0) b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w1, b1) d = Relu (c)
    e = Conv <pads = [1, 1, 1, 1]> (d, w2, b2) f = Relu (e)
    up = Conv (f, w3, b3)
    m = GlobalAveragePool (f) n = Flatten (m) numbers = Gemm (n, w4, b4)
    all = Concat <axis = 1> (up, b)
    h = Conv <pads = [1, 1, 1, 1]> (all, w5, b5) i = Relu (h)
    field = Conv (i, w6, b6) }"""
WEIGHTS = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (12, 8, 3, 3), "b1": (12,), "w2": (16, 12, 3, 3), "b2": (16,)}
WEIGHTS |= {"w3": (6, 16, 1, 1), "b3": (6,), "w4": (16, 3), "b4": (3,), "w5": (10, 14, 3, 3), "b5": (10,)}
WEIGHTS |= {"w6": (2, 10, 1, 1), "b6": (2,)}


def test_what_a_branch_that_went_had_fed_on_is_repaired_too() -> None:
    """Without the branch the layers behind it run earlier than those before it, whose values were lost till then."""
    a = analysed(example(TWO_OUTPUTS, WEIGHTS))
    groups = {group.name: group.units for group in a.groups}
    removed = a.none_removed()
    removed[groups["up"]] = True
    for name in ("a", "c", "e"):
        removed[groups[name][::3]] = True
    pruned = remove(a, removed)
    rows = np.random.default_rng(0).standard_normal((120, 3, 8, 8)).astype(np.float32)
    data = load_data({"x": rows}, load(a.model))
    repaired = repair(a, pruned, removed, split_rows(data).last, RunOptions(threads=1))
    changed = {name for name, array in repaired.constants.items() if not np.array_equal(array, pruned.constants[name])}
    assert changed >= {"w1", "w2", "w4", "w5"}
    wanted, plain, mended = (
        collect(model, data, ["field", "numbers"], engine=ONE_CORE) for model in (a.model, pruned, repaired)
    )
    for name, share in (("field", 0.5), ("numbers", 0.1)):
        before, after = (np.square(each[name] - wanted[name]).mean() for each in (plain, mended))
        assert after < share * before, name


SIDE_BY_SIDE = """g (float[N,6] x) => (float[N,4] y) {
    a = Gemm (x, w0, b0) p = Relu (a)
    b = Gemm (p, w1, b1) q = Relu (b)
    c = Gemm (q, w2, b2) t = Relu (c)
    k = Gemm (t, w6, b6)
    d = Gemm (x, w3, b3) r = Relu (d)
    e = Gemm (r, w4, b4) u = Relu (e)
    f = Gemm (u, w5, b5)
    s = Add (k, f) y = Relu (s) }"""


def test_pairs_leave_no_layer_of_a_branch_beside_them_out() -> None:
    """The shorter branch is repaired first: a pair of the longer is fitted to the sum, with what the other gives it."""
    wide = {f"w{n}": (16, 16) for n in (1, 2, 4)} | {f"b{n}": (16,) for n in (0, 1, 2, 3, 4)}
    ends = {"w0": (6, 16), "w3": (6, 16)} | {f"w{n}": (16, 4) for n in (5, 6)} | {f"b{n}": (4,) for n in (5, 6)}
    a = analysed(example(SIDE_BY_SIDE, wide | ends))
    removed = a.none_removed()
    for group in a.groups:
        removed[group.units[::3]] = True
    pruned = remove(a, removed)
    rows = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    data = load_data({"x": rows}, load(a.model))
    repaired = repair(a, pruned, removed, split_rows(data).last, RunOptions(threads=1))
    changed = {name for name, array in repaired.constants.items() if not np.array_equal(array, pruned.constants[name])}
    assert changed >= {*wide, *ends} - {"b0", "b3"}

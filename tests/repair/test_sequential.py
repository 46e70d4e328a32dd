"""What repair promises."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import split_rows
from onnxprune.config import OutputConfig
from onnxprune.core.engine import ONE_CORE, RunOptions
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.examples import example
from onnxprune.repair import FULL, QUICK, repair
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import remove

CONFIG = RunOptions(threads=1)

RESIDUAL = """g (float[N,3,8,8] x) => (float[N,5] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    a = Relu (s)
    h = Conv <pads = [1, 1, 1, 1]> (a, w1)
    n = BatchNormalization (h, scale1, bias1, mean1, var1)
    r = Relu (n)
    k = Conv <pads = [1, 1, 1, 1]> (r, w2)
    m = BatchNormalization (k, scale2, bias2, mean2, var2)
    t = Add (m, a)
    u = Relu (t)
    p = GlobalAveragePool (u)
    f = Flatten (p)
    y = Gemm (f, w3, b3) }"""
RESIDUAL_WEIGHTS = (
    {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (12, 8, 3, 3), "w2": (8, 12, 3, 3), "w3": (8, 5), "b3": (5,)}
    | dict.fromkeys(("scale1", "bias1", "mean1", "var1"), (12,))
    | dict.fromkeys(("scale2", "bias2", "mean2", "var2"), (8,))
)

NETWORKS = {
    "residual with normalisation": example(RESIDUAL, RESIDUAL_WEIGHTS),
    "depthwise": example(
        """g (float[N,3,8,8] x) => (float[N,4,A,B] y) {
        s = Conv (x, w0, b0)
        a = Clip (s, low, high)
        d = Conv <group = 10, pads = [1, 1, 1, 1]> (a, wd, bd)
        e = Clip (d, low, high)
        y = Conv (e, w1, b1) }""",
        {"w0": (10, 3, 1, 1), "b0": (10,), "wd": (10, 1, 3, 3), "bd": (10,), "w1": (4, 10, 1, 1), "b1": (4,)},
        {"low": np.float32(0), "high": np.float32(6)},
    ),
    "grouped": example(
        """g (float[N,3,8,8] x) => (float[N,4,A,B] y) {
        s = Conv (x, w0)
        a = Relu (s)
        d = Conv <group = 2> (a, wd)
        e = Relu (d)
        y = Conv (e, w1) }""",
        {"w0": (12, 3, 1, 1), "wd": (8, 6, 3, 3), "w1": (4, 8, 1, 1)},
    ),
    "transposed": example(
        """g (float[N,3,6,6] x) => (float[N,2,A,B] y) {
        s = Conv (x, w0)
        a = Relu (s)
        u = ConvTranspose <strides = [2, 2]> (a, w1, b1)
        v = Relu (u)
        y = Conv (v, w2) }""",
        {"w0": (9, 3, 3, 3), "w1": (9, 7, 3, 3), "b1": (7,), "w2": (2, 7, 1, 1)},
    ),
    "between layers of quantised weights": example(
        """g (float[N,3,6,6] x) => (float[N,4] y) {
        s = Conv (x, w0, b0)
        a = Relu (s)
        w = DequantizeLinear <axis = 0> (q, scale, zero)
        t = Conv (a, w)
        c = Relu (t)
        f = Flatten (c)
        d = Gemm (f, w1, b1)
        r = Relu (d)
        v = DequantizeLinear <axis = 1> (p, steps, zeros)
        y = MatMul (r, v) }""",
        {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (40, 10), "b1": (10,)},
        {"q": np.random.default_rng(0).integers(-99, 99, (10, 8, 3, 3)).astype(np.int8)}
        | {"scale": np.full(10, 0.002, np.float32), "zero": np.zeros(10, np.int8)}
        | {"p": np.random.default_rng(1).integers(-99, 99, (10, 4)).astype(np.int8)}
        | {"steps": np.full(4, 0.01, np.float32), "zeros": np.zeros(4, np.int8)},
    ),
    "flattened": example(
        """g (float[N,3,6,6] x) => (float[N,4] y) {
        s = Conv (x, w0, b0)
        a = Relu (s)
        f = Flatten (a)
        g1 = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (f, w1, b1)
        r = Relu (g1)
        y = Gemm (r, w2, b2) }""",
        {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (10, 128), "b1": (10,), "w2": (10, 4), "b2": (4,)},
    ),
    "concatenated": example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        s = Conv (x, w0)
        a = Relu (s)
        t = Conv (x, w1)
        b = Relu (t)
        c = Concat <axis = 1> (a, b)
        y = Conv (c, w2, b2) }""",
        {"w0": (6, 3, 1, 1), "w1": (7, 3, 1, 1), "w2": (4, 13, 3, 3), "b2": (4,)},
    ),
    "matrix products": example(
        """g (float[N,5,6] x) => (float[N,5,3] y) {
        h = MatMul (x, w1)
        i = Add (h, b1)
        a = Relu (i)
        z = MatMul (a, w2)
        y = Add (b2, z) }""",
        {"w1": (6, 12), "b1": (12,), "w2": (12, 3), "b2": (3,)},
    ),
}


def rows_for(model, count=48, seed=0) -> Dataset:
    graph = read_graph(model)
    (name,) = graph.inputs
    shape = analyse(model).facts.shapes[name][1:]
    rows = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    return load_data({name: rows}, model)


def outputs(model, data):
    (values,) = collect(model, data, engine=ONE_CORE).values()
    return values


def relative_error(model, other, data):
    a, b = outputs(model, data), outputs(other, data)
    return np.linalg.norm(a - b) / np.linalg.norm(a)


def pruned(model, share, seed=0):
    analysis = analyse(model)
    removed = analysis.none_removed()
    rng = np.random.default_rng(seed)
    for group in analysis.groups:
        removed[rng.choice(group.units, int(len(group) * share), replace=False)] = True
    return analysis, removed, remove(analysis, removed)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_removed_leaves_outputs_as_they_are(name):
    model = load(NETWORKS[name])
    analysis, removed, same = pruned(model, 0.0)
    data = rows_for(model)
    assert relative_error(model, repair(analysis, same, removed, split_rows(data).last, CONFIG), data) < 1e-4


@pytest.mark.parametrize("effort", [FULL, QUICK], ids=["full", "quick"])
@pytest.mark.parametrize("name", NETWORKS)
def test_repair_brings_outputs_nearer_on_rows_it_has_not_seen(name, effort):
    model = load(NETWORKS[name])
    analysis, removed, smaller = pruned(model, 0.4)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 96)).last, CONFIG, effort=effort)
    unseen = rows_for(model, seed=1)
    before, after = relative_error(model, smaller, unseen), relative_error(model, repaired, unseen)
    assert after < 0.85 * before


def test_a_quick_repair_of_trials_is_kept_apart_from_the_last_one(tmp_path):
    """Both in one cache: each is what it is without the other."""
    model = load(NETWORKS["matrix products"])
    analysis, removed, smaller = pruned(model, 0.4)
    rows = split_rows(rows_for(model, 96)).last
    made = {}
    for run in (RunOptions(threads=1, cache=str(tmp_path)), CONFIG):
        for effort in (QUICK, FULL):
            made[run.cache is None, effort] = repair(analysis, smaller, removed, rows, run, effort=effort).constants
    for effort in (QUICK, FULL):
        for name, value in made[True, effort].items():
            np.testing.assert_array_equal(value, made[False, effort][name])
    assert any((made[True, FULL][name] != value).any() for name, value in made[True, QUICK].items())


def with_weights(proto, changed):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return copy


@pytest.mark.parametrize("name", ["residual with normalisation", "depthwise", "flattened", "transposed"])
def test_removed_copy_of_another_unit_is_made_up_for_exactly(name):
    proto = NETWORKS[name]
    weights = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    twins = {
        "residual with normalisation": ("w1", "scale1", "bias1", "mean1", "var1"),
        "depthwise": ("w0", "b0", "wd", "bd"),
        "flattened": ("w0", "b0"),
        "transposed": ("w0",),
    }[name]
    for tensor in twins:
        weights[tensor][3] = weights[tensor][1]
    model = load(with_weights(proto, weights))
    analysis = analyse(model)
    removed = analysis.none_removed()
    removed[analysis.labels[twins[0]][0][3]] = True
    smaller = remove(analysis, removed)
    data, unseen = rows_for(model, 240), rows_for(model, seed=1)
    assert relative_error(model, smaller, unseen) > 1e-2
    assert relative_error(model, repair(analysis, smaller, removed, split_rows(data).last, CONFIG), unseen) < 1e-4


def test_removed_linear_combination_of_other_units_is_made_up_for_exactly():
    # No nonlinearity between producer and consumer, so that a row of weights can be a combination of others.
    proto = example(
        """g (float[N,6] x) => (float[N,4] y) {
        h = MatMul (x, w1)
        i = Add (h, b1)
        y = MatMul (i, w2) }""",
        {"w1": (6, 9), "b1": (9,), "w2": (9, 4)},
    )
    weights = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    weights["w1"][:, 4] = 2 * weights["w1"][:, 0] - weights["w1"][:, 7]
    weights["b1"][4] = 2 * weights["b1"][0] - weights["b1"][7]
    model = load(with_weights(proto, weights))
    analysis = analyse(model)
    removed = analysis.none_removed()
    removed[analysis.labels["w1"][1][4]] = True
    smaller = remove(analysis, removed)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 96)).last, CONFIG)
    assert relative_error(model, repaired, rows_for(model, seed=1)) < 1e-4


def test_nothing_is_left_to_gain_in_the_last_layer_of_a_pair():
    """A descent through both layers ended beside the second one's best weights: 3 % of a small network's error."""
    model = load(
        example(
            """g (float[N,16] x) => (float[N,8] y) {
            h = Gemm (x, w1, b1)
            r = Relu (h)
            y = Gemm (r, w2, b2) }""",
            {"w1": (16, 96), "b1": (96,), "w2": (96, 8), "b2": (8,)},
        )
    )
    analysis, removed, smaller = pruned(model, 0.5)
    rows = split_rows(rows_for(model, 4000)).last
    repaired = repair(analysis, smaller, removed, rows, CONFIG, outputs=OutputConfig(kinds=("y=quantities",)))
    assert not np.array_equal(repaired.constants["w1"], smaller.constants["w1"])  # the pair was fitted
    read, made = (collect(repaired, rows.fit, [name], engine=ONE_CORE)[name] for name in ("r", "y"))
    wanted = collect(model, rows.fit, ["y"], engine=ONE_CORE)["y"]
    columns = np.column_stack([read, np.ones(len(read))])
    best = columns @ np.linalg.lstsq(columns, wanted, rcond=None)[0]
    assert np.sum((made - wanted) ** 2) < 1.002 * np.sum((best - wanted) ** 2)


def test_the_other_branch_of_an_addition_is_corrected_too():
    """What two kept units cannot tell of six inputs, the branch that reads the inputs can."""
    proto = example(
        """g (float[N,6] x) => (float[N,4] y) {
        a = Gemm (x, w1, b1)
        u = Gemm (a, w2)
        q = Concat <axis = 1> (u, x)
        v = Gemm (q, w3, b3)
        y = Add (u, v) }""",
        {"w1": (6, 16), "b1": (16,), "w2": (16, 4), "w3": (10, 4), "b3": (4,)},
    )
    model = load(proto)
    analysis, removed, smaller = pruned(model, 0.85)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 96)).last, CONFIG)
    without = repaired.with_constants({name: model.constants[name] for name in ("w3", "b3")})
    unseen = rows_for(model, seed=1)
    assert relative_error(model, repaired, unseen) < 0.1 * relative_error(model, without, unseen)


def test_constants_with_several_readers_are_not_refitted():
    proto = example(
        """g (float[N,6] x) => (float[N,6] y) {
        a = Gemm (x, w1, b1)
        p = Relu (a)
        u = Gemm (p, w2)
        r = Relu (u)
        b = Gemm (r, w1, b1)
        q = Relu (b)
        y = Gemm (q, w4) }""",
        {"w1": (6, 16), "b1": (16,), "w2": (16, 6), "w4": (16, 6)},
    )
    model = load(proto)
    analysis, removed, smaller = pruned(model, 0.25)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 200)).last, CONFIG)
    np.testing.assert_array_equal(repaired.constants["w1"], smaller.constants["w1"])
    assert relative_error(model, repaired, rows_for(model, seed=1)) < relative_error(
        model, smaller, rows_for(model, seed=1)
    )


def test_quantised_weights_stay_and_others_are_refitted():
    """Repair of every such file ended with an internal error (KeyError)."""
    text = """g (float[N,6] x) => (float[N,4] y) {
        a = MatMul (x, w1)
        p = Relu (a)
        d = DequantizeLinear <axis = 1> (w, scale)
        b = MatMul (p, d)
        q = Relu (b)
        y = MatMul (q, w3) }"""
    scale = np.linspace(0.02, 0.03, 14).astype(np.float32)
    stored = (np.random.default_rng(3).standard_normal((12, 14)) * 20).astype(np.int8)
    model = load(example(text, {"w1": (6, 12), "w3": (14, 4)}, {"w": stored, "scale": scale}))
    analysis, removed, smaller = pruned(model, 0.3)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 96)).last, CONFIG)
    np.testing.assert_array_equal(repaired.constants["w"], smaller.constants["w"])
    unseen = rows_for(model, seed=1)
    assert relative_error(model, repaired, unseen) < 0.9 * relative_error(model, smaller, unseen)


def test_fixed_batch_models_are_repaired():
    proto = onnx.ModelProto()
    proto.CopyFrom(NETWORKS["flattened"])
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = load(proto)
    analysis, removed, smaller = pruned(model, 0.4)
    repaired = repair(analysis, smaller, removed, split_rows(rows_for(model, 60)).last, CONFIG)
    unseen = rows_for(model, seed=1)
    assert relative_error(model, repaired, unseen) < 0.8 * relative_error(model, smaller, unseen)


def test_original_and_pruned_model_are_not_changed():
    model = load(NETWORKS["residual with normalisation"])
    analysis, removed, smaller = pruned(model, 0.4)
    before = {name: array.copy() for name, array in (*model.constants.items(), *smaller.constants.items())}
    repair(analysis, smaller, removed, split_rows(rows_for(model)).last, CONFIG)
    for name, array in (*model.constants.items(), *smaller.constants.items()):
        assert array.shape != before[name].shape or np.array_equal(array, before[name])


def test_repeats_exactly():
    model = load(NETWORKS["residual with normalisation"])
    analysis, removed, smaller = pruned(model, 0.4)
    first, second = (repair(analysis, smaller, removed, split_rows(rows_for(model)).last, CONFIG) for _ in range(2))
    for name, array in first.constants.items():
        np.testing.assert_array_equal(array, second.constants[name])

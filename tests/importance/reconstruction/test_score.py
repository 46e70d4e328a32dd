"""The reconstruction scorer on small networks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module

import numpy as np
import onnx
import pytest
from residual import NETWORK, WEIGHTS

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.split import split_rows
from onnxprune.core.engine import RunOptions
from onnxprune.core.errors import InputError
from onnxprune.core.execution import SerialExecutor
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.reconstruction import score
from onnxprune.importance.reconstruction.curves import interpolate
from onnxprune.ops.dense import MatMul
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse


def context(proto, rows=48, executor=None):
    model = load(proto)
    graph = read_graph(model)
    analysis = analyse(model)
    shape = analysis.facts.shapes[graph.inputs[0]][1:]
    x = np.random.default_rng(0).standard_normal((rows, *shape)).astype(np.float32)
    data = split_rows(load_data({graph.inputs[0]: x}, model)) if rows else None
    return ScoreContext(analysis, data, RunOptions(threads=1), executor or SerialExecutor())


def test_orders_are_permutations_and_curves_end_at_zero():
    given = context(example(NETWORK, WEIGHTS))
    scores = score(given)
    assert [s.group for s in scores.groups] == [g.name for g in given.analysis.groups]
    for group, found in zip(given.analysis.groups, scores.groups, strict=True):
        assert sorted(found.order) == list(range(len(group)))
        assert found.damage[-1] == 0
        assert np.all(np.diff(found.damage[1:]) <= 1e-12)
        assert found.damage[1] > 0
        assert found.scores.min() >= 0
        assert found.scores.max() <= 1
        assert np.all(np.diff(found.scores[found.order]) >= 0)


def test_damage_in_large_networks_is_measured_on_rows_of_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was on the first ones, which are of one class where rows are sorted."""
    module = import_module("onnxprune.importance.reconstruction.score")
    seen: list[np.ndarray] = []
    whole = module._damages

    def damages(*given):
        seen.append(given[4].rows)
        return whole(*given)

    monkeypatch.setattr(module, "_damages", damages)
    monkeypatch.setattr(module, "_MOST_MACS", 1)
    score(context(example(NETWORK, WEIGHTS), rows=400))
    assert len(seen[0]) == module._LEAST_MEASURED
    assert np.bincount(seen[0] // 100, minlength=4).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize(
    "early",
    ["e = Gemm (a, w3, b3)", "e = Neg (x)", "e = Neg (b3)", "e = Identity (b3)", ""],
    ids=["a head", "the input", "folded", "a copy", "the constant itself"],
)
def test_outputs_that_no_later_layer_changes(early):
    """A model of several outputs could not be loaded once one of them was behind the units that were scored."""
    outputs = "e" if early else "b3"
    shape = "N,5" if "Gemm" in early else "N,6" if "x" in early else "5"
    proto = example(
        f"""g (float[N,6] x) => (float[{shape}] {outputs}, float[N,4] y) {{
        h = Gemm (x, w1, b1)
        a = Relu (h)
        {early}
        i = Gemm (a, w2, b2)
        b = Relu (i)
        y = Gemm (b, w4, b4) }}""",
        {"w1": (6, 8), "b1": (8,), "w2": (8, 12), "b2": (12,), "w3": (8, 5), "b3": (5,), "w4": (12, 4), "b4": (4,)},
    )
    damages = [found.damage for found in score(context(proto)).groups]
    assert [len(each) for each in damages] == [9, 13]
    assert all(np.isfinite(each).all() and each[1] > 1e-6 for each in damages)


def test_numbers_that_overflow_are_named_with_their_layer():
    """A singular matrix was an internal error."""
    given = context(example(NETWORK, WEIGHTS))
    data = load_data({"x": np.full((48, 3, 8, 8), 1e30, np.float32)}, given.model)
    with pytest.raises(InputError, match="reads are too large or not finite"):
        score(replace(given, rows=split_rows(data)))


def test_results_do_not_depend_on_the_executor():
    with ThreadPoolExecutor(2) as pool:
        pairs = zip(
            score(context(example(NETWORK, WEIGHTS))).groups,
            score(context(example(NETWORK, WEIGHTS), executor=pool)).groups,
            strict=True,
        )
        for one, other in pairs:
            np.testing.assert_array_equal(one.order, other.order)
            np.testing.assert_array_equal(one.damage, other.damage)


@pytest.mark.parametrize("proto", list(MatMul().examples()))
def test_products_of_activations_are_scored_too(proto):
    given = context(proto, rows=0 if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value else 24)
    if given.data is None:
        with pytest.raises(InputError, match="--data"):
            score(given)
        return
    for group, found in zip(given.analysis.groups, score(given).groups, strict=True):
        assert sorted(found.order) == list(range(len(group)))


def test_curves_pass_through_what_was_measured():
    errors = np.array([9.0, 4.0, 2.0, 0.5, 0.1, 0.0])
    damage = interpolate(errors, {4: 0.01, 2: 0.3})
    assert damage[5] == 0
    assert damage[4] == pytest.approx(0.01)
    assert damage[2] == pytest.approx(0.3)
    assert 0.01 < damage[3] < 0.3
    assert damage[1] == pytest.approx(0.6)


def test_outputs_that_are_not_finite_without_a_branch_say_nothing_of_its_widths():
    errors = np.array([9.0, 4.0, 2.0, 0.5, 0.1, 0.0])
    damage = interpolate(errors, {4: 0.01, 2: 0.3, 0: np.inf})
    np.testing.assert_array_equal(damage[1:], interpolate(errors, {4: 0.01, 2: 0.3})[1:])
    assert damage[0] == np.inf
    np.testing.assert_array_equal(interpolate(errors, {0: np.inf}), [np.inf, *errors[1:]])


def test_folding_a_batch_normalization_changes_no_order():
    shapes = {"w1": (8, 3, 3, 3), "w2": (6, 8, 3, 3), "w3": (6, 4)}
    head = "g (float[N,3,8,8] x) => (float[N,4] y) { h = Conv (x, w1) a = Relu (h) c = Conv (a, w2"
    tail = "r = Relu (n) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, w3) }"
    norm = {"scale": np.float32([5, 1, 0.2, 3, 0.1, 1]), "shift": np.zeros(6, np.float32)}
    norm |= {"mean": np.zeros(6, np.float32), "var": np.ones(6, np.float32)}
    plain = example(f"{head}) n = BatchNormalization <epsilon = 0.0> (c, scale, shift, mean, var) {tail}", shapes, norm)
    folded = example(f"{head}, shift) n = Identity (c) {tail}", shapes, {"shift": norm["shift"]})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in plain.graph.initializer}
    weights["w2"] = weights["w2"] * norm["scale"].reshape(-1, 1, 1, 1)
    for tensor in folded.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    orders = [[list(g.order) for g in score(context(proto)).groups] for proto in (plain, folded)]
    assert orders[0] == orders[1]

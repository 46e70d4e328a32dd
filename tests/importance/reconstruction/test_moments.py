"""Layers with very many columns are reduced to a few directions of each unit."""

import numpy as np
import pytest

from onnxprune.calibration.replay import Replay
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.importance.reconstruction import moments
from onnxprune.importance.reconstruction.elimination import Corrected, EliminationTask, eliminate
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.fit_targets import fit_schedule

MODEL = load(
    example(
        """g (float[N,3,5,5] x) => (float[N,4] y) {
        c = Conv (x, w1)
        r = Relu (c)
        f = Flatten (r)
        y = Gemm (f, w2, b2) }""",
        {"w1": (6, 3, 2, 2), "w2": (96, 4), "b2": (4,)},
    )
)


@pytest.fixture
def collected(monkeypatch):
    """The dense layer's statistics for so many columns at most, its moments and its group."""
    analysis = analyse(MODEL)
    plan = fit_schedule(analysis)
    point = plan.points[1]
    x = np.random.default_rng(0).standard_normal((200, 3, 5, 5)).astype(np.float32)

    def collect(most):
        monkeypatch.setattr(moments, "_MOST_COLUMNS", most)
        replay = Replay(MODEL, plan.nodes, [{"x": x}], ONE_CORE)
        replay.advance(replay.before(point.layer.node), [point.layer.input])
        found = moments.collect(replay, point, analysis, MODEL.constants[point.layer.weight], np.random.default_rng(1))
        return *found, analysis

    return collect


def test_reduced_layers_keep_their_weights_and_lose_those_of_removed_units(collected):
    statistics, found, analysis = collected(24)
    (group,) = analysis.groups
    assert found[0].covariance.shape == (1, 24, 24)
    (consumer,) = statistics.consumers(group, found)
    assert consumer.blocks.shape == (6, 4)
    removed = analysis.none_removed()
    removed[group.units[2]] = True
    unchanged = Corrected(consumer.weight, np.zeros(4))
    weight = statistics.constants(group, [unchanged], removed, MODEL.constants)[statistics.point.layer.weight]
    expected = MODEL.constants[statistics.point.layer.weight].copy()
    expected[32:48] = 0.0
    np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_reduced_layers_lose_little_more_than_whole_ones(collected):
    errors = []
    for most in (24, 96):
        statistics, found, analysis = collected(most)
        assert (statistics.reduction is None) == (most == 96)
        (group,) = analysis.groups
        consumers = tuple(statistics.consumers(group, found))
        errors.append(eliminate(EliminationTask("g", consumers, (), 3e-2)).errors)
    # The four directions of a unit are all that its weights for four outputs use.
    assert errors[0][0] == pytest.approx(errors[1][0], rel=0.2)
    assert errors[0][3] == pytest.approx(errors[1][3], rel=0.5)


def test_units_of_one_column_are_not_reduced(collected, monkeypatch):
    statistics, _, _ = collected(5)
    assert statistics.reduction is not None
    monkeypatch.setattr(moments, "_MOST_COLUMNS", 16)
    layer, ids = statistics.point.layer, statistics.ids
    assert moments._reduction(layer, np.arange(1, len(ids) + 1), statistics.weight.astype(float)) is None

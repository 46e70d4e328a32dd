"""The result's time beside the original's: in every result, said loudly where nothing is gained."""

import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.core.engine import Engine
from onnxprune.core.errors import InputError, SlowerError
from onnxprune.core.results import TimeReport, is_noisy
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.runtime.timing import quick_ratio, time_models, time_pair

ROWS = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
OPTIONS = {"targets": "macs=0.5", "importance": "magnitude", "repair": False, "threads": 1}


@pytest.fixture(scope="module")
def proto():
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})


def measured(ratio: float) -> TimeReport:
    return TimeReport(ratio, ratio - 0.05, ratio + 0.05, 1.0, ratio, 20, 1, 1)


def test_every_result_has_its_time(proto):
    time = onnxprune.prune(proto, ROWS, **OPTIONS).time
    assert time.pairs >= 20
    assert 0 < time.low <= time.ratio <= time.high
    assert time.before_ms > 0
    assert onnxprune.prune(proto, ROWS, time=False, **OPTIONS).time is None


def test_pairs_are_of_the_rows_and_threads_that_were_asked_for(proto):
    time = time_pair(load(proto), load(proto), batch=4, engine=Engine(2), seconds=0)
    assert (time.batch, time.threads, time.pairs) == (4, 2, 20)


@given(st.integers(0, 10_000), st.floats(0.2, 0.9))
@settings(max_examples=50)
def test_a_busy_machine_does_not_hide_a_gain(seed, ratio):
    """Two of three runs of either model took two to ten times as long: "too noisy", though the quick ones agreed."""
    rng = np.random.default_rng(seed)

    def runs(seconds):
        slower = np.where(rng.random(100) < 2 / 3, rng.uniform(2, 10, 100), rng.uniform(1, 1.02, 100))
        return seconds * slower

    found, low, high = quick_ratio(runs(ratio), runs(1.0))
    assert found == pytest.approx(ratio, rel=0.03)
    assert low <= found <= high
    assert not is_noisy(found, low, high)


def test_runs_of_which_none_agree_tell_nothing():
    rng = np.random.default_rng(0)
    first, second = 10 ** rng.uniform(-3, 0, (2, 30))
    assert is_noisy(*quick_ratio(first, second))


@pytest.mark.parametrize(("threads", "clock"), [(1, time.thread_time), (2, time.perf_counter)])
def test_all_commands_measure_by_one_clock(proto, monkeypatch, threads, clock):
    """`prune` and `validate` counted other processes' time on one thread too, `sweep` did not."""
    clocks = []

    def sample(session, feed, runs, clock):
        clocks.append(clock)
        return 1e-3

    monkeypatch.setattr("onnxprune.runtime.timing._sample", sample)
    model, engine = load(proto), Engine(threads)
    time_pair(model, model, engine=engine, seconds=0)
    time_models([model, model], engine=engine, seconds=0, memory=False)
    assert set(clocks) == {clock}


def test_what_is_not_faster_is_said_and_can_be_an_error(proto, monkeypatch):
    """Half the multiply-adds took twice the time, and nothing in the output said so."""
    monkeypatch.setattr("onnxprune.runtime.timing.time_pair", lambda *models, **how: measured(1.2))
    result = onnxprune.prune(proto, ROWS, **OPTIONS)
    assert "longer than the original (1.20 of its time" in result.warnings[0]
    with pytest.raises(SlowerError, match=r"1\.20 of the original's time") as raised:
        onnxprune.prune(proto, ROWS, fail_if_slower=True, **OPTIONS)
    assert raised.value.exit_code == 7
    monkeypatch.setattr("onnxprune.runtime.timing.time_pair", lambda *models, **how: measured(0.6))
    assert not any(
        "time" in warning for warning in onnxprune.prune(proto, ROWS, fail_if_slower=True, **OPTIONS).warnings
    )
    with pytest.raises(InputError, match="leave out time=False"):
        onnxprune.prune(proto, ROWS, fail_if_slower=True, time=False, **OPTIONS)


def test_what_is_said_of_a_slow_result_without_loss(proto, monkeypatch):
    """A smaller budget was the advice where there was none, even where the result was the original."""
    monkeypatch.setattr("onnxprune.runtime.timing.time_pair", lambda *models, **how: measured(1.2))
    assert onnxprune.prune(proto, lossless=True).warnings == ()
    twins = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in twins.graph.initializer:
        if tensor.name in ("w1", "b1"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(tensor.dims, np.float32), tensor.name))
    result = onnxprune.prune(twins, lossless=True)
    assert result.groups[0].kept < 8
    (warning,) = result.warnings
    assert "longer than the original" in warning
    assert "what goes without loss saves no time here" in warning
    assert "smaller budget" not in warning


def test_comparisons_have_the_time_too(proto):
    found = onnxprune.validate(proto, proto, ROWS)
    assert found.time.pairs >= 20
    assert onnxprune.validate(proto, proto, ROWS, time=False).time is None

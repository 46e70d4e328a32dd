"""Measured latency: structure and consistency of results, never their speed."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import first_feed
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.timing import time_models


def network(width, batch="N"):
    text = f"g (float[{batch},64] x) => (float[{batch},8] y) {{ h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }}"
    return load(example(text, {"w": (64, width), "v": (width, 8)}))


def test_sizes_belong_to_their_models():
    results = time_models([network(20_000), network(8)], batch=4, engine=ONE_CORE, seconds=0, warmup=1, rounds=5)
    for result in results:
        assert 0 < result.p10_ms <= result.median_ms <= result.p90_ms
        assert (result.batch, result.threads, result.warmup, result.rounds) == (4, 1, 1, 5)
        assert result.runs >= 1
    assert results[0].ratio == 1
    assert results[0].file_bytes > 20_000 * 72 * 4 > results[1].file_bytes
    assert results[0].peak_bytes > results[1].peak_bytes + 20_000 * 72


def test_a_machine_that_slows_down_meets_all_models_alike(monkeypatch):
    speeds, calls = {}, []

    def sample(session, feed, runs, clock):
        base = speeds.setdefault(id(session), 2e-3 / 2 ** len(speeds))
        calls.append(base)
        # Each pair of calls takes twice the time of the pair before.
        return base * 2 ** ((len(calls) - 1) // 2)

    monkeypatch.setattr("onnxprune.runtime.timing._sample", sample)
    slow, fast = time_models([network(8), network(9)], seconds=0, warmup=1, rounds=7, memory=False)
    assert (slow.ratio, fast.ratio) == (1, 0.5)
    assert slow.median_ms == pytest.approx(2 * fast.median_ms)
    assert slow.p90_ms > 4 * slow.median_ms > 16 * slow.p10_ms
    # Three samples each to find the length of a run, then the rounds, every other one backwards.
    assert calls[6:14] == [2e-3, 1e-3, 1e-3, 2e-3, 2e-3, 1e-3, 1e-3, 2e-3]


def test_samples_are_of_warm_models(monkeypatch):
    """A small model after a large one paid for a cold cache: 0.80 of the time, where alone it takes 0.65."""
    now, last = 0.0, None

    class Session:
        def __init__(self, warm, cold):
            self.warm, self.cold = warm, cold

        def run(self, *_):
            nonlocal now, last
            now, last = now + (self.warm if last is self else self.cold), self

    sessions = iter([Session(4.0, 5.0), Session(1.0, 3.0)])
    monkeypatch.setattr("onnxprune.runtime.timing.open_session", lambda *_, **__: next(sessions))
    slow, fast = time_models([network(8), network(9)], seconds=0, rounds=7, memory=False, clock=lambda: now)
    assert (slow.median_ms, fast.median_ms) == (4000, 1000)
    assert fast.ratio == 0.25


def test_peak_memory_is_that_of_a_process_of_its_own():
    ballast = np.ones(25_000_000)
    (result,) = time_models([network(8)], seconds=0, warmup=0, rounds=1, engine=ONE_CORE)
    assert 10_000_000 < result.peak_bytes < ballast.nbytes


def test_memory_is_left_out_on_request():
    (result,) = time_models([network(8)], seconds=0, warmup=0, rounds=2, memory=False)
    assert result.peak_bytes is None
    assert result.rounds == 2


def test_time_budget_adds_rounds(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("onnxprune.runtime.timing.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    ticks = {"warmup": 0, "rounds": 1, "memory": False, "clock": lambda: float(next(clock))}
    results = [time_models([network(8)], seconds=s, **ticks)[0] for s in (0, 10, 100)]
    assert results[0].rounds == 1 < results[1].rounds < results[2].rounds < 100


def test_fixed_batch_is_kept():
    (result,) = time_models([network(8, batch=3)], batch=16, seconds=0, rounds=1, memory=False)
    assert result.batch == 3


def test_feeds_are_seeded_and_equal_for_models_of_one_task():
    feeds = [random_feed(network(width), 2, seed=seed)["x"] for width, seed in ((8, 0), (9, 0), (8, 1))]
    np.testing.assert_array_equal(feeds[0], feeds[1])
    assert not np.array_equal(feeds[0], feeds[2])
    assert feeds[0].shape == (2, 64)


def test_every_axis_called_batch_has_the_batch():
    text = "g (float[batch,3] x, float[2,batch,3] s, float f) => (float[batch,3] y, float[2,batch,3] z, float o)"
    model = load(example(text + "{ y = Relu (x)  z = Relu (s)  o = Relu (f) }"))
    feed = random_feed(model, 4)
    assert {name: array.shape for name, array in feed.items()} == {"x": (4, 3), "s": (2, 4, 3), "f": ()}


def test_users_rows_are_taken():
    model = network(8)
    x = np.arange(640, dtype=np.float32).reshape(10, 64)
    data = load_data(x, model)
    np.testing.assert_array_equal(first_feed(model, data, 3)["x"], x[:3])
    np.testing.assert_array_equal(first_feed(model, data, 12)["x"], np.concatenate([x, x[:2]]))


def test_models_that_cannot_run_are_reported():
    broken = load(
        example("g (float[N,3] x) => (float[5,5] y) { y = Reshape (x, s) }", constants={"s": np.array([5, 5])})
    )
    with pytest.raises(ModelError, match="model: "):
        time_models([broken], seconds=0, rounds=1, memory=False)
    with pytest.raises(InputError, match="at least one"):
        time_models([])


@pytest.mark.parametrize("name", ["silero_vad/silero_vad_16k_op15.onnx", "yunet/yunet_n_dynamic.onnx"])
def test_real_models_with_several_or_free_dimensions(corpus_path, name):
    (result,) = time_models([load(corpus_path(f"models/{name}"))], seconds=0, warmup=0, rounds=1, engine=ONE_CORE)
    assert result.peak_bytes > result.file_bytes

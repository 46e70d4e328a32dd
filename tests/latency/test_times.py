"""Kernel times that hold on a busy machine: ratios within a round, and kept times that are checked."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.clock import no_progress
from onnxprune.core.engine import ONE_CORE, Engine
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.fused_kernels import FusedKernel, fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.structure.coupling import analyse

Clock = Callable[[Model], float]


@pytest.fixture(scope="module")
def kernels(network: Model) -> tuple[FusedKernel, ...]:
    return fused_kernels(analyse(network))


def measured(kernels: Sequence[FusedKernel], cache: TimeCache) -> dict[str, float]:
    times = FusedKernelTimes(kernels, cache, ONE_CORE, no_progress)
    for width in (4, 8, 12, 16):
        times.measure([(kernel, tuple(min(width, n) for n in kernel.full)) for kernel in kernels])
    return dict(cache.times)


@given(paces=st.lists(st.floats(0.5, 20.0), min_size=5, max_size=5), first=st.integers(0, 9))
def test_a_slow_minute_changes_no_proportion(
    kernels: tuple[FusedKernel, ...], kernel_clock: Clock, paces: list[float], first: int
) -> None:
    """Every call meets another speed of the machine, and every round too; all that is compared meets the same."""
    called = first

    def times(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
        nonlocal called
        called += 1
        return np.outer(np.roll(paces, called), [kernel_clock(model) for model in models]) * (1 + called % 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.latency.times.round_times", times)
        found = measured(kernels, TimeCache(None, {}))
    by_key = {kernel.key: kernel for kernel in kernels}
    for key, kernel in by_key.items():
        full = kernel_clock(kernel.analysis.model)
        scale = found[f"{key}:{','.join(map(str, kernel.full))}"] / full
        for name, time in found.items():
            if name.startswith(key):
                small = kernel.at(tuple(map(int, name.partition(":")[2].split(","))))
                assert small is not None
                assert time == pytest.approx(scale * kernel_clock(small))


def test_kept_times_that_disagree_are_measured_again(
    kernels: tuple[FusedKernel, ...], pretended: list[int], tmp_path: Path
) -> None:
    good = measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE))
    cache = TimeCache.open(str(tmp_path), ONE_CORE)
    key = next(kernel.key for kernel in kernels if kernel.nodes[0] == "a0")
    wrong = {name: 9 * time if name.startswith(key) else time for name, time in cache.times.items()}
    cache.times = wrong
    cache.save()
    pretended.clear()
    again = measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE))
    assert again == pytest.approx(good)
    assert 1 < len(pretended) < 10


@pytest.mark.parametrize("widths", ["", "x", "-1", "4", "4,4,4,4,4", "999999999,1", "1" + "0" * 5000, "\u0664,4"])
def test_kept_times_of_no_widths_are_forgotten(
    kernels: tuple[FusedKernel, ...], pretended: list[int], tmp_path: Path, widths: str
) -> None:
    good = measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE))
    cache = TimeCache.open(str(tmp_path), ONE_CORE)
    key = next(kernel.key for kernel in kernels if len(kernel.full) == 2)
    cache.times[f"{key}:{widths}"] = 1.0
    cache.save()
    pretended.clear()
    assert measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE)) == pytest.approx(good)


def test_kept_times_that_agree_are_taken_on_a_slower_machine(
    kernels: tuple[FusedKernel, ...],
    kernel_clock: Clock,
    pretended: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE))
    calls = []

    def slower(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
        calls.append(len(models))
        return np.outer(np.ones(3), [3 * kernel_clock(model) for model in models])

    monkeypatch.setattr("onnxprune.latency.times.round_times", slower)
    assert measured(kernels, TimeCache.open(str(tmp_path), ONE_CORE)) == good
    assert len(calls) == 1  # the check


def test_kernels_that_take_no_time_say_nothing_of_the_others(
    kernels: tuple[FusedKernel, ...], kernel_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime removes most of these kernels: what is left was divided by a pace of nothing."""
    layers = {k.key for k in kernels if k.nodes[0] == "a0"}
    sizes = {k.analysis.model.proto.SerializeToString(): k.key for k in kernels}

    def times(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
        own = [sizes.get(model.proto.SerializeToString()) for model in models]
        values = [kernel_clock(m) if key in layers else 0.0 for m, key in zip(models, own, strict=True)]
        return np.outer([1.0, 3.0, 2.0], values)

    monkeypatch.setattr("onnxprune.latency.times.round_times", times)
    found = FusedKernelTimes(kernels, TimeCache(None, {}), ONE_CORE, no_progress)
    found.measure([])
    a0 = next(kernel for kernel in kernels if kernel.key in layers)
    assert found.time(a0, a0.full) == pytest.approx(2 * kernel_clock(a0.analysis.model))

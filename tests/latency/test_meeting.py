"""Budgets of time where several groups meet in the channels of one convolution, with computed kernel times."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.config import LatencyConfig, PruneConfig
from onnxprune.core.clock import no_progress
from onnxprune.core.engine import ONE_CORE, Engine
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.cost import cost_table
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.latency.widths import meeting
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.kernels import kernel_steps

CONFIG = PruneConfig(importance="magnitude", repair=False, time=False, latency=LatencyConfig(cache="off"))
Clock = Callable[[Callable[[Model], float]], None]


def joined(*widths: int) -> onnx.ModelProto:
    """Convolutions side by side, which one that is as wide as all of them reads."""
    names = [f"c{n}" for n in range(len(widths))]
    branches = " ".join(f"{name} = Conv <pads = [1, 1, 1, 1]> (x, {name}w)" for name in names)
    text = f"""g (float[N,8,12,12] x) => (float[N,5] y) {{ {branches} s = Concat <axis = 1> ({", ".join(names)})
        d = Conv <pads = [1, 1, 1, 1]> (s, wd)  r = Relu (d)  g = GlobalAveragePool (r)  f = Flatten (g)
        y = Gemm (f, wy) }}"""
    shapes = {f"{name}w": (width, 8, 3, 3) for name, width in zip(names, widths, strict=True)}
    return example(text, shapes | {"wd": (32, sum(widths), 3, 3), "wy": (32, 5)})


def uneven(model: Model) -> float:
    """Microseconds of kernels that take three times as long where inputs are no multiple of 4."""
    work = 0.0
    for layer in analyse(model).layers:
        shape = model.constants[layer.weight].shape
        if not layer.node.startswith("stub") and len(shape) == 4:
            work += float(np.prod(shape)) * (1 if shape[1] % 4 == 0 else 3)
    return 1 + work / 1000


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, pretend_clock: Clock) -> None:
    def times(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
        return np.outer([1.0, 1.0, 1.0], [uneven(model) for model in models])

    monkeypatch.setattr("onnxprune.latency.times.round_times", times)
    pretend_clock(lambda model: 0.01 * uneven(model))


def times_of(proto: onnx.ModelProto) -> tuple[FusedKernelTimes, list[int]]:
    analysis = analyse(load(proto))
    times = FusedKernelTimes(fused_kernels(analysis), TimeCache(None, {}), ONE_CORE, no_progress)
    return times, [len(group) for group in analysis.groups]


def test_groups_that_meet_are_known(kernels: None) -> None:
    times, full = times_of(joined(24, 12))
    assert [full[g] for g in sorted(meeting(times))] == [24, 12]


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_a_budget_of_time_keeps_sums_that_kernels_like(share: float, kernels: None) -> None:
    found = onnxprune.prune(joined(24, 12, 20), config=CONFIG, targets=f"latency={share}")
    assert found.latency is not None
    assert found.latency.ratio <= 1.01 * share
    assert sum(group.kept for group in found.groups if group.units != 32) % 4 == 0


def test_most_of_a_budget_is_used_where_many_groups_meet(kernels: None) -> None:
    """Of a stream that grows by a few channels a block the fastest model was all that met its budget: 0.26 of 0.8."""
    found = onnxprune.prune(joined(24, 4, 4, 4, 6, 6, 8, 8), config=CONFIG, targets="latency=0.8")
    assert found.latency is not None
    assert 0.55 <= found.latency.ratio <= 0.81


def test_sums_of_many_groups_are_asked_where_kernels_like_them(kernels: None) -> None:
    times, full = times_of(joined(24, 4, 4, 4, 6, 6, 8, 8))
    table = cost_table(times, full, {g: np.array([units // 2, units]) for g, units in enumerate(full)})
    for g, units in enumerate(full):
        assert table.alone[g][0] <= table.alone[g][1] + 1e-9, units


def test_other_budgets_are_met_with_widths_that_kernels_like_less(
    pretended: list[int], pretend_clock: Clock, macs_clock: Callable[[Model], float]
) -> None:
    """Groups of 34 stayed whole, and "macs cannot go below" was told of a budget that others of their widths meet."""
    pretend_clock(macs_clock)
    proto = joined(34, 34)
    assert 34 in kernel_steps(analyse(load(proto)), "cpu").steps
    found = onnxprune.prune(proto, config=CONFIG, targets=("latency=0.95", "macs=0.12"))
    assert found.after.macs <= 0.12 * found.before.macs


def test_any_width_is_any_width(
    pretended: list[int], pretend_clock: Clock, macs_clock: Callable[[Model], float]
) -> None:
    pretend_clock(macs_clock)
    options = {"round_to": 1, "branches": False, "keep": ("d",), "targets": "latency=0.9"}
    found = onnxprune.prune(joined(34, 34), config=CONFIG, **options)
    assert any(group.kept < 34 for group in found.groups if group.units == 34)


def test_candidates_may_need_different_widths(
    pretended: list[int], pretend_clock: Clock, macs_clock: Callable[[Model], float]
) -> None:
    """What one candidate was solved with says nothing of the widths that the next may have."""
    pretend_clock(macs_clock)
    rows = np.random.default_rng(0).standard_normal((80, 8, 12, 12)).astype(np.float32)
    config = replace(CONFIG, importance="reconstruction", repair=True)
    found = onnxprune.prune(joined(34, 34), rows, config=config, targets=("latency=0.95", "macs=0.12"), branches=False)
    assert found.after.macs <= 0.12 * found.before.macs

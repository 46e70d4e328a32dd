"""Width 0 in the tables of kernel times, and budgets of time that take whole branches away."""

from collections.abc import Callable

import numpy as np
import pytest

import onnxprune
from onnxprune.config import LatencyConfig, PruneConfig
from onnxprune.core.clock import no_progress
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.cost import cost_table
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.session import open_session
from onnxprune.structure.coupling import analyse

Kernels = list[int]
Clock = Callable[[Callable[[Model], float]], None]


def test_a_kernel_without_an_end_is_what_removal_leaves(network: Model) -> None:
    """Of a convolution nothing is left, of one with a residual Add the sum with its bias."""
    kernels = {kernel.nodes[0]: kernel for kernel in fused_kernels(analyse(network))}
    assert kernels["a0"].at((16, 0)) is None
    assert kernels["a0"].at((0, 16)) is None
    left = kernels["b0"].at((0, 16))
    assert left is not None
    assert [node.op_type for node in left.proto.graph.node if not node.name.startswith("stub")] == ["Add", "Relu"]
    outputs = open_session(left, engine=ONE_CORE).run(None, random_feed(left))
    assert all(np.isfinite(output).all() for output in outputs)


def test_fixed_costs_vanish_with_the_branch(network: Model, pretended: Kernels) -> None:
    """A single channel costs as much as eight; none costs nothing."""
    analysis = analyse(network)
    times = FusedKernelTimes(fused_kernels(analysis), TimeCache(None, {}), ONE_CORE, no_progress)
    full = [len(group) for group in analysis.groups]
    table = cost_table(times, full, {g: np.array([0, 1, 8, n]) for g, n in enumerate(full)})
    a0 = next(g for g, group in enumerate(analysis.groups) if group.producers == ("a0",))
    at = {k: table([k if g == a0 else n for g, n in enumerate(full)]) for k in (0, 1, 8, 16)}
    assert at[1] == pytest.approx(at[8])
    assert at[8] - at[0] > 0.9 * (at[16] - at[8])
    for kept in ([0 if g == a0 else n for g, n in enumerate(full)], [0, *full[1:]]):
        assert table(kept) == pytest.approx(times.total(kept), rel=1e-9)


def test_a_budget_of_time_takes_whole_branches(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Callable[[Model], float]
) -> None:
    pretend_clock(macs_clock)
    rows = np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)
    config = PruneConfig(latency=LatencyConfig(cache="off"), executor="serial", threads=1)
    found = onnxprune.prune(network, rows, config=config, targets="latency=0.68")
    assert found.latency is not None
    assert found.latency.ratio <= 0.68 * 1.01
    assert found.removed_blocks
    without = onnxprune.prune(network, rows, config=config, targets="latency=0.9", branches=False)
    assert not without.removed_blocks


def test_every_point_of_a_sweep_meets_its_budget(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Callable[[Model], float]
) -> None:
    pretend_clock(macs_clock)
    rows = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    config = PruneConfig(latency=LatencyConfig(cache="off"), executor="serial", threads=1)
    points = onnxprune.SweepConfig(target="latency", points=3, highest=0.9, lowest=0.6, latency=False)
    swept = onnxprune.sweep(network, rows, points=points, config=config)
    budgets = [point.target.value for point in swept.points]
    assert budgets == sorted(budgets, reverse=True)
    for point in swept.points:
        assert point.result.latency is not None
        assert point.result.latency.ratio <= 1.01 * point.target.value

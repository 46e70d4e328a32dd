"""From kernel times to tables and fast widths, with computed times."""

import numpy as np
import pytest

from onnxprune.core.clock import no_progress
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.cost import cost_table
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.latency.widths import fast_widths, grid
from onnxprune.structure.coupling import analyse


def site_times(model: Model) -> tuple[FusedKernelTimes, list[int]]:
    analysis = analyse(model)
    times = FusedKernelTimes(fused_kernels(analysis), TimeCache(None, {}), ONE_CORE, no_progress)
    return times, [len(group) for group in analysis.groups]


def test_the_table_is_exact_where_two_groups_meet(network: Model, pretended: list[int]) -> None:
    times, full = site_times(network)
    widths = {g: np.array([1, 4, 8, 12, n]) for g, n in enumerate(full)}
    table = cost_table(times, full, widths)
    rng = np.random.default_rng(1)
    for _ in range(20):
        kept = [int(rng.choice(widths[g])) for g in range(len(full))]
        assert table(kept) == pytest.approx(times.total(kept), rel=1e-9)


def test_another_reference_gives_the_same_exact_table(network: Model, pretended: list[int]) -> None:
    times, full = site_times(network)
    widths = {g: np.array([2, 8, n]) for g, n in enumerate(full)}
    kept = [8] * len(full)
    assert cost_table(times, full, widths)(kept) == pytest.approx(cost_table(times, kept, widths)(kept), rel=1e-9)


def test_equal_sites_are_measured_once(network: Model, pretended: list[int]) -> None:
    times, full = site_times(network)
    times.total(full)
    assert sum(pretended) == len({kernel.key for kernel in times.kernels}) < len(times.kernels)
    times.total(full)
    assert len(pretended) == 1


def test_widths_in_the_middle_of_a_block_are_not_fast(network: Model, pretended: list[int]) -> None:
    times, full = site_times(network)
    for own in fast_widths(times, full).values():
        assert own.tolist() == [8, 16]  # the pretended kernels work on blocks of 8


def test_fast_widths_obey_rounding(network: Model, pretended: list[int]) -> None:
    times, full = site_times(network)
    assert all(own.tolist() == [16] for own in fast_widths(times, full, 16).values())


@pytest.mark.parametrize("units", [1, 3, 8, 9, 16, 100, 512])
@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_grids_end_at_all_units(units: int, round_to: int) -> None:
    widths = grid(units, round_to)
    assert widths[-1] == units
    assert np.all(np.diff(widths) > 0)
    assert all(width % round_to == 0 or width == units for width in widths)
    assert len(widths) <= 11

"""The limit on the kernels' work beside a budget of multiply-adds."""

from itertools import product
from math import ceil

import numpy as np
import pytest

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.costs import budgets
from onnxprune.allocation.lean import lean
from onnxprune.allocation.problem import AllocationProblem
from onnxprune.allocation.work import KernelWork
from onnxprune.core.errors import BudgetError
from onnxprune.core.targets import Target
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.kernels import BLOCKED

CPU = BLOCKED["cpu"]
STEP = 4


@pytest.fixture(scope="module")
def analysis():
    """Two dense convolutions with a depthwise one between them, and a classifier."""
    return analyse(
        load(
            example(
                """g (float[N,3,8,8] x) => (float[N,5,1,1] y) {
                a = Conv <pads = [1, 1, 1, 1]> (x, wa)
                b = Conv <pads = [1, 1, 1, 1]> (a, wb)
                d = Conv <group = 64, pads = [1, 1, 1, 1]> (b, wd)
                c = Conv <strides = [2, 2]> (d, wc)
                p = GlobalAveragePool (c)
                y = Conv (p, wy) }""",
                {
                    "wa": (32, 3, 3, 3),
                    "wb": (64, 32, 3, 3),
                    "wd": (64, 1, 3, 3),
                    "wc": (48, 64, 1, 1),
                    "wy": (5, 48, 1, 1),
                },
            )
        )
    )


def by_hand(a, b, c):
    """Work of the network with these widths."""

    def padded(width):
        return CPU.block * ceil(width / CPU.block)

    def dense(ins, outs, positions, kernel, inputs):
        narrow = ins < CPU.block
        reads = (ins if narrow else padded(ins)) * padded(outs) * positions * kernel
        return reads + CPU.written * positions * padded(outs) + (CPU.reordered * inputs * ins if narrow else 0)

    first = 3 * padded(a) * 64 * 9 + CPU.written * 64 * padded(a)
    depthwise = CPU.written * 64 * padded(b)
    return first + dense(a, b, 64, 9, 64) + depthwise + dense(b, c, 16, 1, 64) + dense(c, 5, 1, 1, 1)


def all_widths(analysis):
    return {g: np.append(np.arange(STEP, len(group), STEP), len(group)) for g, group in enumerate(analysis.groups)}


def test_the_table_is_the_work_of_padded_convolutions(analysis):
    table = KernelWork(analysis, CPU).table(all_widths(analysis))
    assert [len(group) for group in analysis.groups] == [32, 64, 48]
    for kept in ((32, 64, 48), (32, 64, 36), (16, 60, 48), (12, 4, 8), (4, 16, 20), (28, 12, 4)):
        assert table(kept) == pytest.approx(by_hand(*kept), rel=1e-9)


def test_widths_that_are_slower_than_a_wider_one_are_left_out(analysis):
    own = KernelWork(analysis, CPU).not_slower(all_widths(analysis))
    assert 12 not in own[1]  # fewer than a block: the layout is changed, and a 1x1 convolution saves little
    assert {16, 32, 48, 64} <= set(own[1].tolist())
    assert all(widths[-1] == len(group) for widths, group in zip(own.values(), analysis.groups, strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.8, 0.5])
def test_no_more_work_than_is_allowed_and_no_more_damage_than_that_takes(analysis, seed, share):
    rng = np.random.default_rng(seed)
    damage = tuple(np.append(np.sort(rng.random(len(group)))[::-1], 0.0) for group in analysis.groups)
    limits = budgets(analysis, [Target("macs", share)], analysis.costs())
    work = KernelWork(analysis, CPU)
    table = work.table(all_widths(analysis))
    problem = AllocationProblem(damage, limits, allowed=all_widths(analysis))
    free = allocate(problem)
    last = free.objective
    for part in (1.0, 0.9, 0.8):
        most = part * table(free.kept)
        found = lean(problem, work, most, seed=0)
        assert all(budget.cost(found.kept) <= budget.limit for budget in limits)
        assert table(found.kept) <= most * (1 + 1e-9)
        assert len(found.predicted) == len(limits)
        assert found.objective >= last - 1e-9
        last = found.objective
        own = [widths for _, widths in sorted(work.not_slower(all_widths(analysis)).items())]
        possible = [k for k in product(*own) if limits[0].cost(k) <= limits[0].limit and table(k) <= most]
        by_hand = min(sum(curve[units] for curve, units in zip(damage, k, strict=True)) for k in possible)
        assert found.objective == pytest.approx(by_hand, abs=2e-3)


def test_work_that_no_widths_come_down_to_is_refused(analysis):
    damage = tuple(np.linspace(1.0, 0.0, len(group) + 1) for group in analysis.groups)
    limits = budgets(analysis, [Target("macs", 0.9)], analysis.costs())
    with pytest.raises(BudgetError):
        lean(AllocationProblem(damage, limits, allowed=all_widths(analysis)), KernelWork(analysis, CPU), 1.0, seed=0)


def test_whole_branches_do_no_work(analysis):
    widths = {g: np.insert(own, 0, 0) for g, own in all_widths(analysis).items()}
    work = KernelWork(analysis, CPU)
    rest = 3 * 32 * 64 * 9 + CPU.written * (64 * 32 + 16 * 48 + CPU.block) + 48 * CPU.block
    assert work.table(widths)((32, 0, 48)) == pytest.approx(rest, rel=1e-9)
    # Only without the branch in the middle there is less than a tenth of the work.
    damage = tuple(np.linspace(1.0, 0.0, len(group) + 1) for group in analysis.groups)
    limits = budgets(analysis, [Target("macs", 0.1)], analysis.costs())
    problem = AllocationProblem(damage, limits, allowed=all_widths(analysis), whole=frozenset({1}))
    found = lean(problem, work, work.table(all_widths(analysis))([len(group) for group in analysis.groups]), seed=0)
    assert found.kept[1] == 0
    assert limits[0].cost(found.kept) <= limits[0].limit

"""The program lets whole branches go, and what goes along with them."""

import numpy as np
import pytest
from oracle import analysed

from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import by_budget
from onnxprune.allocation.widths import Widths
from onnxprune.config import PruneConfig
from onnxprune.core.errors import BudgetError
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.core.targets import Target
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.costs import count_costs
from onnxprune.structure.removal import remove

CHAIN = example(
    """g (float[N,3,8,8] x) => (float[N,8,A,B] y) {
    s = Conv (x, w0)
    a = Conv (s, w1)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    q = Relu (b)
    c = Conv (q, w3)
    y = Add (s, c) }""",
    {"w0": (8, 3, 1, 1), "w1": (5, 8, 1, 1), "w2": (6, 5, 3, 3), "b2": (6,), "w3": (8, 6, 1, 1)},
)
PARTS = example(
    """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
    h = Conv (x, w1)
    i = Conv (x, w2)
    k = Conv (x, w3)
    c = Concat <axis = 1> (h, i, k)
    y = Conv (c, w4) }""",
    {"w1": (8, 3, 1, 1), "w2": (5, 3, 1, 1), "w3": (4, 3, 1, 1), "w4": (4, 17, 3, 3)},
)


def scores(a: Analysis, lost: float) -> Scores:
    """A little damage for each group, whatever is left of it: the first steps cost most."""
    groups = []
    for group in a.groups:
        damage = lost * np.append(np.full(len(group), 1.0) + np.arange(len(group), 0, -1) / 100, 0.0)
        groups.append(GroupScore(group.name, np.arange(len(group)), np.ones(len(group)), damage, whole=True))
    return Scores(tuple(groups))


def kept(a: Analysis, share: float, keep: tuple[str, ...] = (), **options: bool) -> dict[str, int]:
    before = count_costs(a.model, a)
    targets = budgets(a, [Target("macs", share)], before)
    widths = Widths.multiples([len(group) for group in a.groups])
    decision = by_budget(a, scores(a, 1.0), targets, widths, PruneConfig(keep=keep), **options)
    after = count_costs(remove(a, decision.removed))
    assert after.macs <= share * before.macs
    return dict(zip((group.name for group in a.groups), a.kept(decision.removed), strict=True))


def test_a_branch_goes_with_what_only_feeds_it() -> None:
    a = analysed(CHAIN)
    assert kept(a, 0.1, branches=True) == {"a": 0, "b": 0}
    assert min(kept(a, 0.2).values()) > 0


def test_a_kept_group_does_not_go_along_with_a_branch() -> None:
    a = analysed(CHAIN)
    assert kept(a, 0.1, branches=True) == {"a": 0, "b": 0}
    with pytest.raises(BudgetError):
        kept(a, 0.2, keep=("a",), branches=True)
    assert kept(a, 0.35, keep=("a",), branches=True)["a"] == 5


def test_not_all_parts_of_a_concat_go() -> None:
    a = analysed(PARTS)
    found = kept(a, 0.1, branches=True)
    assert 0 < sum(width > 0 for width in found.values()) < 3

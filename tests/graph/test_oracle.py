"""Properties of removal over random graphs."""

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracle import analysed, assert_close, check_removal, random_feed, random_removal, run
from random_graphs import graphs

from onnxprune.graph.model import to_proto
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
property_test = settings(max_examples=60, deadline=None, suppress_health_check=SLOW, derandomize=True)


@property_test
@given(graphs(), st.floats(0.1, 1), st.integers(0, 99))
def test_pruned_equals_masked(proto: onnx.ModelProto, share: float, seed: int) -> None:
    a = analysed(proto)
    check_removal(a, random_removal(a, share, np.random.default_rng(seed)), seed, batch=2)


@property_test
@given(graphs())
def test_removing_nothing_changes_nothing(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString(deterministic=True)
    a = analysed(proto)
    same = remove(a, a.none_removed())
    assert to_proto(same).SerializeToString(deterministic=True) == before
    assert proto.SerializeToString(deterministic=True) == before


@settings(property_test, max_examples=40)
@given(graphs(), st.floats(0.1, 0.7), st.floats(0.1, 0.7), st.integers(0, 99))
def test_in_two_steps_or_in_one(proto: onnx.ModelProto, first: float, second: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = analysed(proto)
    early, late = random_removal(a, first, rng), random_removal(a, second, rng)
    both = _leave_one(a, early | late)
    early &= both
    b = analysed(remove(a, early))
    together = remove(a, both)
    apart = remove(b, _carried(a, b, early, both))
    assert analysed(together).costs() == analysed(apart).costs() == a.costs(both)
    feed = random_feed(a, rng, batch=2)
    assert_close(run(apart, feed), run(together, feed), run(a.model, feed))


@settings(property_test, max_examples=20)
@given(graphs(), st.integers(0, 99))
def test_same_seed_same_bytes(proto: onnx.ModelProto, seed: int) -> None:
    written = []
    for _ in range(2):
        a = analysed(proto)
        removed = random_removal(a, 0.5, np.random.default_rng(seed))
        smaller = to_proto(remove(a, removed))
        written.append(smaller.SerializeToString(deterministic=True))
    assert written[0] == written[1]


def _leave_one(a: Analysis, removed: Ids) -> Ids:
    """The mask without what would empty a group."""
    kept = removed.copy()
    for group in a.groups:
        if kept[group.units].all():
            kept[group.units[0]] = False
    return kept


def _carried(a: Analysis, b: Analysis, early: Ids, both: Ids) -> Ids:
    """`both` in the units that are left after `early`: found where labels of the same tensor axis stand."""
    removed, kept = b.none_removed(), b.none_removed()
    for tensor, axes in b.labels.items():
        for now, before in zip(axes, a.labels.get(tensor, ()), strict=False):
            if now is not None and before is not None:
                left = before[~early[before]]
                removed[now[both[left]]] = True
                kept[now[~both[left]]] = True
    # A grouped convolution or a shuffle that is left with one channel a group couples otherwise than before.
    assume(not (removed & kept).any())
    return removed

"""What can go without loss goes first, whatever the scorer, the budget or the threshold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redundant import WEIGHTS, assert_same, build, constant, never_positive, silent, twins

import onnxprune
from onnxprune.api.result import PruneResult
from onnxprune.calibration.runner import Runner
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import AccuracyError, ModelError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.scores import GroupScore
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.lossless import lossless
from onnxprune.pipeline import floor
from onnxprune.pipeline.prepare import prepare, score
from onnxprune.pipeline.shrink import lossless_part
from onnxprune.structure.removal import masked

IMPORTANCE = ("magnitude", "magnitude-l1", "activation", "random", "reconstruction", "oamip", "snip")


def wasteful(weights):
    """Five units of the first group and one of the second need not be there."""
    silent(weights)
    twins(weights)
    constant(weights)
    weights["bias"][0], weights["scale"][0] = -2.0, 0.0
    never_positive(weights)
    weights["w0"][[2, 5]] *= 50.0  # the norm of what is never seen says nothing


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, 3, 6, 6)).astype(np.float32)


def run(change, images, **options) -> tuple[PruneResult, PruneResult]:
    """A run, and one that removes only what goes without loss."""
    proto = build(0, change)
    return onnxprune.prune(proto, images, **options), onnxprune.prune(proto, lossless=True)


def is_among(fewer: PruneResult, more: PruneResult) -> bool:
    return all({*units} <= {*more.plan.removed.get(group, ())} for group, units in fewer.plan.removed.items())


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_a_budget_that_it_meets_alone_costs_nothing(images, importance, tmp_path):
    if importance == "snip":
        pytest.importorskip("torch")
    proto = build(0, wasteful)
    alone = onnxprune.prune(proto, lossless=True)
    assert sum(map(len, alone.plan.removed.values())) == 6
    for target in (alone.after.macs, 1.0):
        found = onnxprune.prune(proto, images, targets=f"macs={target}", importance=importance, repair=False)
        found.save(tmp_path / "out.onnx")
        assert found.plan.removed == alone.plan.removed
        assert found.after == alone.after
        assert_same(load(proto), found.model)
        assert "6 units went without loss: 5 constant for every input, 1 equal to another unit" in found.notes
        assert "lossless" in found.timings


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("budget", [{"targets": "macs=0.2"}, {"threshold": "0"}, {"threshold": "mean"}])
def test_it_is_always_among_what_goes(images, importance, budget):
    if importance == "snip":
        pytest.importorskip("torch")
    found, alone = run(wasteful, images, importance=importance, repair=False, **budget)
    assert is_among(alone, found)
    if budget == {"threshold": "0"}:
        assert found.plan.removed == alone.plan.removed


def test_largest_norms_do_not_keep_what_is_never_seen(images):
    prepared = prepare(build(0, wasteful), images, PruneConfig(importance="magnitude"), PreprocessConfig())
    first = score(prepared, PruneConfig(importance="magnitude")).groups[0]
    assert {*first.order[:5]} == {0, 2, 4, 5, 6}
    assert not first.scores[[0, 2, 4, 5, 6]].any()
    assert not first.damage[3:].any()
    assert first.damage[2] > 0
    # The largest of the others sets the scale.
    assert first.scores.max() == 1.0


def test_repair_finds_nothing_to_do(images):
    found, alone = run(wasteful, images, targets="macs=1.0")
    assert found.plan.removed == alone.plan.removed
    assert_same(load(build(0, wasteful)), found.model)


def test_repair_aims_at_the_original_behind_a_merged_unit(images):
    proto = build(0, wasteful)
    results = [onnxprune.prune(proto, images, targets="macs=0.25", repair=repair) for repair in (False, True)]
    wanted = Runner(load(proto), engine=ONE_CORE).run_feed({"x": images})["y"]
    plain, repaired = (
        np.square(Runner(r.model, engine=ONE_CORE).run_feed({"x": images})["y"] - wanted).sum() for r in results
    )
    assert results[0].plan.removed == results[1].plan.removed
    assert repaired < plain


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize(("target", "round_to"), [("macs=0.3", 1), ("macs=0.45", 4), ("macs=1.0", 4)])
def test_a_plan_gives_the_same_file(images, repair, target, round_to):
    options = {"repair": repair, "round_to": round_to}
    first, _ = run(wasteful, images, targets=target, importance="magnitude", **options)
    again, _ = run(wasteful, images, plan=PrunePlan.from_json(first.plan.to_json()), **options)
    assert again.proto.SerializeToString(deterministic=True) == first.proto.SerializeToString(deterministic=True)
    assert again.notes == first.notes


def test_a_plan_that_takes_one_of_two_twins_loses_nothing():
    proto = build(1, twins)
    other = onnxprune.prune(proto, lossless=True)
    for taken in (3, 6):
        plan = replace(other.plan, removed=dict.fromkeys(other.plan.removed, (taken,)))
        assert_same(load(proto), onnxprune.prune(proto, plan=plan).model)


@pytest.mark.parametrize("budget", [{"targets": "macs=1.0"}, {"threshold": "0"}, {"lossless": True}])
def test_what_may_not_go_stays_as_it_was(images, budget):
    proto = build(0, wasteful)
    whole = load(proto)
    names = [group.name for group in prepare(proto, None, PruneConfig(), PreprocessConfig()).analysis.groups]
    options = {"importance": "magnitude", "repair": False, **budget}
    kept = onnxprune.prune(proto, images, keep=(f"re:^{names[0]}$",), **options)
    assert [group.kept for group in kept.groups] == [8, 5]
    assert np.array_equal(kept.model.constants["b1"], np.delete(whole.constants["b1"], 1))
    # 3 of 8 would be left; the next multiple of 4 is 4, and of 6 the next to 5 is 6.
    rounded = onnxprune.prune(proto, images, round_to=4, **options)
    assert [group.kept for group in rounded.groups] == [4, 6]
    assert any("4 units went without loss" in note for note in rounded.notes)
    for result in (kept, rounded):
        assert_same(whole, result.model)


def test_a_file_whose_moved_weights_are_wrong_is_refused(images, tmp_path, monkeypatch):
    def wrong(*given):
        found = lossless(*given)
        shifted = found.model.with_constants({"b1": found.model.constants["b1"] + 1.0})
        return replace(found, analysis=found.analysis.with_model(shifted))

    monkeypatch.setattr("onnxprune.pipeline.prepare.lossless", wrong)
    result = onnxprune.prune(build(0, wasteful), images, targets="macs=0.5", importance="magnitude", repair=False)
    with pytest.raises(ModelError, match="constant and equal units"):
        result.save(tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_found_only_the_question_is_answered(images):
    found, alone = run(lambda weights: None, images, targets="macs=0.6", importance="magnitude", repair=False)
    assert not alone.plan.removed
    assert not any("without loss" in note for note in found.notes)
    (said,) = [note for note in alone.notes if "without loss" in note]
    assert said.startswith("no unit can go without loss, so that all of them stay")
    assert not alone.warnings


@pytest.mark.parametrize("resolution", [0.01, 0.3])
def test_a_floor_that_nothing_else_meets_leaves_it(images, monkeypatch, resolution):
    # The coarser search ends at 75 % of the multiply-adds, far below what goes without loss.
    monkeypatch.setattr(floor, "_RESOLUTION", resolution)
    proto, rng = build(0, never_positive), np.random.default_rng(1)
    varied = (rng.standard_normal((4000, 3, 6, 6)) + rng.normal(0, 10, (4000, 3, 1, 1))).astype(np.float32)
    options = {"evaluation": varied, "max_drop": 0.0, "importance": "random", "repair": False}
    found = onnxprune.prune(proto, images, **options)
    assert found.plan.removed == onnxprune.prune(proto, lossless=True).plan.removed
    with pytest.raises(AccuracyError, match="no smaller model"):
        onnxprune.prune(build(0, lambda weights: None), images, **options)


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["random", "magnitude"]),
    st.floats(0.1, 1.0),
    st.integers(1, 3),
    st.integers(0, 1),
)
def test_costs_are_exact_and_outputs_those_of_the_oracle(seed, importance, share, round_to, pads):
    rng = np.random.default_rng(seed)

    def change(weights):
        for name in WEIGHTS:
            if rng.random() < 0.5 and name != "var":
                weights[name][rng.integers(len(weights[name]))] = 0.0
        if rng.random() < 0.6:
            twins(weights)
        if rng.random() < 0.6:
            silent(weights)

    proto = build(pads, change)
    config = PruneConfig(importance=importance, repair=False, round_to=round_to, seed=seed)
    prepared = prepare(proto, None, config, PreprocessConfig())
    least = prepared.analysis.costs(
        prepared.analysis.removal({g.name: range(1, len(g)) for g in prepared.analysis.groups})
    )
    target = max(share, least.macs / prepared.before.macs if round_to == 1 else 0.7)
    result = onnxprune.prune(proto, config=config, targets=f"macs={target}")
    removed = prepared.analysis.removal(result.plan.removed)
    assert prepared.analysis.costs(removed).macs == result.after.macs
    exact = lossless_part(prepared, removed, Clock())
    assert_same(load(proto), exact.model)
    assert_same(masked(exact.analysis, removed), load(to_proto(result.model)))
    if round_to == 1:
        assert is_among(onnxprune.prune(proto, lossless=True), result)


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_others_add_what_they_added(seed, units):
    rng = np.random.default_rng(seed)
    energy, free = rng.random(units), rng.random(units) < 0.4
    free[rng.integers(units)] = False
    order = np.argsort(energy)
    damage = np.concatenate([[0.0], np.cumsum(energy[order])])[::-1]
    found = GroupScore("g", order, energy, damage).with_free(free)
    assert sorted(found.order) == list(range(units))
    assert {*found.order[: found.free]} == {*np.flatnonzero(free)}
    for kept in range(1, units + 1):
        gone = found.order[: units - kept]
        np.testing.assert_allclose(found.damage[kept], energy[gone][~free[gone]].sum(), atol=1e-12)

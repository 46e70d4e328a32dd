"""Trials between allocations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import Decision, by_budget
from onnxprune.allocation.widths import Widths
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import split_rows
from onnxprune.config import OutputConfig, PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.costs import Costs
from onnxprune.core.results import ProgramReport
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.core.targets import Target
from onnxprune.outputs.divergence import divergence
from onnxprune.outputs.reading import read_meaning
from onnxprune.pipeline.decide import decide
from onnxprune.pipeline.prepare import Prepared, prepare, score
from onnxprune.pipeline.trials import FULL_COST, Loss, Trials, affordable, least_lost, worthwhile
from onnxprune.repair import QUICK

MODELS = Path(__file__).parents[1] / "models"
SCALED = PreprocessConfig(mean=(0.1307,), std=(0.3081,))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.asarray(np.load(MODELS / "mnist_calibration.npz")["x"])


@pytest.fixture(scope="module")
def prepared(images: np.ndarray) -> Prepared:
    return prepare(MODELS / "fc3_mnist.onnx", images[:200], PruneConfig(), SCALED)


def without(prepared: Prepared, units: int) -> Decision:
    """The last group loses so many units."""
    removed = prepared.analysis.none_removed()
    removed[prepared.analysis.groups[-1].units[:units]] = True
    return Decision(removed, ProgramReport("optimal"), {}, float(units), notes=("known",))


def best(
    prepared: Prepared, decisions: Sequence[Decision], config: PruneConfig, progress: Progress = no_progress
) -> Decision:
    """The decision that loses least by trial."""
    with Trials(prepared, config, progress, most=9) as trials:
        return least_lost(list(zip(decisions, trials.losses(decisions), strict=True)), trials.rows)


@pytest.mark.parametrize("turned", [False, True])
def test_the_one_that_harms_less_is_taken_whatever_comes_first(prepared: Prepared, turned: bool) -> None:
    much, little = without(prepared, len(prepared.analysis.groups[-1]) - 2), without(prepared, 3)
    candidates = [much, little] if turned else [little, much]
    found = best(prepared, candidates, PruneConfig())
    assert np.array_equal(found.removed, little.removed)
    assert found.notes[0] == "known"
    assert "of 2 allocations" in found.notes[1]


def test_trials_of_an_earlier_run_are_not_made_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated command with --cache spent two thirds of its time on trials that it had made before."""
    module, made = import_module("onnxprune.pipeline.trials"), list[bool]()
    shrink = module.shrink

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args[-1] is QUICK)
        return shrink(*args, **options)

    monkeypatch.setattr(module, "shrink", counted)
    candidates = [without(prepared, 3), without(prepared, 9)]
    config = PruneConfig(cache=str(tmp_path))

    def losses(config: PruneConfig, **how: bool) -> list[Loss]:
        made.clear()
        with Trials(prepared, config, no_progress, most=9) as trials:
            return trials.losses(candidates, **how)

    first = losses(config)
    assert made == [True, True]
    assert losses(config) == first
    assert not made
    losses(config, full=True)
    assert made == [False, False]
    losses(config, again=True)  # other rows
    assert made == [True, True]
    losses(replace(config, outputs=OutputConfig(weights=("logits=2",))))
    assert made == [True, True]


def test_no_trials_without_repair_or_rows_or_in_large_networks(prepared: Prepared) -> None:
    assert worthwhile(prepared, PruneConfig())
    assert not worthwhile(prepared, PruneConfig(repair=False))
    assert not worthwhile(replace(prepared, rows=None), PruneConfig())
    assert prepared.rows is not None
    few = split_rows(prepared.rows.rows.take(range(63)))
    assert not worthwhile(replace(prepared, rows=few), PruneConfig())
    assert not worthwhile(heavier(prepared, 2 * 10**9), PruneConfig())


def test_prune_tries_powers_and_does_no_worse_on_other_rows(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(powers: tuple[float, ...]) -> onnxprune.PruneResult:
        monkeypatch.setattr(import_module("onnxprune.importance.reconstruction.score"), "_OTHER_JOINT", powers)
        return onnxprune.prune(
            MODELS / "fc3_mnist.onnx", images[:200], preprocess=SCALED, targets="params=0.2", round_to=1
        )

    def lost(result: onnxprune.PruneResult) -> float:
        judge = prepare(MODELS / "fc3_mnist.onnx", images[200:], PruneConfig(), SCALED)
        assert judge.data is not None
        meaning = read_meaning(judge.analysis)
        reference = collect(judge.model, judge.data, meaning.outputs)
        return divergence(reference, collect(result.model, judge.data, meaning.outputs), meaning)

    tried, plain = run((0.2,)), run(())
    assert any("allocations that were tried" in note for note in tried.notes)
    assert not any("allocations" in note for note in plain.notes)
    assert tried.timings["trials"] > tried.timings["remove"]
    assert "trials" not in plain.timings
    assert lost(tried) <= lost(plain)


def test_the_other_allocations_and_their_repair_are_no_part_of_the_first(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PruneConfig(targets=(Target("params", 0.5),), round_to=1)
    scores = replace(score(prepared, replace(config, importance="magnitude")), powers=(0.2, 5.0))
    stages: list[str] = []
    clock = Clock(lambda stage, done, total: stages.append(stage) if (done, total) == (0, 0) else None)

    def solve(*given: object, **options: object) -> Decision:
        stages.append("solve")
        return by_budget(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxprune.pipeline.candidates.by_budget", solve)
    steps: list[tuple[str, int, int]] = []
    found = decide(prepared, scores, config, clock, lambda *step: steps.append(step))
    assert stages == ["allocate", "solve", "trials", "solve", "solve"]
    assert [*clock.seconds] == ["allocate", "trials"]
    assert any("allocations" in note for note in found.notes)
    assert steps[0] == ("trials", 0, steps[0][2])
    assert steps[-1] == ("trials", steps[0][2], steps[0][2])
    decide(prepared, scores, replace(config, repair=False), clock, no_progress)
    assert stages[5:] == ["allocate", "solve"]


def test_of_equal_decisions_the_first_is_reported(prepared: Prepared) -> None:
    first, again = without(prepared, 3), replace(without(prepared, 3), damage=7.0)
    found = best(prepared, [first, again, without(prepared, 5)], PruneConfig())
    assert found.damage != 7.0


def test_trials_in_other_processes_come_to_the_same(prepared: Prepared) -> None:
    decisions = [without(prepared, units) for units in (6, 3)]
    here, elsewhere = (best(prepared, decisions, PruneConfig(executor=name)) for name in ("serial", "processes"))
    assert here.notes == elsewhere.notes
    assert np.array_equal(here.removed, elsewhere.removed)


def test_progress_is_told_after_each_trial(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """All trials of one process were over before the first was told of."""
    told: list[str] = []
    whole = import_module("onnxprune.pipeline.shrink").shrink

    def shrink(*given: Any, **options: Any) -> Any:
        told.append("trial")
        return whole(*given, **options)

    monkeypatch.setattr("onnxprune.pipeline.trials.shrink", shrink)
    decisions = [without(prepared, units) for units in (6, 3)]
    best(prepared, decisions, PruneConfig(executor="serial"), lambda stage, done, total: told.append(str(done)))
    assert told == ["0", "trial", "1", "trial", "2"]


@pytest.mark.parametrize("tried", [True, False])
def test_a_group_that_seems_worth_nothing_is_not_cut_to_its_last_unit(prepared: Prepared, tried: bool) -> None:
    """No row had been hurt at a quarter of it: one of 256 units was left, and 19.6 % of the digits were right."""
    config = PruneConfig(targets=(Target("params", 0.5),), round_to=1, repair=tried)
    known = score(prepared, config)
    *others, last = known.groups
    scores = replace(known, groups=(*others, replace(last, damage=1e-7 * last.damage)))
    exact = budgets(prepared.analysis, config.targets, prepared.before)
    widths = Widths.multiples([len(group) for group in prepared.analysis.groups])
    alone = by_budget(prepared.analysis, scores, exact, widths, config)
    first, found = (
        prepared.analysis.kept(decision.removed)[-1] / len(prepared.analysis.groups[-1])
        for decision in (alone, decide(prepared, scores, config, Clock(), no_progress))
    )
    assert first < 0.1
    assert found >= 0.25


def test_cautious_scores_are_dearer_below_a_quarter_alone() -> None:
    damage = np.linspace(1, 0, 9) ** 2
    group = GroupScore("g", np.arange(8), np.linspace(0, 1, 8), damage)
    small = GroupScore("s", np.arange(3), np.linspace(0, 1, 3), np.linspace(5, 0, 4))
    careful = Scores((group, small)).cautious()
    np.testing.assert_allclose(careful.groups[0].damage - damage, [damage[2]] * 2 + [0] * 7)
    np.testing.assert_array_equal(careful.groups[1].damage, small.damage)


def heavier(prepared: Prepared, macs: int) -> Prepared:
    return replace(prepared, before=Costs(**{**prepared.before, "macs": macs}))


def test_larger_networks_are_tried_on_fewer_rows(prepared: Prepared) -> None:
    assert affordable(prepared, 9) == (prepared, 9)
    large, most = affordable(heavier(prepared, 16 * 10**7), 9)
    assert most == 9
    assert large.rows is not None
    assert prepared.rows is not None
    assert 128 <= len(large.rows.data) <= 134 + len(prepared.rows.trial()[1])
    judges, before = ({*rows.trial()[1].rows.tolist()} for rows in (large.rows, prepared.rows))
    assert before < judges  # which take little time
    assert judges - before < {*prepared.rows.fit.rows.tolist()} - {*large.rows.fit.rows.tolist()}
    assert {*large.rows.fit.rows.tolist()} < {*prepared.rows.fit.rows.tolist()}
    assert {*large.rows.curves.rows.tolist()} < {*prepared.rows.curves.rows.tolist()}
    assert worthwhile(large, PruneConfig())


def test_trials_are_bounded_by_the_work_of_all_of_them(prepared: Prepared) -> None:
    """A network of 300 million multiply-adds and 150 rows was tried for more than ten minutes."""
    assert affordable(prepared, 14) == (prepared, 14)
    rows_only, all_of_them = affordable(heavier(prepared, 10**8), 14)
    assert rows_only.rows is not None
    assert all_of_them == 14
    assert prepared.rows is not None
    assert len(rows_only.rows.fit) < len(prepared.rows.fit)
    fewer, most = affordable(heavier(prepared, 10**9), 14)
    assert fewer.rows is not None
    assert len(fewer.rows.fit) <= 90
    assert 2 <= most < 14


@pytest.mark.parametrize(("round_to", "most"), [("kernel", 3), (1, 2)])
def test_a_decision_makes_no_more_trials_than_it_may(
    round_to: str | int, most: int, corpus_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).random((80, 1, 28, 28), np.float32)
    config = PruneConfig(targets=(Target("macs", 0.6),), importance="magnitude", round_to=round_to)
    prepared = prepare(corpus_path("small/mb_ts.onnx"), rows, config, PreprocessConfig())
    scores = replace(score(prepared, config), powers=(0.5, 2.0))
    made: list[bytes] = []

    def losses(self: Trials, decisions: Sequence[Decision], **how: bool) -> list[Loss]:
        self.left -= len(decisions) * (FULL_COST if how.get("full") else 1)
        made.extend(decision.removed.tobytes() for decision in decisions)
        return [Loss(1.0, 1.0) for _ in decisions]

    monkeypatch.setattr(Trials, "losses", losses)
    free = decide(prepared, scores, config, Clock(), no_progress)
    assert len(made) > most
    assert not any("the model is large" in note for note in free.notes)
    made.clear()
    monkeypatch.setattr("onnxprune.pipeline.decide.affordable", lambda prepared, wanted, *_: (prepared, most))
    held = decide(prepared, scores, config, Clock(), no_progress)
    assert len(made) == most
    assert any(f"there were {most} trials at most" in note for note in held.notes)


def test_what_trials_share_is_made_once(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original ran anew, and processes started anew, for each of up to three calls of a decision."""
    ran: list[int] = []

    def once(model: Any, data: Any, *given: Any, **options: Any) -> Any:
        if model is prepared.model:
            ran.append(len(data))
        return collect(model, data, *given, **options)

    monkeypatch.setattr("onnxprune.pipeline.trials.collect", once)
    with Trials(prepared, PruneConfig(executor="serial"), most=9) as trials:
        first = trials.losses([without(prepared, 3)])
        assert trials.losses([without(prepared, 3)]) == first
        assert trials.losses([without(prepared, 3)], again=True) != first
        trials.losses([without(prepared, 3)], again=True)
        assert trials.left == 5
    assert len(ran) == 2


def test_a_few_rows_that_lose_much_do_not_decide_alone() -> None:
    """Thirty rows of which one loses a hundred times as much: the mean of the worse candidate may be the smaller."""
    better, worse = np.ones(30), np.full(30, 2.0)
    better[0] = 30.0
    loss, more = Loss.of(better), Loss.of(worse)
    assert more.mean <= 1.25 * loss.mean
    assert not more.is_near(loss, 1.25, 1e-3)
    assert not loss.is_near(Loss(1.0, 1.0), 1.25, 1e-3)
    assert Loss.of(1.2 * better).is_near(loss, 1.25, 1e-3)
    assert Loss(2e-4, 2e-4).is_near(Loss(1e-4, 1e-4), 1.25, 1e-3)

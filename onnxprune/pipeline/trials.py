"""Trials: prunes and repairs several candidates, and keeps the one whose outputs are closest to the original's.

The allocation program adds up damage that was measured with one group pruned at a time. What several pruned groups do
together is more than that sum, and how much more differs between networks. So the program is solved several times, with
every damage curve raised to another power; each answer is pruned and repaired, and rows that repair never saw decide.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from onnxprune.allocation.decide import Decision
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.fingerprint import fingerprint, provider_entry
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import Fitting
from onnxprune.config import PruneConfig
from onnxprune.core.cache import Cache
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.execution import TaskExecutor, in_this_process, open_executor, share, shared
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.padding import real_positions
from onnxprune.outputs.reading import read_meaning
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.shrink import shrink
from onnxprune.structure.units import Ids

_LEAST_ROWS = 64
_MOST_WORK = 1.5e11  # multiply-adds of a pass over the rows: in larger networks repair takes too long to be done often
_MOST_IN_ALL = 2e11  # of the passes of all trials of a decision
_FEW, _MOST_OF_FEW = 7, 6e11  # trials that may take more
FULL_COST = 3  # how many trials with a quick repair one with a full repair takes as long as
_FITTED_WELL = 128  # rows from which on others may be left out
_LARGE = 5e9  # of the same: work for which starting worker processes pays


@dataclass(frozen=True, slots=True)
class Loss:
    """How far a candidate's outputs are from the original's, over the rows that judge.

    Attributes:
        mean: of the rows' divergences.
        typical: square of the mean of their roots: a few rows that lose far more than the others move it less.
    """

    mean: float
    typical: float

    @classmethod
    def of(cls, rows: np.ndarray) -> "Loss":
        """The loss of `(rows,)` divergences."""
        return cls(float(rows.mean()), float(np.sqrt(rows).mean() ** 2))

    def both(self, other: "Loss") -> "Loss":
        """The loss over as many other rows too."""
        return Loss((self.mean + other.mean) / 2, (self.typical + other.typical) / 2)

    def is_near(self, other: "Loss", factor: float, slight: float) -> bool:
        """Whether this is at most so many times another, or that much more, however rows are weighed.

        Few rows judge. Where some of them lose far more than the others, a mean says little, and that both agree says
        more.
        """
        pairs = ((self.mean, other.mean), (self.typical, other.typical))
        return all(mine <= max(factor * theirs, theirs + slight) for mine, theirs in pairs)


def worthwhile(prepared: Prepared, config: PruneConfig) -> bool:
    """Whether trials are possible and quick enough: there are calibration rows, and repair is switched on."""
    split = prepared.rows
    if split is None or not split.has_trials or not config.repair:
        return False
    return prepared.before.macs * min(len(split.data), _FITTED_WELL) <= _MOST_WORK


def affordable(prepared: Prepared, wanted: int, further: int = 0) -> tuple[Prepared, int]:
    """How many of the trials that a decision asks for can be made, and on which rows: first those to fit are left out.

    Args:
        prepared: the model and its rows.
        wanted: trials.
        further: trials that are made on all rows only.
    """
    split, macs = prepared.rows, max(1, prepared.before.macs)
    if split is None or macs * len(split.data) * wanted <= _MOST_IN_ALL:
        passes = wanted if split is None else int(_MOST_IN_ALL // (macs * max(1, len(split.data))))
        return prepared, min(wanted + further, max(wanted, passes))
    rows = min(len(split.data), max(_FITTED_WELL, int(_MOST_IN_ALL // (macs * wanted))))
    few, many = (int(work // (macs * rows)) for work in (_MOST_OF_FEW, _MOST_IN_ALL))
    return dataclasses.replace(prepared, rows=split.fewer(rows)), min(wanted, max(many, min(_FEW, few)))


class Trials(AbstractContextManager["Trials"]):
    """Trials of one decision: how far pruned and repaired candidates are from the original on rows that judge alone.

    What trials share is made once, when the first of them needs it: the executor, and the original's outputs.

    Args:
        prepared: the model and calibration rows.
        config: options of the repair.
        progress: told of trials.
        executor: where trials run; by default where `config.executor` says.
        most: how many trials there may be.

    Attributes:
        left: how many there may still be, by a quick repair; one with a full repair counts as `FULL_COST` of them.
    """

    def __init__(
        self,
        prepared: Prepared,
        config: PruneConfig,
        progress: Progress = no_progress,
        executor: Executor | None = None,
        *,
        most: int,
    ) -> None:
        self.left = most
        self._prepared, self._config, self._progress, self._given = prepared, config, progress, executor
        self._open = ExitStack()
        self._tasks: TaskExecutor | None = None
        self._handles: dict[bool, Any] = {}

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def rows(self) -> int:
        """How many rows judge."""
        return 0 if self._prepared.rows is None else len(self._prepared.rows.trial()[1])

    def losses(self, decisions: Sequence[Decision], *, full: bool = False, again: bool = False) -> list[Loss]:
        """How much each candidate loses.

        Args:
            decisions: the candidates; each is tried once.
            full: whether they are repaired nearly as the last model is.
            again: whether other rows than usual judge, for a closer look.
        """
        self.left -= len(decisions) * (FULL_COST if full else 1)
        handle, tasks = self._shared(again=again)
        losses: list[Loss] = []
        self._progress("trials", 0, len(decisions))
        futures = (tasks.submit(_loss, handle, decision.removed, full) for decision in decisions)
        for future in futures if in_this_process(tasks) else [*futures]:  # one after the other, or side by side
            losses.append(future.result())
            self._progress("trials", len(losses), len(decisions))
        return losses

    def _shared(self, *, again: bool) -> tuple[Any, TaskExecutor]:
        """What a trial needs, where it runs; and what runs it."""
        prepared, config = self._prepared, self._config
        assert prepared.rows is not None  # see `worthwhile`
        if self._tasks is None:
            large = prepared.before.macs * len(prepared.rows.data) > _LARGE and config.memory is None
            opened = open_executor(config.executor, config.workers, large=large)
            self._tasks = TaskExecutor(self._given or self._open.enter_context(opened))
        if again not in self._handles:
            rows, judge = prepared.rows.trial(again=again)
            meaning = read_meaning(prepared.analysis, config.outputs)
            outputs = collect(prepared.model, judge, meaning.outputs, engine=config.engine, row_axes=meaning.row_axes)
            reference = Reference(meaning, outputs, real_positions(prepared.model, meaning, judge, config.engine))
            threads = config.threads if in_this_process(self._tasks) else 1
            own = dataclasses.replace(config, distill=0, threads=threads)
            trial = _Trial(prepared, own, rows, judge, reference, _kept_trials(prepared, config, again=again))
            self._handles[again] = self._open.enter_context(share(self._tasks, trial))
        return self._handles[again], self._tasks


def least_lost(
    candidates: Sequence[tuple[Decision, Loss]],
    rows: int,
    others: Sequence[Loss] = (),
    *,
    lean: Decision | None = None,
) -> Decision:
    """Of candidates with their losses the one that lost least, with a note on how many there were to choose from.

    Args:
        candidates: decisions with their losses.
        rows: how many rows judged.
        others: losses of decisions that were tried but are no candidates any more.
        lean: the candidate that these were given up for, as it does less work in the kernels.
    """
    losses = [loss.mean for _, loss in candidates]
    chosen, own = candidates[int(np.argmin(losses))]
    losses += [loss.mean for loss in others]
    if len(losses) == 1:
        return chosen
    note = (
        f"of {len(losses)} allocations that were tried, one with little work in the kernels was taken, whose outputs "
        f"differ by {own.mean:.3g} from the original's on {rows} calibration rows kept apart (all by {min(losses):.3g} "
        f"to {max(losses):.3g})"
        if chosen is lean
        else f"of {len(losses)} allocations that were tried, the one was taken whose outputs differ least from the "
        f"original's on {rows} calibration rows kept apart ({min(losses):.3g}; the others up to {max(losses):.3g})"
    )
    return dataclasses.replace(chosen, notes=(*chosen.notes, note))


@dataclass(frozen=True, slots=True)
class _Trial:
    """What trials share: the model, the rows to repair with, those that judge, and the original's outputs on them.

    `cache` keeps what earlier trials on these rows gave.
    """

    prepared: Prepared
    config: PruneConfig
    rows: Fitting
    judge: Dataset
    reference: Reference
    cache: Cache


def _loss(handle: Any, removed: Ids, full: bool) -> Loss:
    """Divergence from the original's outputs, on the rows that judge, after removing units and repairing."""
    trial: _Trial = shared(handle)
    name = f"{'tried' if full else 'quick'} {sha256(removed.tobytes()).hexdigest()}"
    if (kept := trial.cache.get("trial", name)) is not None:
        return Loss.of(kept["rows"])
    from onnxprune.repair import QUICK, TRIED

    effort = TRIED if full else QUICK
    smaller = shrink(trial.prepared, removed, trial.config, Clock(), no_progress, trial.rows, effort)
    meaning = trial.reference.meaning
    outputs = collect(smaller, trial.judge, meaning.outputs, engine=trial.config.engine, row_axes=meaning.row_axes)
    divergence = trial.reference.rows(outputs)
    trial.cache.put("trial", name, {"rows": divergence})
    return Loss.of(divergence)


def _kept_trials(prepared: Prepared, config: PruneConfig, *, again: bool) -> Cache:
    """The cache of trials on the rows of this run; it keeps nothing where the user gave no folder."""
    if config.cache is None or prepared.rows is None:
        return Cache(None)
    options = {"seed": config.seed, "roles": prepared.rows.roles.tobytes(), "again": again}
    options |= {"kinds": config.outputs.kinds, "weights": config.outputs.weights}
    options |= provider_entry(config.engine.provider)
    return Cache(config.cache, fingerprint(prepared.model, prepared.rows.rows, options))

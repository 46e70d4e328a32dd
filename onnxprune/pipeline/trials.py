"""Trials: prunes and repairs several candidates, and keeps the one whose outputs are closest to the original's.

The allocation program adds up damage that was measured with one group pruned at a time. What several pruned groups do
together is more than that sum, and how much more differs between networks. So the program is solved several times, with
every damage curve raised to another power; each answer is pruned and repaired, and rows that repair never saw decide.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.allocation.decide import Decision
from onnxprune.calibration.dataset import Dataset, set_apart
from onnxprune.calibration.runner import collect
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.execution import TaskExecutor, in_this_process, open_executor, share, shared
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.padding import real_positions
from onnxprune.outputs.reading import read_meaning
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.shrink import shrink
from onnxprune.structure.units import Ids

_HELD_OUT = 4  # every fourth row judges
_TURN = 3  # which of the four: not the one that damage curves are measured on
SECOND_TURN = 2
"""Other rows than those that usually judge, for a closer look."""
_LEAST_ROWS = 64
_MOST_WORK = 5e10  # multiply-adds of a pass over the rows: in larger networks repair takes too long to be done often
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

    def __add__(self, other: "Loss") -> "Loss":
        """The loss over as many other rows too, in all."""
        return Loss(self.mean + other.mean, self.typical + other.typical)

    def is_near(self, other: "Loss", factor: float, slight: float) -> bool:
        """Whether this is at most so many times another, or that much more, however rows are weighed.

        Few rows judge. Where some of them lose far more than the others, a mean says little, and that both agree says
        more.
        """
        pairs = ((self.mean, other.mean), (self.typical, other.typical))
        return all(mine <= max(factor * theirs, theirs + slight) for mine, theirs in pairs)


def worthwhile(prepared: Prepared, config: PruneConfig) -> bool:
    """Whether trials are possible and quick enough: there are calibration rows, and repair is switched on."""
    rows = 0 if prepared.data is None else len(prepared.data)
    return config.repair and rows >= _LEAST_ROWS and prepared.before.macs * rows <= _MOST_WORK


def on_fewer_rows(prepared: Prepared) -> Prepared:
    """The model with as many of its rows, evenly spread, as keep trials quick; with all of them where it is small.

    Rows are taken four by four, so that those which judge are still others than those damage curves were measured on.
    """
    data, most = prepared.data, int(_MOST_WORK // max(1, prepared.before.macs))
    if data is None or not _LEAST_ROWS <= most < len(data):
        return prepared
    starts = _HELD_OUT * np.linspace(0, len(data) // _HELD_OUT - 1, most // _HELD_OUT).astype(np.int64)
    return dataclasses.replace(prepared, data=data.take((starts[:, None] + np.arange(_HELD_OUT)).ravel()))


def judged(
    prepared: Prepared,
    decisions: Sequence[Decision],
    config: PruneConfig,
    progress: Progress = no_progress,
    executor: Executor | None = None,
    *,
    turn: int = _TURN,
) -> list[Loss]:
    """How far each pruned and repaired candidate is from the original on held-out rows.

    Args:
        prepared: the model and calibration rows.
        decisions: the candidates; each is tried once.
        config: options of the repair.
        progress: told of trials.
        executor: where trials run; by default where `config.executor` says.
        turn: which rows judge.
    """
    assert prepared.data is not None  # see `worthwhile`
    fit, held_out = set_apart(prepared.data, _HELD_OUT, last=turn)
    meaning = read_meaning(prepared.analysis, config.outputs)
    outputs = collect(prepared.model, held_out, meaning.outputs, engine=config.engine, row_axes=meaning.row_axes)
    reference = Reference(meaning, outputs, real_positions(prepared.model, meaning, held_out, config.engine))
    large = prepared.before.macs * len(prepared.data) > _LARGE and config.memory is None
    losses: list[Loss] = []
    with nullcontext(executor) if executor else open_executor(config.executor, config.workers, large=large) as chosen:
        tasks = TaskExecutor(chosen)
        threads = config.threads if in_this_process(tasks) else 1
        own = dataclasses.replace(config, distill=0, threads=threads)
        trial = _Trial(dataclasses.replace(prepared, data=fit), own, held_out, reference)
        with share(tasks, trial) as handle:
            progress("trials", 0, len(decisions))
            futures = (tasks.submit(_loss, handle, decision.removed) for decision in decisions)
            for future in futures if in_this_process(tasks) else [*futures]:  # one after the other, or side by side
                losses.append(future.result())
                progress("trials", len(losses), len(decisions))
    return losses


def least_lost(prepared: Prepared, candidates: Sequence[tuple[Decision, Loss]]) -> Decision:
    """Of candidates with their losses the one that lost least, with a note on how many there were to choose from."""
    losses = [loss.mean for _, loss in candidates]
    chosen, _ = candidates[int(np.argmin(losses))]
    if len(candidates) == 1 or prepared.data is None:
        return chosen
    rows = len(set_apart(prepared.data, _HELD_OUT, last=_TURN)[1])
    note = (
        f"of {len(candidates)} allocations that were tried, the one was taken whose outputs differ least from the "
        f"original's on {rows} calibration rows kept apart ({min(losses):.3g}; the others up to {max(losses):.3g})"
    )
    return dataclasses.replace(chosen, notes=(*chosen.notes, note))


@dataclass(frozen=True, slots=True)
class _Trial:
    """What all trials share: the model, the rows to repair with, and the original's outputs on held-out rows."""

    prepared: Prepared
    config: PruneConfig
    held_out: Dataset
    reference: Reference


def _loss(handle: Any, removed: Ids) -> Loss:
    """Divergence from the original's outputs, on held-out rows, after removing units and repairing."""
    trial: _Trial = shared(handle)
    smaller = shrink(trial.prepared, removed, trial.config, Clock(), no_progress)
    meaning = trial.reference.meaning
    outputs = collect(smaller, trial.held_out, meaning.outputs, engine=trial.config.engine, row_axes=meaning.row_axes)
    return Loss.of(trial.reference.rows(outputs))

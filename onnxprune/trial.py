"""Trials: what several powers of the damage curves lead to is repaired, and the best of it on held-out rows is taken.

The allocation program adds damage curves that were measured one group at a time. How well a sum stands for what
happens jointly differs between networks, and so does the power of the curves whose sums do best; only a trial shows it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxprune import pipeline
from onnxprune.allocation.decide import Decision
from onnxprune.calibration.dataset import set_apart
from onnxprune.calibration.runner import collect
from onnxprune.clock import Clock
from onnxprune.config import PruneConfig
from onnxprune.evaluation.outputs import divergence, output_kind
from onnxprune.importance.base import Progress, no_progress

_HELD_OUT = 4  # every fourth row judges
_LEAST_ROWS = 64
_MOST_WORK = 5e10  # multiply-adds of a pass over the rows: in larger networks repair takes too long to be done often


def worthwhile(prepared: pipeline.Prepared, config: PruneConfig) -> bool:
    """Whether there are rows for trials, and repair is part of what is asked for and quick."""
    rows = 0 if prepared.data is None else len(prepared.data)
    return config.repair and rows >= _LEAST_ROWS and prepared.before.macs * rows <= _MOST_WORK


def best(
    prepared: pipeline.Prepared, decisions: Sequence[Decision], config: PruneConfig, progress: Progress = no_progress
) -> Decision:
    """The decision whose repaired model's outputs are nearest to the original's on rows it was not fitted to.

    Args:
        prepared: the model and calibration rows.
        decisions: alternatives, the likeliest first; each is tried once.
        config: options of the repair.
        progress: told of trials.
    """
    different: dict[bytes, Decision] = {}
    for decision in decisions:
        different.setdefault(decision.removed.tobytes(), decision)
    decisions = list(different.values())
    if len(decisions) == 1:
        return decisions[0]
    assert prepared.data is not None  # see `worthwhile`
    fit, held_out = set_apart(prepared.data, _HELD_OUT)
    kind = output_kind(prepared.model, prepared.view)
    reference = collect(prepared.model, held_out, kind.outputs, threads=config.threads)
    own = dataclasses.replace(config, distill=0)
    losses: list[float] = []
    for decision in decisions:
        progress("trials", len(losses), len(decisions))
        smaller = pipeline.shrink(dataclasses.replace(prepared, data=fit), decision.removed, own, Clock(), no_progress)
        outputs = collect(smaller, held_out, kind.outputs, threads=config.threads)
        losses.append(divergence(reference, outputs, kind))
    progress("trials", len(decisions), len(decisions))
    chosen = decisions[int(np.argmin(losses))]
    note = (
        f"of {len(decisions)} allocations that were tried, the one was taken whose outputs differ least from the "
        f"original's on {len(held_out)} calibration rows kept apart ({min(losses):.3g}; at most {max(losses):.3g})"
    )
    return dataclasses.replace(chosen, notes=(*chosen.notes, note))

"""Arranges scores for the report by tensor, and tells scores that say nothing."""

from collections.abc import Mapping

import numpy as np

from onnxprune.core.errors import SolverError
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import score_points
from onnxprune.structure.analysis import Analysis

_ALIKE = 1e-6


def by_tensor(context: ScoreContext, analysis: Analysis, unit_scores: np.ndarray) -> Mapping[str, list[float]]:
    """For each scored tensor, the score of every channel; 1 for channels that cannot be pruned."""
    by_name = {}
    shown = unit_scores.copy()
    shown[0] = 1.0
    for tensor, units in score_points(analysis, context.oamip.normalisation).items():
        labels = context.analysis.labels[tensor]
        ids = next(ids for ids in labels if ids is not None and np.isin(ids, units[units > 0]).any())
        by_name[tensor] = [round(float(s), 6) for s in shown[ids]]
    return by_name


def is_uninformed(scores: np.ndarray) -> bool:
    """Whether all scores are alike: a solver that was stopped has found nothing yet."""
    return bool(np.ptp(scores) < _ALIKE)


def uninformed(name: str) -> SolverError:
    """The error for programs that were stopped before they found anything."""
    return SolverError(
        f"{name}: the program of --importance oamip ended at its limit with all scores alike, which say nothing; give "
        "more --oamip-time-limit or fewer --oamip-images, or use --oamip-form affine"
    )

"""Arranges scores for the report: by tensor."""

from collections.abc import Mapping

import numpy as np

from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import score_points
from onnxprune.structure.analysis import Analysis


def by_tensor(context: ScoreContext, analysis: Analysis, unit_scores: np.ndarray) -> Mapping[str, list[float]]:
    """For each scored tensor, the score of every channel; 1 for channels that cannot be pruned."""
    by_name = {}
    shown = unit_scores.copy()
    shown[0] = 1.0
    for tensor, units in score_points(analysis).items():
        labels = context.analysis.labels[tensor]
        ids = next(ids for ids in labels if ids is not None and np.isin(ids, units[units > 0]).any())
        by_name[tensor] = [round(float(s), 6) for s in shown[ids]]
    return by_name

"""Mean squares of the values that a model computes, on calibration rows."""

from collections.abc import Iterable

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.clock import Progress, no_progress
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.norms import Place


def mean_squares(
    context: ScoreContext, data: Dataset, places: Iterable[Place], progress: Progress = no_progress
) -> dict[Place, np.ndarray]:
    """Mean square of the values at each position of an axis, over all rows and all other axes.

    Args:
        context: model, analysis and options.
        data: the rows. Runs of them may differ in their numbers of rows or steps.
        places: axes of tensors that the model computes.
        progress: told of runs.
    """
    from onnxprune.calibration.runner import Runner

    sums: dict[Place, np.ndarray] = dict.fromkeys(places, np.zeros(0))
    counts = dict.fromkeys(sums, 0)
    names = list(dict.fromkeys(tensor for tensor, _ in sums))
    for done, values in enumerate(Runner(context.model, names, engine=context.run.engine).run(data), start=1):
        for place, sum_ in sums.items():
            tensor, axis = place
            back = axis - len(context.analysis.shape(tensor))  # runs of single rows may be stacked in front
            moved = np.moveaxis(values[tensor], back, 0).reshape(values[tensor].shape[back], -1)
            squares = np.einsum("cp,cp->c", moved, moved, dtype=np.float64)
            sums[place] = squares if len(sum_) == 0 else sum_ + squares
            counts[place] += moved.shape[1]
        progress("activations", done, done)
    return {place: sum_ / counts[place] for place, sum_ in sums.items()}

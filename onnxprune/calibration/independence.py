"""Whether the first axis of a model's inputs counts rows, or is part of one: time steps, frames, nodes of a graph.

Files call both alike. Where data may be either, the model is asked: of rows it says the same alone as together.
"""

from dataclasses import replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Feed, Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import input_specs
from onnxprune.graph.model import Model

_NEAR = 1e-3  # of an output's largest value


def counts_rows(model: Model, feed: Feed) -> bool:
    """Whether a model's outputs for a feed are those for its halves, one behind the other; also where it cannot run.

    Args:
        model: the model.
        feed: an array for each input, all of one length along their first axis.
    """
    length = min(map(len, feed.values()))
    if length < 2 or any(len(array) != length for array in feed.values()):
        return True
    runner = Runner(model, engine=ONE_CORE)
    try:
        whole = runner.run_feed(feed)
    except ModelError:
        return True  # what does not fit is told where the rows are run
    try:
        parts = [runner.run_feed({name: array[at] for name, array in feed.items()}) for at in _halves(length)]
    except ModelError:
        return False
    return all(_is_joined(whole[name], [part[name] for part in parts]) for name in whole)


def without_batch(model: Model, rows: Dataset) -> Model:
    """The model as its data take it: without a batch where each of the rows is a complete set of inputs."""
    whole = rows.whole and all(spec.batched for spec in input_specs(model))
    return replace(model, unbatched=True) if whole else model


def _halves(length: int) -> tuple[slice, slice]:
    return slice(None, length // 2), slice(length // 2, None)


def _is_joined(whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Whether an output is that of the parts, along any axis."""
    for axis in range(whole.ndim):
        sizes = [(*part.shape[:axis], 0, *part.shape[axis + 1 :]) for part in (whole, *parts)]
        if len({*sizes}) == 1 and sum(part.shape[axis] for part in parts) == whole.shape[axis]:
            joined = np.concatenate(parts, axis)
            if whole.dtype.kind not in "fc":
                return np.array_equal(joined, whole)
            scale = float(np.abs(whole).max(initial=0.0))
            return bool(np.abs(joined - whole).max(initial=0.0) <= _NEAR * scale)
    return False

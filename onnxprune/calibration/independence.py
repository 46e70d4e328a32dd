"""Whether the first axis of a model's inputs counts rows, or is part of one: time steps, frames, nodes of a graph.

Files call both alike. Where data may be either, the model is asked: of rows it says the same alone as together.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Arrays, Feed, Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import input_specs
from onnxprune.graph.model import Model

_APART = 0.02  # of an output's largest value: more than rounding, and than the scale that values are quantised by
_CANDIDATES = 64
_MOST_STEPS = 256
_MOST_BYTES = 1 << 24


def counts_rows(model: Model, entries: Mapping[str, np.ndarray]) -> bool:
    """Whether the first axis of complete inputs counts rows: a model's outputs for both halves are those for all.

    Also where that cannot be found out. Asked of the first part of the entry that varies most.

    Args:
        model: the model.
        entries: `(entries, length, ...)` for each input.
    """
    first = next(iter(entries.values()))
    varies = [float(np.std(entry)) if entry.dtype.kind in "iuf" else 0.0 for entry in first[:_CANDIDATES]]
    feed = {name: array[int(np.argmax(varies))] for name, array in entries.items()}
    lengths = {len(array) for array in feed.values()}
    if len(lengths) > 1:  # nodes and edges of a graph
        return False
    a_step = sum(array[:1].nbytes for array in feed.values())
    length = min(*lengths, _MOST_STEPS, _MOST_BYTES // max(a_step, 1))
    if length < 2:
        return True
    dtypes = {spec.name: spec.dtype for spec in input_specs(model)}
    feed = {name: np.asarray(array[:length], dtypes[name]) for name, array in feed.items()}
    try:
        runner = Runner(model, engine=ONE_CORE)
        whole, again = (runner.run_feed(feed) for _ in range(2))
    except ModelError:
        return True  # what does not fit is told where the rows are run
    try:
        parts = [runner.run_feed(_part(feed, at)) for at in (slice(None, length // 2), slice(length // 2, None))]
    except ModelError:
        return False
    floats = [name for name, array in whole.items() if array.dtype.kind == "f"]
    return not any(_differs(whole[name], again[name], [part[name] for part in parts]) for name in floats)


def without_batch(model: Model, rows: Dataset) -> Model:
    """The model as its data take it: without a batch where each of the rows is a complete set of inputs."""
    whole = rows.whole and all(spec.batched for spec in input_specs(model))
    return replace(model, unbatched=True) if whole else model


def _part(feed: Feed, at: slice) -> Arrays:
    return {name: array[at] for name, array in feed.items()}


def _differs(whole: np.ndarray, again: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Whether an output clearly differs from that of the parts strung together along any axis.

    Nothing is told by one that is the same whatever is put in, or another one in every run.
    """
    if not _is_near(whole, again) or all(np.array_equal(whole, part) for part in parts):
        return False
    for axis in range(whole.ndim):
        sizes = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in (whole, *parts) if part.ndim == whole.ndim}
        if len(sizes) == 1 and sum(part.shape[axis] for part in parts) == whole.shape[axis]:
            return not _is_near(np.concatenate(parts, axis), whole)
    return True


def _is_near(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are about the same where they are finite, and finite at the same places."""
    if first.shape != second.shape:
        return False
    a, b = (np.asarray(array, np.float64) for array in (first, second))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    scale = float(np.abs(a[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) <= _APART * scale

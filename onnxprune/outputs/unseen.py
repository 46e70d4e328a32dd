"""Outputs that say nothing on the rows at hand, or the same of all, so that nothing is known of what they would say."""

from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import Engine
from onnxprune.core.text import several
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning
from onnxprune.outputs.objectness import FOUND, confidence, has_objectness

_FEW = 20  # finds below which they say little, on as many rows or more
_ASKED = 16  # rows that tell whether the model has more than one answer
_AT_ONCE = 2  # of these: the first two tell, unless the model is broken
_SAME = 1e-6  # of the largest value


@dataclass(frozen=True, slots=True)
class Finds:
    """What the scores of an output find on some rows.

    Attributes:
        highest: the highest score.
        count: places that are confident.
    """

    highest: float = 0.0
    count: int = 0


def little_found(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> dict[str, Finds]:
    """Outputs whose scores find nothing, or hardly anything, on any row: what few there is may be false.

    Only scores at many positions can find something (a detector's, a mask's); one probability a row may well be low.

    Args:
        model: the original.
        meaning: of its outputs.
        data: the rows.
        engine: what it runs on.
    """
    numbered = enumerate(meaning.parts)
    parts = {number: part for number, part in numbered if part.kind == "probabilities" and part.count > 1}
    if not parts or not len(data):
        return {}
    beside = {number for part in meaning.parts for number in part.confidence}  # boxes or keypoints, not masks alone
    found = dict.fromkeys((part.output for part in parts.values()), Finds())
    runner = Runner(model, [*found], engine=engine, row_axes={name: meaning.row_axes[name] for name in found})
    enough, apart = min(_FEW, len(data)), dict[int, bool]()
    for run in runner.run(data):
        for number, part in parts.items():
            values, before = part.values(run[part.output]), found[part.output]
            scores = confidence(values, apart.setdefault(number, number in beside and has_objectness(values)))
            count = before.count + int(np.count_nonzero(scores >= FOUND))
            found[part.output] = Finds(max(before.highest, float(scores.max())), count)
        if all(each.count >= enough for each in found.values()):
            return {}
    return {name: each for name, each in found.items() if not each.count >= enough}


def one_answer(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> tuple[str, ...]:
    """A warning where all outputs are the same for every one of some rows, so that figures of them say nothing.

    Args:
        model: the original.
        meaning: of its outputs.
        data: the rows.
        engine: what it runs on.
    """
    asked = data.take(np.unique(np.linspace(0, len(data) - 1, _ASKED).astype(np.int64)))
    if len(asked) < 2:
        return ()
    runner = Runner(model, meaning.outputs, engine=engine, row_axes=meaning.row_axes)
    first: dict[str, np.ndarray] = {}
    for run in runner.run(asked, _AT_ONCE):
        for name, rows in run.items():
            if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iufb":
                return ()
            wanted = first.setdefault(name, rows[:1].astype(np.float64))
            if rows.shape[1:] != wanted.shape[1:]:
                return ()
            if not np.abs(rows - wanted).max(initial=0.0) <= _SAME * np.abs(wanted).max(initial=0.0):
                return ()
    return (
        f"{model.name} gives the same outputs for all of {several(len(asked), 'row')}, so that figures of them say "
        "nothing: see whether the rows are what the model takes (scaling, layout), and whether the model works",
    )

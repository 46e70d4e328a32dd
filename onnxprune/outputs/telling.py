"""Calibration rows on which outputs say what they seldom say: where a detector finds one of its rarer objects.

Of data with more rows than are used, rows spread evenly may hold none of them. Half of the rows are then those in which
the original is surest of each rare find, in turn; the others stay spread evenly, so that what is usual counts too.
"""

from dataclasses import replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.rows import choose
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import Engine
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning
from onnxprune.outputs.objectness import FOUND

_RARE = 0.2  # share of the rows in which something is found: what is found in more is seen anyway


def finds_things(meaning: Meaning) -> bool:
    """Whether some output has scores at many positions, as those of a detector."""
    return any(part.kind == "probabilities" and part.count > 1 for part in meaning.parts)


def telling_rows(
    model: Model, meaning: Meaning, data: Dataset, count: int, engine: Engine, seed: int = 0
) -> Dataset | None:
    """Choose rows so that rare finds are among them; None where nothing is found rarely.

    Args:
        model: the original.
        meaning: of its outputs.
        data: more rows than are wanted.
        count: how many are wanted.
        engine: what the original runs on.
        seed: of the choice among the others.
    """
    scores = _highest(model, meaning, data, engine)
    found = scores >= FOUND
    shares = found.mean(axis=0)
    rare = np.flatnonzero((shares > 0) & (shares < _RARE))
    ranked = [[row for row in np.argsort(-scores[:, column]) if found[row, column]] for column in rare]
    picked: dict[int, None] = {}
    for turn in range(max(map(len, ranked), default=0)):
        for rows in ranked:
            if turn < len(rows) and len(picked) < count // 2:
                picked[int(rows[turn])] = None
    if not picked:
        return None
    others = np.setdiff1d(np.arange(len(data)), [*picked])
    evenly = others[choose(len(others), count - len(picked), seed)]
    note = (
        f"{len(picked)} of the {count} calibration rows are those, of {len(data)}, in which the original is surest of "
        "what it finds rarely; the others are spread evenly"
    )
    chosen = data.take(np.sort(np.concatenate([[*picked], evenly])))
    return replace(chosen, notes=(*chosen.notes, note))


def _highest(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> np.ndarray:
    """`(rows, finds)`: the highest score of each kind of find in each row."""
    parts = [part for part in meaning.parts if part.kind == "probabilities" and part.count > 1]
    names = [*dict.fromkeys(part.output for part in parts)]
    runner = Runner(model, names, engine=engine, row_axes={name: meaning.row_axes[name] for name in names})
    batches = [
        np.concatenate([part.values(run[part.output]).max(axis=1) for part in parts], axis=1)
        for run in runner.run(data)
    ]
    return np.concatenate(batches)

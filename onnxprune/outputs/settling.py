"""What outputs are taken for once rows are known: a vector whose largest column is always the same tells no classes."""

from dataclasses import replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import is_made_up
from onnxprune.calibration.runner import Runner
from onnxprune.config import OutputConfig
from onnxprune.core.engine import Engine
from onnxprune.outputs.given import kinds_said
from onnxprune.outputs.meaning import Part
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.analysis import Analysis

_ASKED = 200  # rows that are looked at
_TELLING = 20  # rows from which on they tell


def told_by_rows(
    config: OutputConfig, analysis: Analysis, rows: Dataset, engine: Engine
) -> tuple[OutputConfig, tuple[str, ...]]:
    """What the user says of outputs and what rows tell beyond it, with a note about each output of these.

    Class scores that no softmax shows are a guess, by the weights. Where the same column is the largest on every row,
    they are quantities instead: several targets of a regression, or quantiles.

    Args:
        config: what the user says.
        analysis: of the model.
        rows: calibration rows; those that are made up tell nothing.
        engine: what the model runs on.
    """
    meaning = read_meaning(analysis, config)
    declared, said = {*analysis.graph.outputs}, kinds_said(config, analysis)
    guessed = [part for part in meaning.parts if _is_guess(part) and part.output in declared - {*said}]
    if not guessed or len(rows) < _TELLING or is_made_up(rows.source):
        return config, ()
    some = rows.take(np.unique(np.linspace(0, len(rows) - 1, _ASKED).astype(np.int64)))
    names = [part.output for part in guessed]
    runner = Runner(analysis.model, names, engine=engine, row_axes={name: meaning.row_axes[name] for name in names})
    classes: dict[str, set[int]] = {name: set() for name in names}
    for run in runner.run(some):
        for part in guessed:
            classes[part.output].update(part.values(run[part.output]).argmax(axis=2).ravel().tolist())
    constant = [name for name in names if len(classes[name]) == 1]
    said_now = (*config.kinds, *(f"{name}=quantities" for name in constant))
    notes = (
        f"output {name!r} is taken for quantities: on all of {len(some)} rows the same one of its columns is the "
        f"largest, which tells no classes apart; --output {name}=classes says otherwise"
        for name in constant
    )
    return replace(config, kinds=said_now), tuple(notes)


def _is_guess(part: Part) -> bool:
    return part.kind == "classes" and part.form == "logits" and part.count == 1 and part.columns is None

"""Outputs that say nothing on any calibration row, so that nothing is known of what they would say."""

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import Engine
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning

FOUND = 0.25
"""Probability from which on something counts as found."""


def never_confident(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> dict[str, float]:
    """Outputs whose scores find nothing on any row, with the highest of them.

    Only scores at many positions can find something (a detector's, a mask's); one probability a row may well be low.

    Args:
        model: the original.
        meaning: of its outputs.
        data: the rows.
        engine: what it runs on.
    """
    parts = [part for part in meaning.parts if part.kind == "probabilities" and part.count > 1]
    if not parts or not len(data):
        return {}
    names = [*dict.fromkeys(part.output for part in parts)]
    highest = dict.fromkeys(names, 0.0)
    runner = Runner(model, names, engine=engine, row_axes={name: meaning.row_axes[name] for name in names})
    for run in runner.run(data):
        for part in parts:
            highest[part.output] = max(highest[part.output], float(part.values(run[part.output]).max()))
        if all(score >= FOUND for score in highest.values()):
            return {}
    return {name: score for name, score in highest.items() if not score >= FOUND}

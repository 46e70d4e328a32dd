"""Costs of a model file (parameters, bytes, MACs), counted on the file itself rather than predicted."""

from onnxprune.core.costs import Costs, Countable, counted
from onnxprune.graph.model import Model, as_filed
from onnxprune.graph.operators import OpenShapes
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse
from onnxprune.structure.units import as_stored


def count_costs(model: Model, analysis: Analysis | None = None, input_shapes: OpenShapes | None = None) -> Costs:
    """Count what a model costs.

    Args:
        model: the model.
        analysis: its analysis, where there is one.
        input_shapes: where there is none, sizes of inputs that the file leaves open; guessed by default.
    """
    analysis = analyse(model, input_shapes=input_shapes) if analysis is None else analysis
    constants = as_filed(model).constants.values()
    written = Countable(analysis.countable().products, [(as_stored(array), array.shape) for array in constants])
    return counted(written, analysis.facts.batch, lambda size: size if isinstance(size, int) else len(size))

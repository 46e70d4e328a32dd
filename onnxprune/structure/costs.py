"""Costs of a model file (parameters, bytes, MACs), counted on the file itself rather than predicted."""

from math import prod

from onnxprune.core.costs import Costs
from onnxprune.graph.model import Model, merged
from onnxprune.graph.nodes import is_float
from onnxprune.graph.operators import OpenShapes
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse
from onnxprune.structure.units import is_weight


def count_costs(model: Model, analysis: Analysis | None = None, input_shapes: OpenShapes | None = None) -> Costs:
    """Count a model's parameters, the bytes of its weights, and the multiply-adds of every layer.

    Args:
        model: the model.
        analysis: its analysis, where there is one.
        input_shapes: where there is none, sizes of inputs that the file leaves open; guessed by default.
    """
    analysis = analyse(model, input_shapes=input_shapes) if analysis is None else analysis
    none = analysis.none_removed()
    stored = merged(model).constants
    return Costs(
        params=sum(prod(array.shape) for array in stored.values() if is_float(array)),
        macs=sum(analysis.macs(operation, none) for operation in analysis.operations),
        bytes=sum(int(array.nbytes) for array in stored.values() if is_weight(array)),
    )

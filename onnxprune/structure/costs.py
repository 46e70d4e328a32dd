"""What a model costs, recounted on the model itself."""

from collections.abc import Mapping
from math import prod

from onnxprune.core.costs import Costs
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import is_float
from onnxprune.graph.shapes import Shape
from onnxprune.structure.analysis import analyse, is_weight
from onnxprune.structure.space import PruneSpace


def measure(model: Model, space: PruneSpace | None = None, input_shapes: Mapping[str, Shape] | None = None) -> Costs:
    """Count parameters and bytes of what is stored, and multiply-adds of every layer.

    Args:
        model: the model.
        space: its analysis, where there is one.
        input_shapes: where there is none, sizes of inputs that the file leaves open; guessed by default.
    """
    space = analyse(model, input_shapes=input_shapes) if space is None else space
    none = space.none_removed()
    return Costs(
        params=sum(prod(array.shape) for array in model.constants.values() if is_float(array)),
        macs=sum(space.layer_macs(layer, none) for layer in space.layers),
        bytes=sum(int(array.nbytes) for array in model.constants.values() if is_weight(array)),
    )

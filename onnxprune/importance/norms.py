"""Norms of a unit's weights, where it is made and where it is used."""

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.structure.space import Layer, PruneSpace


def constant(model: Model, space: PruneSpace, name: str) -> np.ndarray:
    """Value of a weight, stored or folded."""
    value = model.constants.get(name)
    return np.asarray(space.facts.folded[name] if value is None else value)


def incoming(model: Model, space: PruneSpace, power: int) -> np.ndarray:
    """`(units,)` sums of `|w|^power` over the weights that make each unit's values.

    A unit that no layer makes (inserted by Pad, or behind a depthwise convolution only) gets those that use it.
    """
    made = _sums(model, space, power, [(layer, layer.out_axis) for layer in space.layers])
    used = _sums(model, space, power, [(layer, layer.in_axis) for layer in space.layers])
    return np.where(made > 0, made, used)


def _sums(model: Model, space: PruneSpace, power: int, places: list[tuple[Layer, int]]) -> np.ndarray:
    sums = np.zeros(space.units)
    for layer, axis in places:
        sums += per_unit(model, space, layer, axis, power)
    sums[0] = 0.0  # unit 0 stands for all fixed channels
    return sums


def per_unit(model: Model, space: PruneSpace, layer: Layer, axis: int, power: int) -> np.ndarray:
    """`(units,)` sums of `|w|^power` over a layer's weights, by the unit along one axis of the weight."""
    ids = space.labels.get(layer.weight, (None,) * (axis + 1))[axis]
    if ids is None:
        return np.zeros(space.units)
    weight = np.abs(constant(model, space, layer.weight).astype(np.float64))
    others = tuple(a for a in range(weight.ndim) if a != axis)
    return np.bincount(ids, (weight**power).sum(axis=others), minlength=space.units)

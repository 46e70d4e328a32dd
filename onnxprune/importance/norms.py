"""Norms of a unit's weights, where it is made and where it is used."""

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer


def constant(model: Model, analysis: Analysis, name: str) -> np.ndarray:
    """Value of a weight, stored or folded."""
    value = model.constants.get(name)
    return np.asarray(analysis.facts.folded[name] if value is None else value)


def incoming(model: Model, analysis: Analysis, power: int) -> np.ndarray:
    """`(units,)` sums of `|w|^power` over the weights that make each unit's values.

    A unit that no layer makes (inserted by Pad, or behind a depthwise convolution only) gets those that use it.
    """
    made = _sums(model, analysis, power, [(layer, layer.out_axis) for layer in analysis.layers])
    used = _sums(model, analysis, power, [(layer, layer.in_axis) for layer in analysis.layers])
    return np.where(made > 0, made, used)


def _sums(model: Model, analysis: Analysis, power: int, places: list[tuple[Layer, int]]) -> np.ndarray:
    sums = np.zeros(analysis.units)
    for layer, axis in places:
        sums += per_unit(model, analysis, layer, axis, power)
    sums[0] = 0.0  # unit 0 stands for all fixed channels
    return sums


def per_unit(model: Model, analysis: Analysis, layer: Layer, axis: int, power: int) -> np.ndarray:
    """`(units,)` sums of `|w|^power` over a layer's weights, by the unit along one axis of the weight."""
    ids = analysis.labels.get(layer.weight, (None,) * (axis + 1))[axis]
    if ids is None:
        return np.zeros(analysis.units)
    weight = np.abs(constant(model, analysis, layer.weight).astype(np.float64))
    others = tuple(a for a in range(weight.ndim) if a != axis)
    return np.bincount(ids, (weight**power).sum(axis=others), minlength=analysis.units)

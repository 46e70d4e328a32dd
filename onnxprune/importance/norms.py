"""Norms of the weights that produce or use a unit."""

from collections.abc import Iterable

import numpy as np

from onnxprune.structure.analysis import Analysis

Place = tuple[str, int]
"""An axis of a tensor that units lie on."""


def weight_energy(analysis: Analysis, power: int) -> tuple[np.ndarray, np.ndarray]:
    """For each unit, the sum of `|w|^power` over the weights that produce it.

    A unit that no product makes (inserted by Pad, for example) gets those that use it.

    Returns:
        `(units,)` sums, and `(units,)` True for units that have such weights.
    """
    products = [product for product in analysis.products if analysis.value(product.weight) is not None]
    making = dict.fromkeys((p.weight, axis) for p in products for axis in p.made)
    using = dict.fromkeys((p.weight, axis) for p in products for axis, _ in p.contracted)
    made, used = touched(analysis, making), touched(analysis, using)
    return np.where(made, _sums(analysis, power, making), _sums(analysis, power, using)), made | used


def touched(analysis: Analysis, places: Iterable[Place]) -> np.ndarray:
    """`(units,)` mask of the units that appear on any of the given axes."""
    mask = analysis.none_removed()
    for tensor, axis in places:
        ids = units_on(analysis, tensor, axis)
        if ids is not None:
            mask[ids] = True
    mask[0] = False  # unit 0 stands for all fixed channels
    return mask


def units_on(analysis: Analysis, tensor: str, axis: int) -> np.ndarray | None:
    """The unit at each position of an axis; None where the axis has no channels."""
    axes = analysis.labels.get(tensor, ())
    return axes[axis] if axis < len(axes) else None


def per_unit(analysis: Analysis, tensor: str, axis: int, power: int) -> np.ndarray:
    """`(units,)` sums of `|w|^power` over a constant, grouped by the unit at each position of one of its axes."""
    ids, value = units_on(analysis, tensor, axis), analysis.value(tensor)
    if ids is None or value is None:
        return np.zeros(analysis.units)
    weight = np.abs(value.astype(np.float64))
    others = tuple(a for a in range(weight.ndim) if a != axis)
    return np.bincount(ids, (weight**power).sum(axis=others), minlength=analysis.units)


def _sums(analysis: Analysis, power: int, places: Iterable[Place]) -> np.ndarray:
    sums = np.zeros(analysis.units)
    for tensor, axis in places:
        sums += per_unit(analysis, tensor, axis, power)
    sums[0] = 0.0
    return sums

"""Which groups are of attention heads."""

from collections.abc import Iterator

import numpy as np

from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


def head_groups(analysis: Analysis) -> frozenset[str]:
    """Names of the groups whose units are attention heads.

    A head is a unit along which matrix products of two computed tensors stand side by side, or one that an operator of
    whole attention (with `num_heads`) hands out.
    """
    group_of = {unit: group.name for group in analysis.groups for unit in group.units.tolist()}
    return frozenset(group_of[unit] for ids in _heads(analysis) for unit in np.unique(ids).tolist() if unit in group_of)


def _heads(analysis: Analysis) -> Iterator[Ids]:
    """Units along axes of heads."""
    for product in analysis.products:
        if product.weight and analysis.value(product.weight) is None:
            names = product.weight, product.source
            ours, theirs = (_units(analysis, name) for name in names)
            summed = {axis for axis, _ in product.contracted}, {axis for _, axis in product.contracted}
            beside = [ids for axis, ids in theirs.items() if axis not in summed[1]]
            yield from (
                ids
                for axis, ids in ours.items()
                if axis not in summed[0] and any(np.array_equal(ids, other) for other in beside)
            )
            # In stacks of matrices heads stand before them, also where only one of the two has several.
            ends = tuple(len(analysis.labels.get(name, ())) - 2 for name in names)
            if all(axis >= end for axes in product.contracted for axis, end in zip(axes, ends, strict=True)):
                for units, end in zip((ours, theirs), ends, strict=True):
                    yield from (ids for axis, ids in units.items() if axis < end)
    for node in analysis.graph.nodes:
        if "num_heads" in node.attributes:
            yield from _units(analysis, node.output()).values()


def _units(analysis: Analysis, tensor: str) -> dict[int, Ids]:
    """The units along each axis of a tensor that has some."""
    return {axis: ids for axis, ids in enumerate(analysis.labels.get(tensor, ())) if ids is not None}

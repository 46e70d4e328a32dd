"""Constants that stand for branches that went as a whole: repair gives them the branches' means."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.nodes import Node, is_float
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.gaps import ConstantValues


@dataclass(frozen=True, slots=True)
class Shift:
    """A node that adds a constant where the original adds what a branch computes."""

    constant: str
    node: Node


def find_shifts(analysis: Analysis, smaller: Analysis) -> list[Shift]:
    """The constants that stand for branches, each read by one sum that the original has too.

    Args:
        analysis: of the original.
        smaller: of the model after removal.
    """
    shifts = []
    for node in smaller.graph.nodes:
        for position, name in enumerate(node.inputs):
            value = smaller.model.constants.get(name)
            computed = name in analysis.graph.producer and analysis.value(name) is None
            if value is None or not computed or not is_float(value):
                continue
            rank = len(smaller.facts.shapes.get(node.output(), ()))
            alone = value.ndim == rank and smaller.graph.reads(name) == 1
            if not alone or len(node.inputs) != 2 or node.output() not in analysis.graph.producer:
                continue
            axis = int(np.argmax(value.shape))
            affine = handler_of(node.op_type).affine(node, 1 - position, ConstantValues(axis, {name: value}))
            if affine is not None and affine.shift == position and affine.sign == 1:
                shifts.append(Shift(name, node))
    return shifts


def shifted(constant: np.ndarray, missing: Iterable[np.ndarray]) -> np.ndarray:
    """The constant plus the mean of what is missing, per channel; as it was where that is not finite.

    Args:
        constant: of the rank of the sum.
        missing: per batch, the original's sum less the present one.
    """
    spread = tuple(axis for axis, size in enumerate(constant.shape) if size == 1)
    total, count = np.zeros(constant.shape), 0
    for part in missing:
        total += part.sum(axis=spread, keepdims=True, dtype=np.float64)
        count += part.size // max(1, constant.size)
    mean = total / max(1, count)
    return (constant + mean).astype(constant.dtype) if np.isfinite(mean).all() else constant

"""Which layers a refit may change, and the constants that a correction gives them."""

import numpy as np

from onnxprune.calibration.layer_matrix import from_matrix, to_matrix
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import is_float
from onnxprune.repair.ridge import Correction
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.fit_targets import FitTarget

_NOT_PRODUCT = 1e-2


def can_refit(point: FitTarget, analysis: Analysis, *, shared: bool = False) -> bool:
    """Whether the weight is stored as floating-point numbers and, unless it is shared, read by this layer alone."""
    weight = analysis.model.constants.get(point.layer.weight)
    return weight is not None and is_float(weight) and (shared or analysis.graph.reads(point.layer.weight) == 1)


def corrected(point: FitTarget, model: Model, correction: Correction) -> dict[str, np.ndarray]:
    """The constants of a layer with a correction added."""
    weight = model.constants[point.layer.weight]
    matrix = to_matrix(point.layer, weight) + correction.weight / point.gain
    changed = {point.layer.weight: from_matrix(point.layer, matrix, weight)}
    if point.bias is not None and correction.bias.any():
        changed[point.bias] = point.shifted_bias(model.constants[point.bias], correction.bias)
    return changed


def is_product(point: FitTarget, model: Model, columns: np.ndarray, output: np.ndarray) -> bool:
    """Check that sampled columns times weight give the layer's output, up to a constant per channel."""
    matrix = to_matrix(point.layer, model.constants[point.layer.weight]).astype(columns.dtype) * point.gain
    product = np.matmul(columns, matrix).transpose(1, 0, 2).reshape(output.shape)
    rest = output - product
    scale = np.abs(output - output.mean(axis=0)).max(initial=0.0)
    return bool(
        np.abs(rest - rest.mean(axis=0)).max(initial=0.0) <= _NOT_PRODUCT * max(scale, np.abs(output).max(initial=0.0))
    )

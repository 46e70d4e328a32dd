"""Compares tensors of a pruned model with the expected ones, and words the error where they differ.

Expected is what the original computes with the removed units set to zero (the oracle; see `structure.removal`).
"""

import numpy as np

from onnxprune.core.errors import ModelError
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids

Outputs = dict[str, np.ndarray]

# Largest accepted difference, as a share of the output's scale plus an absolute rest: structural faults are of the
# order of the scale itself, rounding of 1e-6 of it.
_SHARE, _REST = 1e-3, 1e-5
_HALF_FACTOR = 100


def close(actual: np.ndarray, wanted: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal up to floating-point rounding.

    The tolerance is relative to the largest of the wanted values and of `other`. Where a wanted value is not finite
    (a mask of attention, an overflow), any value will do.
    """
    compared = np.isfinite(wanted) if actual.dtype.kind == "f" else np.zeros(0, bool)
    if not compared.any():
        return True
    actual, wanted = actual[compared], wanted[compared]
    factor = 1 if actual.dtype.itemsize > 2 else _HALF_FACTOR
    scale = max(float(np.abs(wanted).max()), float(np.abs(other).max()) if np.isfinite(other).all() else 0.0)
    difference = float(np.abs(actual.astype(np.float64) - wanted.astype(np.float64)).max())
    return difference <= factor * (_SHARE * scale + _REST)  # False for NaN


def narrowed(value: np.ndarray, analysis: Analysis, tensor: str, removed: Ids) -> np.ndarray:
    """An original tensor without its removed positions, for comparison with the pruned model's tensor.

    A tensor whose sizes are not those that were analysed is returned as it is.
    """
    axes, shape = analysis.labels.get(tensor, ()), np.shape(value)
    fits = len(axes) == len(shape) and all(ids is None or len(ids) == n for ids, n in zip(axes, shape, strict=True))
    return analysis.compressed(tensor, value, removed) if axes and fits else value


def differs(name: str, where: str) -> ModelError:
    """The error for a pruned model that computes something else than it should."""
    return ModelError(
        f"{name}: the pruned model does not do what the original does without the removed units; "
        f"the first difference is at {where}; please report, and freeze it with --keep"
    )


def moved_wrongly(name: str) -> ModelError:
    """The error where compensating for units without effect has changed the model's outputs."""
    return ModelError(
        f"{name}: removing constant and equal units would change the outputs; please report, and freeze "
        "them with --keep"
    )

"""How far a model's outputs are from the original's, without labels."""

from collections.abc import Sequence

import numpy as np


def divergence(original: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Mean divergence of outputs: KL of class probabilities for a classifier, else relative squared error.

    A classifier is a model with one output `(rows, classes)` of at least two classes; rows that are no distributions are taken as logits.

    Args:
        original: outputs of the original.
        other: outputs to compare, of the same shapes.
    """
    if len(original) == 1 and original[0].ndim == 2 and original[0].shape[1] > 1:
        first, second = (log_probabilities(array) for array in (original[0], other[0]))
        return float(np.mean(np.sum(np.exp(first) * (first - second), axis=1)))
    errors = []
    for a, b in zip(original, other, strict=True):
        energy = float(np.sum(np.square(a - a.mean(axis=0, keepdims=True), dtype=np.float64)))
        errors.append(float(np.sum(np.square(a - b, dtype=np.float64))) / max(energy, 1e-30))
    return float(np.mean(errors)) if errors else 0.0


def log_probabilities(output: np.ndarray) -> np.ndarray:
    """`(rows, classes)` log-probabilities of logits or of probabilities."""
    values = np.asarray(output, dtype=np.float64)
    if values.min() >= 0 and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        return np.asarray(np.log(np.maximum(values, 1e-12)))
    values = values - values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.sum(np.exp(values), axis=1, keepdims=True)))

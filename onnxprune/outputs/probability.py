"""Scores as logarithms of probabilities, and vectors as directions."""

import numpy as np

from onnxprune.outputs.meaning import Form

SMALLEST_PROBABILITY = 1e-12
SMALLEST_CHANCE = 1e-7  # of an independent probability: next to 1, single precision knows no finer step


def log_probabilities(scores: np.ndarray, form: Form) -> np.ndarray:
    """Class scores as logarithms of probabilities over the last axis, of the same shape."""
    if form == "probabilities":
        scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis at a length of 1; those of length 0 stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))

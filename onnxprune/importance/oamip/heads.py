"""Auxiliary classifiers: linear softmax classifiers on pooled features, fitted by L-BFGS."""

from dataclasses import dataclass

import numpy as np

_RIDGE = 1e-2
_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier with logits `weight @ features + bias`.

    Attributes:
        weight: `(classes, features)`.
        bias: `(classes,)`.
        classes: `(classes,)` the class number of each logit; only classes that occur have one.
        accuracy: share of the fitted rows that it classifies right.
    """

    weight: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    accuracy: float


def fit_head(features: np.ndarray, labels: np.ndarray, ridge: float = _RIDGE) -> Head:
    """Fit a multinomial logistic regression on standardised features.

    Minimises `mean(logsumexp(z) - z_y) + ridge / 2 |W|^2` over the weights of standardised features.

    Args:
        features: `(rows, features)`.
        labels: `(rows,)` class numbers, of at least two classes.
        ridge: weight of the penalty.
    """
    from scipy.optimize import minimize

    classes, numbers = np.unique(labels, return_inverse=True)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-12, 1.0 / np.maximum(deviation, 1e-12), 0.0)
    x = (features - mean) * scale
    rows, size = x.shape
    count = len(classes)
    at = (np.arange(rows), numbers)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(count, size + 1)
        z = x @ weight[:, :-1].T + weight[:, -1]
        z -= z.max(axis=1, keepdims=True)
        exponent = np.exp(z)
        total = exponent.sum(axis=1, keepdims=True)
        value = float(np.mean(np.log(total[:, 0]) - z[at])) + ridge / 2 * float((weight[:, :-1] ** 2).sum())
        slope = exponent / total
        slope[at] -= 1.0
        slope /= rows
        gradient = np.concatenate([slope.T @ x + ridge * weight[:, :-1], slope.sum(axis=0)[:, None]], axis=1)
        return value, gradient.ravel()

    optimum = minimize(
        loss, np.zeros(count * (size + 1)), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
    )
    weight = optimum.x.reshape(count, size + 1)
    accuracy = float(np.mean(np.argmax(x @ weight[:, :-1].T + weight[:, -1], axis=1) == numbers))
    scaled = weight[:, :-1] * scale
    return Head(scaled, weight[:, -1] - scaled @ mean, classes, accuracy)

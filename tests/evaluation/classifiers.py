"""Linear classifiers whose right answers can be written down."""

import numpy as np

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.evaluation.metrics import compare
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def linear(weight, text="g (float[N,{0}] x) => (float[N,{1}] y) {{ y = MatMul (x, w) }}"):
    weight = np.asarray(weight, np.float32)
    return load(example(text.format(*weight.shape), constants={"w": weight}))


def dataset(model, arrays):
    return load_data(arrays, model, PreprocessConfig())


def one_hot(classes, count):
    return np.eye(count, dtype=np.float32)[classes]


def both(text, weights, others, rows, labels=None, config=None):
    """Metrics of two models of one graph, with other weights, on random rows."""
    models = [
        load(example(text, constants={k: np.asarray(v, np.float32) for k, v in w.items()})) for w in (weights, others)
    ]
    arrays = rows if labels is None else (rows, labels)
    return compare(models[0], models[1], dataset(models[0], arrays), config=config)

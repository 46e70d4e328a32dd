"""Linear classifiers whose right answers can be written down."""

import numpy as np

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def linear(weight, text="g (float[N,{0}] x) => (float[N,{1}] y) {{ y = MatMul (x, w) }}"):
    weight = np.asarray(weight, np.float32)
    return load(example(text.format(*weight.shape), constants={"w": weight}))


def dataset(model, arrays):
    return load_data(arrays, model, PreprocessConfig())


def one_hot(classes, count):
    return np.eye(count, dtype=np.float32)[classes]

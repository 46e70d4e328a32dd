"""A small detector that works: it finds bright and dark blobs, and how large they are.

Its convolutions are random, each unit twice with noise between the two, so that there is something to remove; the last
layers are fitted to where blobs are.
"""

from functools import cache

import numpy as np
import onnx

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

SIDE, CELLS, CLASSES = 32, 8, 2
_STEP = SIDE // CELLS
_BODY = """
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1, b1)  ar = Relu (a)
    b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (ar, w2, b2)  br = Relu (b)
    p = Conv <pads = [1, 1, 1, 1]> (br, w3, b3)  pr = Relu (p)
    q = Conv <pads = [1, 1, 1, 1]> (br, w4, b4)  qr = Relu (q)"""
_SHAPES = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 32, 3, 3), "w4": (32, 32, 3, 3)}


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images `(count, 3, 32, 32)` of one blob or two, and what there is to find `(count, 6, 8, 8)`.

    Per cell: centre and size of the blob in pixels, and whether a bright or a dark one has its centre there.
    """
    rng = np.random.default_rng(seed)
    x = (0.1 * rng.standard_normal((count, 3, SIDE, SIDE))).astype(np.float32)
    wanted = np.zeros((count, 4 + CLASSES, CELLS, CELLS))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        for _ in range(rng.integers(1, 3)):
            (cx, cy), (wide, high) = rng.uniform(5, SIDE - 5, 2), rng.uniform(6, 14, 2)
            kind = int(rng.integers(CLASSES))
            blob = np.exp(-(((columns - cx) / (wide / 2)) ** 2) - ((rows - cy) / (high / 2)) ** 2)
            x[number] += (1 - 2 * kind) * blob * rng.uniform(0.7, 1.3, (3, 1, 1))
            at = number, slice(None), int(cy) // _STEP, int(cx) // _STEP
            wanted[at] = [cx, cy, wide, high, *(np.arange(CLASSES) == kind)]
    return x, wanted


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    weights: dict[str, np.ndarray] = {}
    for name, (out, *others) in _SHAPES.items():
        half = rng.standard_normal((out // 2, *others)) * np.sqrt(2 / np.prod(others))
        both = np.concatenate([half, half * (1 + 0.2 * rng.standard_normal(half.shape))])
        weights[name] = both.astype(np.float32)
        weights[f"b{name[1:]}"] = (0.1 * rng.standard_normal(out)).astype(np.float32)
    return weights


@cache
def detector() -> onnx.ModelProto:
    """The detector: an image `(N, 3, 32, 32)` to `y`, `(N, 6, 64)`: centre, size and two scores of each cell."""
    weights = _weights()
    body = f"g (float[N,3,{SIDE},{SIDE}] image) => (float[N,32,8,8] pr, float[N,32,8,8] qr) {{ {_BODY} }}"
    x, wanted = images(600, seed=9)
    runner = Runner(load(example(body, {}, weights)), ["pr", "qr"], engine=ONE_CORE)
    for_boxes, for_scores = (_columns(array) for array in runner.run_feed({"image": x}).values())
    targets, centres = _columns(wanted)[:, :-1], _centres()
    there = targets[:, 4:].any(axis=1)
    offsets = targets[:, :4] - np.tile(np.concatenate([centres.reshape(2, -1), np.zeros((2, 64))]).T, (len(x), 1))
    weights["w5"], weights["b5"] = _fitted(for_boxes[there], offsets[there], np.ones(there.sum()))
    weight, bias = _fitted(for_scores, 8 * targets[:, 4:] - 4, 1 + 15 * there)
    weights["w6"], weights["b6"] = weight, bias - 1
    constants = {"grid": np.concatenate([centres, np.zeros_like(centres)])[None], "flat": np.array([0, -1, 64])}
    head = """boxes = Conv (pr, w5, b5)  placed = Add (boxes, grid)  flat_boxes = Reshape (placed, flat)
        logits = Conv (qr, w6, b6)  scores = Sigmoid (logits)  flat_scores = Reshape (scores, flat)
        y = Concat <axis = 1> (flat_boxes, flat_scores)"""
    text = f"g (float[N,3,{SIDE},{SIDE}] image) => (float[N,6,64] y) {{ {_BODY} {head} }}"
    return example(text, {}, weights | constants)


def _centres() -> np.ndarray:
    """The middle of each cell, `(2, 8, 8)`: x and y in pixels."""
    middles = (np.arange(CELLS) + 0.5) * _STEP
    return np.stack(np.broadcast_arrays(middles[None], middles[:, None])).astype(np.float32)


def _columns(maps: np.ndarray) -> np.ndarray:
    """`(positions, channels + 1)` of `(N, channels, H, W)`, with a column of ones."""
    columns = np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1]).astype(np.float64)
    return np.concatenate([columns, np.ones((len(columns), 1))], axis=1)


def _fitted(inputs: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight and bias of a pointwise Conv by least squares."""
    weighted = inputs.T * weights
    solved = np.linalg.solve(weighted @ inputs + 1e-3 * len(inputs) * np.eye(inputs.shape[1]), weighted @ outputs)
    weight, bias = solved[:-1].T.astype(np.float32), solved[-1].astype(np.float32)
    return weight[:, :, None, None], bias

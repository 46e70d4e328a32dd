"""Interpolation weights of Resize and Upsample: one matrix per axis, as the ONNX specification defines them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxprune.graph.nodes import Node

Method = Callable[[Sequence[int], Sequence[Any]], dict[int, np.ndarray]]
"""From the data's shape and the node's further inputs to `(size after, size before)` weights per changed axis."""

_TRANSFORMS = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def resampling(node: Node) -> Method | None:
    """How a node resamples each axis; None for forms that are not supported (antialiased, cropping, keep ratio)."""
    transform = str(node.attributes.get("coordinate_transformation_mode", "half_pixel"))
    if node.op_type == "Upsample" or node.opset < 11:
        transform = "asymmetric"
    unusual = node.int("antialias", 0) or str(node.attributes.get("keep_aspect_ratio_policy", "stretch")) != "stretch"
    if unusual or transform not in _TRANSFORMS:
        return None

    def method(shape: Sequence[int], given: Sequence[Any]) -> dict[int, np.ndarray]:
        chosen = node.ints("axes") or tuple(range(len(shape)))
        scales, sizes = _scales_and_sizes(node, given)
        matrices = {}
        for position, axis in enumerate(chosen):
            before = shape[axis]
            after = int(sizes[position]) if sizes is not None else int(np.floor(before * scales[position]))
            scale = after / before if sizes is not None else float(scales[position])
            if after != before or scale != 1:
                matrices[axis] = _weights(node, _source(transform, before, after, scale), before)
        return matrices

    return method


def _scales_and_sizes(node: Node, given: Sequence[Any]) -> tuple[Any, Any]:
    """The scales or the sizes, whichever is given; the other is None."""
    inputs = dict(zip(("roi", "scales", "sizes") if node.opset >= 11 else ("scales",), given, strict=False))
    scales, sizes = inputs.get("scales"), inputs.get("sizes")
    if scales is None:
        scales = node.attributes.get("scales")
    return (None, sizes) if sizes is not None and len(sizes) else (np.asarray(scales, np.float32), None)


def _source(transform: str, before: int, after: int, scale: float | np.float32) -> np.ndarray:
    """The input coordinate of each output position, `(after,)`.

    In single precision, as onnxruntime computes them: what the nearest modes round to depends on it.
    """
    x, scale = np.arange(after, dtype=np.float32), np.float32(scale)
    if transform == "align_corners":
        return x * np.float32((before - 1) / max(after - 1, 1))
    if transform == "asymmetric":
        return x / scale
    if transform == "pytorch_half_pixel" and after == 1:
        return x * 0
    centre = before / 2 * (1 - after / (before * scale)) if transform == "half_pixel_symmetric" else 0
    return np.float32(centre) + (x + np.float32(0.5)) / scale - np.float32(0.5)


def _weights(node: Node, source: np.ndarray, size: int) -> np.ndarray:
    """`(after, size)` interpolation weights at the given input coordinates."""
    mode = str(node.attributes.get("mode", "nearest"))
    rows = np.arange(len(source))[:, None]
    if mode == "nearest":
        taps, weights = _nearest(node, source)[:, None], np.ones((len(source), 1))
    else:
        reach = np.arange(2) if mode == "linear" else np.arange(-1, 3)
        clamped = np.clip(source, 0, size - 1) if mode == "linear" else source
        taps = np.floor(clamped).astype(np.int64)[:, None] + reach
        distance = np.abs(clamped[:, None] - taps)
        a = float(node.attributes.get("cubic_coeff_a", -0.75))
        weights = np.maximum(0, 1 - distance) if mode == "linear" else _cubic(distance, a)
        if node.int("exclude_outside", 0):
            weights = np.where((taps >= 0) & (taps < size), weights, 0)
            weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((len(source), size))
    np.add.at(matrix, (np.broadcast_to(rows, taps.shape), np.clip(taps, 0, size - 1)), weights)
    return matrix


def _nearest(node: Node, source: np.ndarray) -> np.ndarray:
    mode = str(node.attributes.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor"))
    rounded = {
        "round_prefer_ceil": np.floor(source + 0.5),
        "floor": np.floor(source),
        "ceil": np.ceil(source),
    }.get(mode, np.ceil(source - 0.5))
    return np.asarray(rounded, np.int64)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel ("Cubic convolution interpolation for digital image processing", 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))

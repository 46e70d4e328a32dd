"""Helpers shared by several torch rules. torch is imported inside the functions, since only training needs it."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from onnxprune.graph.nodes import Node


def integers(value: Any) -> list[int]:
    """A tensor of integers (axes, a shape, pads) as a Python list."""
    return [int(v) for v in value.reshape(-1).tolist()]


def given_axes(node: Node, value: Any) -> list[int] | None:
    """The axes from the attribute or from the input `value`, by operator version; None where both are absent."""
    axes = node.ints("axes")
    if axes is not None:
        return list(axes)
    return None if value is None else integers(value)


def pad(x: Any, pads: Sequence[int], value: float = 0.0) -> Any:
    """Pad the last axes with a constant. `pads` are in ONNX's order; negative ones cut."""
    import torch

    if not any(pads):
        return x
    n = len(pads) // 2
    pairs = [p for axis in reversed(range(n)) for p in (pads[axis], pads[axis + n])]
    return torch.nn.functional.pad(x, pairs, value=value)


def select(x: Any, axis: int, positions: Sequence[int] | np.ndarray) -> Any:
    """Select positions along an axis, in the given order."""
    import torch

    if len(positions) == x.shape[axis] and all(p == i for i, p in enumerate(positions)):
        return x
    return x.index_select(axis, torch.as_tensor(list(positions), dtype=torch.int64, device=x.device))


def as_matrix(x: Any, axis: int) -> Any:
    """`x` as a matrix: axes before `axis` merged into rows, the others into columns."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def along_channels(parameter: Any, x: Any) -> Any:
    """A parameter `(C,)` shaped to broadcast along axis 1 of `x`."""
    return parameter.reshape(1, -1, *(1,) * (x.dim() - 2))


def dtype(element: Any) -> Any:
    """The torch type for an ONNX element type or a numpy type; None where torch has none.

    Half precision becomes single: that is what training computes in.
    """
    import onnx
    import torch

    name = str(onnx.helper.tensor_dtype_to_np_dtype(int(element)) if isinstance(element, int) else np.dtype(element))
    return getattr(torch, {"float16": "float32", "bfloat16": "float32"}.get(name, name), None)

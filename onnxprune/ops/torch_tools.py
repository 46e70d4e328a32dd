"""What several torch rules share. torch is imported inside the functions: only fine-tuning runs them."""

from collections.abc import Sequence
from math import prod
from typing import Any

from onnxprune.graph.view import Node


def integers(value: Any) -> list[int]:
    """A tensor of integers (axes, a shape, pads) as a list."""
    return [int(v) for v in value.reshape(-1).tolist()]


def given_axes(node: Node, value: Any) -> list[int] | None:
    """Axes from the attribute (older operator sets) or from the input `value`; None where both are absent."""
    axes = node.ints("axes")
    if axes is not None:
        return list(axes)
    return None if value is None else integers(value)


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[int, ...]:
    """Pads of `auto_pad = SAME_UPPER` or `SAME_LOWER`: begins, then ends."""
    total = [
        max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*small, *large) if upper else (*large, *small)


def window_pads(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads of a convolution or pooling over spatial `sizes`: begins, then ends."""
    n = len(kernel)
    auto = str(node.attributes.get("auto_pad", "NOTSET"))
    if auto.startswith("SAME"):
        strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
        return same_pads(sizes, kernel, strides, dilations, upper=auto == "SAME_UPPER")
    return (0,) * (2 * n) if auto == "VALID" else node.ints("pads") or (0,) * (2 * n)


def pad(x: Any, pads: Sequence[int], value: float = 0.0) -> Any:
    """Pad the last axes with a constant; `pads` as ONNX has them, negative ones cut."""
    import torch

    if not any(pads):
        return x
    n = len(pads) // 2
    pairs = [p for axis in reversed(range(n)) for p in (pads[axis], pads[axis + n])]
    return torch.nn.functional.pad(x, pairs, value=value)


def as_matrix(x: Any, axis: int) -> Any:
    """`x` with the axes before `axis` merged into rows and the others into columns."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def along_channels(parameter: Any, x: Any) -> Any:
    """A parameter `(C,)` shaped to broadcast over axis 1 of `x`."""
    return parameter.reshape(1, -1, *(1,) * (x.dim() - 2))

"""Geometry of the sliding windows of convolution and pooling."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.graph.nodes import Node


@dataclass(frozen=True, slots=True)
class Window:
    """Sliding windows over `n` spatial axes. `pads` has `2n` entries: begins, then ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pooling:
    """Windows of each channel, of which a node takes the largest value or the mean. Padding counts for nothing."""

    window: Window
    mean: bool


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[int, ...]:
    """The pads that `auto_pad` SAME_UPPER or SAME_LOWER stands for: begins, then ends."""
    total = [
        max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*small, *large) if upper else (*large, *small)


def window_pads(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads of a convolution or pooling over the given spatial sizes: begins, then ends."""
    n = len(kernel)
    auto = str(node.attributes.get("auto_pad", "NOTSET"))
    if auto.startswith("SAME"):
        strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
        return same_pads(sizes, kernel, strides, dilations, upper=auto == "SAME_UPPER")
    return (0,) * (2 * n) if auto == "VALID" else node.ints("pads") or (0,) * (2 * n)


def transposed_pads(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads by which a transposed convolution of the given spatial sizes cuts its full result: begins, then ends."""
    n = len(kernel)
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    auto, target = str(node.attributes.get("auto_pad", "NOTSET")), node.ints("output_shape")
    if auto.startswith("SAME") and target is None:
        target = tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
    if target is None:
        return node.ints("pads") or (0,) * (2 * n) if auto == "NOTSET" else (0,) * (2 * n)
    extra = node.ints("output_padding") or (0,) * n
    full = [(sizes[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(n)]
    total = [a - b for a, b in zip(full, target[-n:], strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*small, *large) if auto == "SAME_UPPER" else (*large, *small)


def covered(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    *,
    ceil: bool,
) -> tuple[int, ...]:
    """The given pads, extended at the end so that the last window lies inside.

    With `ceil`, the last window counts where it starts inside the input or the pads before it.
    """
    n, ends = len(sizes), []
    for axis in range(n):
        size, begin, end, stride = sizes[axis], pads[axis], pads[axis + n], strides[axis]
        span = (kernel[axis] - 1) * dilations[axis] + 1
        room = size + begin + end - span
        steps = -(-room // stride) if ceil else room // stride
        if ceil and steps * stride >= size + begin:
            steps -= 1
        ends.append(max(end, steps * stride + span - size - begin))
    return (*pads[:n], *ends)

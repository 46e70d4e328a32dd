"""Channel counts at which the kernels of a deployment target are fast (a fixed table; nothing is measured here).

A kernel takes channels in blocks. Where a width is no multiple of the block, the layout of whole tensors is changed
back and forth, or a slower kernel runs. So each use of channels has a step, and a group's step follows from its uses.
The table below is written out, with the source of each row, in `docs/deploy.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, lcm
from types import MappingProxyType

import numpy as np

from onnxprune.ops.traits import ChannelUse
from onnxprune.structure.analysis import Analysis

STEPS: Mapping[str, Mapping[ChannelUse, int]] = MappingProxyType(
    {
        "cpu": {
            ChannelUse.CONVOLVED: 4,
            ChannelUse.DEPTHWISE: 4,
            ChannelUse.GROUPED: 16,
            ChannelUse.POOLED: 16,
            ChannelUse.JOINED: 16,
            ChannelUse.MULTIPLIED: 16,
        },
        "cuda": dict.fromkeys(ChannelUse, 8),
        "tensorrt": dict.fromkeys(ChannelUse, 32),
        "int8": dict.fromkeys(ChannelUse, 16),
        "arm": dict.fromkeys(ChannelUse, 8),
    }
)
"""By target, the step of each use of channels."""

BLOCKS: Mapping[str, int] = MappingProxyType({"cpu": 16, "cuda": 8, "tensorrt": 32, "int8": 16, "arm": 8})
"""Channels that a kernel takes at once. A convolution of fewer takes them in another layout than its neighbours."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What blocked convolutions take, in multiply-adds.

    Attributes:
        block: channels in a block.
        written: an element of the output, beside its sums.
        reordered: an element whose layout is changed.
    """

    block: int
    written: float
    reordered: float

    def padded(self, width: np.ndarray) -> np.ndarray:
        """Channels that are computed."""
        return np.asarray(-(-width // self.block) * self.block, dtype=np.float64)

    def read(self, width: np.ndarray) -> np.ndarray:
        """Input channels that are gone through: fewer than a block as they are."""
        return np.where(width < self.block, width, self.padded(width))

    def narrow(self, width: np.ndarray) -> np.ndarray:
        """Input channels whose layout is changed."""
        return np.where(width < self.block, width, 0).astype(np.float64)


BLOCKED: Mapping[str, Blocked] = MappingProxyType({"cpu": Blocked(16, 11.0, 53.0)})

_BLOCKED = (ChannelUse.CONVOLVED, ChannelUse.DEPTHWISE)

# Groups with fewer units do not mind a use: a convolution of fewer inputs than a block takes any number of them, and in
# a matrix product the padding of the last block does not show.
_NARROW = {ChannelUse.CONVOLVED: 16, ChannelUse.MULTIPLIED: 128}


@dataclass(frozen=True, slots=True)
class Steps:
    """Recommended widths per group: multiples of `steps[g]` that are at least `floors[g]`.

    Groups in `bound` do not go as a whole either: without them a sum would be no multiple any more.
    """

    steps: tuple[int, ...]
    floors: tuple[int, ...]
    bound: frozenset[int] = frozenset()


def kernel_steps(analysis: Analysis, kernels: str, *, sums: bool = True) -> Steps:
    """For each group, the step that its width should be a multiple of, and the least width that is still fast.

    A group that a use has less than two steps of does not mind that use: no narrower width could please it. Where it
    shares the channels of blocked convolutions with other groups, it stays whole instead, with a step of its size: the
    sum of all is a multiple.

    Args:
        analysis: the analysed model.
        kernels: a key of `STEPS`.
        sums: whether sums of several groups count; else each minds a use that it has two steps of.
    """
    sizes = [len(group) for group in analysis.groups]
    group_of = np.full(analysis.units, -1, dtype=np.int64)
    for index, group in enumerate(analysis.groups):
        group_of[group.units] = index
    steps, floors, bound = [1] * len(sizes), [0] * len(sizes), set[int]()
    for use, units in analysis.uses:
        groups, counts = np.unique(group_of[units], return_counts=True)
        wanted = STEPS[kernels][use]
        shared = sums and use in _BLOCKED and len(groups) > 1 and len(units) % wanted == 0
        for g, count in zip(groups.tolist(), counts.tolist(), strict=True):
            if g < 0 or (len(units) if shared else sizes[g]) < _NARROW.get(use, 0):
                continue
            repeats = count // sizes[g]  # how often each unit is there
            step = wanted // gcd(wanted, repeats)
            if shared and sizes[g] % step:
                bound.add(g)
            if shared and (sizes[g] < 2 * step or sizes[g] % step):
                steps[g] = sizes[g]
            elif sizes[g] >= 2 * step:
                steps[g] = min(lcm(steps[g], step), sizes[g])
            block = BLOCKS[kernels]
            if use in _BLOCKED and len(groups) == 1 and count >= 2 * block:
                floors[g] = max(floors[g], -(-block // repeats))
    rounded = (min(-(-floor // step) * step, size) for floor, step, size in zip(floors, steps, sizes, strict=True))
    return Steps(tuple(steps), tuple(rounded), frozenset(bound))

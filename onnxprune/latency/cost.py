"""Turns measured kernel times into a cost table for the allocation program.

A kernel's time depends on the widths of its ends, each a sum over the groups that meet there. It is expanded around a
reference choice of widths `r` up to pairs of groups (anchored ANOVA, also called cut-HDMR: Rabitz and Alis, Journal of
Mathematical Chemistry 25, 1999):

    t(k) = t(r) + sum_g d_g(k_g) + sum_(g<h) d_gh(k_g, k_h),
    d_g(k) = t(r with k_g) - t(r),    d_gh(k, j) = t(r with k_g, k_h) - t(r with k_g) - t(r with k_h) + t(r),

which is exact for kernels that two groups meet at, and for all others wherever at most two groups differ from the
reference.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from onnxprune.allocation.table import CostTable
from onnxprune.latency.fused_kernels import CONSTANT, FusedKernel, LinearForm
from onnxprune.latency.times import Cell, FusedKernelTimes

# Groups that may meet at one end of a kernel and still be expanded in pairs among themselves.
_MOST_SAME_END = 4
# Where more of them meet, their sum is filled up to a multiple of this: a sum that kernels do not like, next to the
# reference, says nothing of what a group takes, since others may make up for it.
_EVEN = 4

_Identity = tuple[str, tuple[tuple[tuple[int, float], ...], ...]]


def cost_table(
    times: FusedKernelTimes, reference: Sequence[int], widths: Mapping[int, np.ndarray], *, coupled: bool = True
) -> CostTable:
    """Total time of all kernels as a table over the groups' widths, in microseconds.

    Args:
        times: the kernels.
        reference: widths per group around which the times are expanded.
        widths: ascending widths per group, for all groups.
        coupled: whether pairs of groups are expanded too.
    """
    expansions = [_Expansion(kernel, reference, widths, coupled) for kernel in times.kernels]
    times.measure([cell for expansion in expansions for cell in expansion.cells()])
    alone = {g: np.zeros(len(allowed)) for g, allowed in widths.items()}
    pairs: dict[tuple[int, int], np.ndarray] = {}
    constant = 0.0
    for expansion, count in _counted(expansions).items():
        constant += count * times.time(expansion.kernel, expansion.kernel.widths(reference))
        for g in expansion.groups:
            alone[g] += count * expansion.single(times, g)
        for g, h in expansion.pairs:
            pairs[g, h] = pairs.get((g, h), 0.0) + count * expansion.double(times, g, h)
    # The time that no choice changes is shared out among the groups: the allocation program takes a budget's rest as a
    # number of at least 0, which a separate constant could make negative.
    spread = {g: values + constant / len(alone) for g, values in alone.items()}
    return CostTable(widths, 0.0, spread, pairs)


@dataclass(frozen=True, slots=True, eq=False)
class _Expansion:
    """The time of one kernel, expanded around the reference widths; see the module."""

    kernel: FusedKernel
    reference: Sequence[int]
    widths: Mapping[int, np.ndarray]
    coupled: bool

    @property
    def identity(self) -> _Identity:
        return self.kernel.key, tuple(tuple(sorted(form.items())) for form in self.kernel.forms)

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(sorted({g for form in self.kernel.forms for g in form if g != CONSTANT}))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        if not self.coupled:
            return ()
        return tuple(pair for pair in combinations(self.groups, 2) if _meet(self.kernel.forms, *pair))

    def cells(self) -> list[Cell]:
        choices: list[list[tuple[int, int]]] = [[]]
        choices += [[(g, int(k))] for g in self.groups for k in self.widths[g]]
        choices += [[(g, int(k)), (h, int(j))] for g, h in self.pairs for k in self.widths[g] for j in self.widths[h]]
        return [(self.kernel, self._at(choice)) for choice in choices]

    def single(self, times: FusedKernelTimes, g: int) -> np.ndarray:
        base = times.time(self.kernel, self._at([]))
        return np.array([times.time(self.kernel, self._at([(g, int(k))])) - base for k in self.widths[g]])

    def double(self, times: FusedKernelTimes, g: int, h: int) -> np.ndarray:
        both = [
            [times.time(self.kernel, self._at([(g, int(k)), (h, int(j))])) for j in self.widths[h]]
            for k in self.widths[g]
        ]
        base = times.time(self.kernel, self._at([]))
        return np.asarray(np.array(both) - base - self.single(times, g)[:, None] - self.single(times, h)[None, :])

    def _at(self, choice: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        kept = list(self.reference)
        for g, k in choice:
            kept[g] = k
        ends = zip(self.kernel.widths(kept), self.kernel.full, self.kernel.forms, strict=True)
        return tuple(
            min(full, -(-width // _EVEN) * _EVEN) if len(form) > _MOST_SAME_END else width for width, full, form in ends
        )


def _meet(forms: Sequence[LinearForm], g: int, h: int) -> bool:
    """Whether the interaction of two groups is included: at different ends of a kernel, or of few groups at one end."""
    ends = [[i for i, form in enumerate(forms) if group in form] for group in (g, h)]
    if set(ends[0]) != set(ends[1]) or len(ends[0]) > 1:
        return True
    return len(forms[ends[0][0]]) <= _MOST_SAME_END


def _counted(expansions: Sequence[_Expansion]) -> dict[_Expansion, int]:
    """Each different expansion, with the number of kernels that share it."""
    first: dict[_Identity, _Expansion] = {}
    for expansion in expansions:
        first.setdefault(expansion.identity, expansion)
    counts = Counter(expansion.identity for expansion in expansions)
    return {expansion: counts[identity] for identity, expansion in first.items()}

"""Chooses the widths at which kernels are timed, and finds those that are fast on this machine."""

from collections.abc import Sequence

import numpy as np

from onnxprune.latency.cost import cost_table
from onnxprune.latency.times import FusedKernelTimes

_STEPS = 8
# A wider group is preferred where it costs at most this share more of what the group can save at most.
_SAME = 0.02


def fast_widths(times: FusedKernelTimes, full: Sequence[int], round_to: int = 1) -> dict[int, np.ndarray]:
    """For each group, the widths that are fast on this machine, ascending. Keeping all units is always included.

    With all other groups whole, a width is left out where a wider one takes as long, or where it takes longer than
    the whole group. Where several groups meet at one end of a kernel, their sum decides: there only the latter counts.

    Args:
        times: the model's kernels.
        full: units per group.
        round_to: widths are multiples of this, or whole groups.
    """
    widths = {g: grid(units, round_to) for g, units in enumerate(full)}
    table = cost_table(times, full, widths, coupled=False)
    mixed, fast = meeting(times), {}
    for g, allowed in widths.items():
        cost = table.alone[g]
        tolerance = _SAME * max(0.0, cost[-1] - cost.min())
        bar = np.full(len(allowed), cost[-1]) if g in mixed else np.minimum.accumulate(cost[::-1])[::-1]
        limit = np.append(bar[1:], np.inf)
        fast[g] = allowed[cost < limit - tolerance]
    return fast


def meeting(times: FusedKernelTimes) -> set[int]:
    """The groups that meet others, or channels that stay, at one end of a kernel."""
    return {g for kernel in times.kernels for form in kernel.forms if len(form) > 1 for g in form}


def grid(units: int, round_to: int) -> np.ndarray:
    """The widths of a group at which times are measured, ascending.

    Multiples of a power of two (at most eight steps), and a few narrow widths.
    """
    if units <= _STEPS:
        widths = np.arange(1, units + 1)
    else:
        step = 1 << int(np.ceil(np.log2(units / _STEPS)))
        widths = np.unique([1, step // 2, *range(step, units, step), units])
    rounded = -(-widths // round_to) * round_to
    return np.unique(np.minimum(rounded, units))

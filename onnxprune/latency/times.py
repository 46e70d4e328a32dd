"""Kernel times of one model at any widths, measured when they are first needed."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.core.clock import Progress
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.fused_kernels import FusedKernel
from onnxprune.latency.kernels import kernel_times

Cell = tuple[FusedKernel, tuple[int, ...]]
"""A kernel and the widths of its groups."""

# Cells measured between two savings of the cache.
_TOGETHER = 192


@dataclass(slots=True)
class FusedKernelTimes:
    """The kernel times of one model.

    Attributes:
        kernels: all kernels of the model.
        cache: what is known.
        threads: threads of onnxruntime.
        progress: told of measured cells.
    """

    kernels: Sequence[FusedKernel]
    cache: TimeCache
    threads: int
    progress: Progress

    def total(self, kept: Sequence[int]) -> float:
        """Time of all kernels at the given widths of the model's groups, in microseconds."""
        cells = [(kernel, kernel.widths(kept)) for kernel in self.kernels]
        self.measure(cells)
        return sum(self.time(kernel, widths) for kernel, widths in cells)

    def time(self, kernel: FusedKernel, widths: tuple[int, ...]) -> float:
        """Time of one kernel in microseconds; it must have been measured before."""
        return self.cache.times[_name(kernel.key, widths)]

    def measure(self, cells: Sequence[Cell]) -> None:
        """Measure the times that are not known yet, and store them.

        Raises:
            ModelError: onnxruntime cannot run a kernel.
        """
        missing = {_name(kernel.key, widths): (kernel, widths) for kernel, widths in cells}
        missing = {name: cell for name, cell in missing.items() if name not in self.cache.times}
        names = sorted(missing, key=lambda name: name[::-1])  # neighbours in a table are not measured side by side
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            self.progress("measure", start, len(names))
            models = [missing[name][0].at(missing[name][1]) for name in part]
            self.cache.times |= dict(zip(part, kernel_times(models, threads=self.threads), strict=True))
            self.cache.save()
        if names:
            self.progress("measure", len(names), len(names))


def _name(key: str, widths: tuple[int, ...]) -> str:
    return f"{key}:{','.join(map(str, widths))}"

"""Kernel times of one model at any widths, measured when they are first needed.

Every kernel is timed as a ratio to itself at full width, within the same round of runs: a slow moment of the machine
meets both. The full kernels are timed beside each other, so that they too are comparable. What a run takes end to end
follows from paired runs of whole models (`latency.search`); here only proportions matter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.core.clock import Progress
from onnxprune.core.engine import Engine
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.fused_kernels import FusedKernel
from onnxprune.latency.kernels import round_times

Cell = tuple[FusedKernel, tuple[int, ...]]
"""A kernel and the widths of its groups."""

# Kernels that run in turn, without those at full width that they are compared with.
_TOGETHER = 40
# Kept times of a kernel are measured again where a re-check differs by more than this share and so many microseconds.
_DISAGREES, _CLOCK_US = 0.2, 2.0
_WIDTHS = re.compile("[0-9]{1,9}(,[0-9]{1,9})*")


@dataclass(slots=True)
class FusedKernelTimes:
    """The kernel times of one model.

    Attributes:
        kernels: all kernels of the model.
        cache: what is known.
        engine: threads and execution provider of onnxruntime.
        progress: told of measured cells.
        checked: whether the kept times were compared with the machine as it is now.
        nothing: names of cells of which removal leaves no node.
    """

    kernels: Sequence[FusedKernel]
    cache: TimeCache
    engine: Engine
    progress: Progress
    checked: bool = False
    nothing: set[str] = field(default_factory=set)

    def total(self, kept: Sequence[int]) -> float:
        """Time of all kernels at the given widths of the model's groups, in microseconds."""
        cells = [(kernel, kernel.widths(kept)) for kernel in self.kernels]
        self.measure(cells)
        return sum(self.time(kernel, widths) for kernel, widths in cells)

    def time(self, kernel: FusedKernel, widths: tuple[int, ...]) -> float:
        """Time of one kernel in microseconds; it must have been measured before."""
        name = _name(kernel.key, widths)
        return 0.0 if name in self.nothing else self.cache.times[name]

    def measure(self, cells: Sequence[Cell]) -> None:
        """Measure the times that are not known yet, and store them.

        Raises:
            ModelError: onnxruntime cannot run a kernel.
        """
        self._check()
        missing = {_name(kernel.key, widths): (kernel, widths) for kernel, widths in cells}
        missing = {n: cell for n, cell in missing.items() if n not in self.cache.times and n not in self.nothing}
        models = {name: kernel.at(widths) for name, (kernel, widths) in missing.items()}
        self.nothing |= {name for name, model in models.items() if model is None}
        # Neighbours in a table are not measured side by side.
        names = sorted((name for name, model in models.items() if model is not None), key=lambda name: name[::-1])
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            self.progress("measure", start, len(names))
            whole = {_name(kernel.key, kernel.full): kernel for kernel in (missing[name][0] for name in part)}
            tried = {n: kernel.analysis.model for n, kernel in whole.items()}
            tried |= {name: model for name in part if (model := models[name]) is not None}
            samples = self._samples(tried)
            for name in part:
                kernel = missing[name][0]
                full = _name(kernel.key, kernel.full)
                self.cache.times[name] = _relative(samples[name], samples[full], self.cache.times[full])
            self.cache.save()
        if names:
            self.progress("measure", len(names), len(names))

    def _samples(self, models: Mapping[str, Model]) -> dict[str, np.ndarray]:
        """Microseconds of each model in each round."""
        samples = round_times(list(models.values()), engine=self.engine)
        return {name: samples[:, index] for index, name in enumerate(models)}

    def _check(self) -> None:
        """Measure all kernels at full width; forget the kept times of those that disagree with what is measured now.

        One narrower width of each kernel that has kept times is measured beside them.
        """
        if self.checked:
            return
        self.checked = True
        kernels = {kernel.key: kernel for kernel in self.kernels}
        known = self._known(kernels)
        full = {key: _name(key, kernel.full) for key, kernel in kernels.items()}
        models = {full[key]: kernel.analysis.model for key, kernel in kernels.items()}
        probes: dict[str, str] = {}
        for key, kernel in kernels.items():
            narrow = sorted(known[key].keys() - {full[key]})
            probe = narrow[len(narrow) // 2] if narrow else full[key]
            model = kernel.at(known[key][probe]) if narrow else None
            if model is not None:
                probes[key], models[probe] = probe, model
        if not models:
            return
        samples = self._samples(models)
        pace = _pace([samples[name] for name in full.values()])
        now = {key: float(np.median(samples[name] / pace)) for key, name in full.items()}
        kept = [key for key in kernels if full[key] in self.cache.times]
        # The machine may be slower or faster than it was; that is no disagreement.
        speed = float(np.median([now[key] / self.cache.times[full[key]] for key in kept])) if kept else 1.0
        speed = speed if speed > 0 else 1.0
        for key in kernels:
            was = self.cache.times.get(full[key])
            disagrees = was is None or _differ(now[key] / speed, was)
            if not disagrees and key in probes:
                again = _relative(samples[probes[key]], samples[full[key]], self.cache.times[full[key]])
                disagrees = _differ(again, self.cache.times[probes[key]])
            if disagrees:
                for name in known[key]:
                    del self.cache.times[name]
                self.cache.times[full[key]] = now[key] / speed
        self.cache.save()

    def _known(self, kernels: Mapping[str, FusedKernel]) -> dict[str, dict[str, tuple[int, ...]]]:
        """Names of the kept times of each kernel, with their widths; others of these kernels are forgotten."""
        wanted: dict[str, dict[str, tuple[int, ...]]] = {key: {} for key in kernels}
        for name in [*self.cache.times]:
            kernel = kernels.get(name.partition(":")[0])
            if kernel is None:
                continue
            widths = _widths(name)
            if len(widths) == len(kernel.full) and all(k <= n for k, n in zip(widths, kernel.full, strict=True)):
                wanted[kernel.key][name] = widths
            else:
                del self.cache.times[name]
        return wanted


def _relative(samples: np.ndarray, full: np.ndarray, full_us: float) -> float:
    """A kernel's time from its ratio to the full one in each round."""
    if full_us <= 0 or np.any(full <= 0):
        return float(np.median(samples))
    return float(np.median(samples / full)) * full_us


def _pace(samples: Sequence[np.ndarray]) -> np.ndarray:
    """How slow the machine was in each round, beside what was typical; kernels that take no time say nothing of it."""
    relative = [values / np.median(values) for values in samples if np.all(values > 0)]
    return np.asarray(np.median(relative, axis=0)) if relative else np.ones(len(samples[0]))


def _differ(now_us: float, was_us: float) -> bool:
    return abs(now_us - was_us) > max(_DISAGREES * was_us, _CLOCK_US)


def _name(key: str, widths: tuple[int, ...]) -> str:
    return f"{key}:{','.join(map(str, widths))}"


def _widths(name: str) -> tuple[int, ...]:
    """The widths in a cell's name; () where it holds none, which only a damaged file has."""
    text = name.partition(":")[2]
    return tuple(map(int, text.split(","))) if _WIDTHS.fullmatch(text) else ()

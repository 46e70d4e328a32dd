"""Measures kernel times with onnxruntime's profiler, running many small models in turn."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core.files import temporary_folder
from onnxprune.graph.model import Model
from onnxprune.latency.fused_kernels import STUB
from onnxprune.runtime.feeds import Feed, random_feed
from onnxprune.runtime.session import open_session, runtime_errors

# Sessions open at a time, rounds through them, and bounds of a session's runs per round.
_TOGETHER = 48
_ROUNDS = 5
_RUNS = (2, 20)
_ROUND_S = 0.004
_KERNEL = "_kernel_time"


@dataclass(slots=True)
class _Running:
    """An onnxruntime session with its profiler switched on."""

    session: Any
    feed: Feed
    runs: int


def kernel_times(models: Sequence[Model], *, threads: int) -> tuple[float, ...]:
    """Microseconds that each small model spends in its kernel in one run, without the nodes around it.

    Fused kernels run in turn, several times over, so that a change of the machine's speed meets all alike. Of a
    kernel's runs the faster half counts: other processes only ever make a run slower.

    Args:
        models: small models of kernels, see `latency.fused_kernels`.
        threads: threads of onnxruntime; 0 takes all cores.

    Raises:
        ModelError: onnxruntime cannot run a kernel.
    """
    times: list[float] = []
    for start in range(0, len(models), _TOGETHER):
        part = models[start : start + _TOGETHER]
        with temporary_folder() as folder:
            running = [_start(model, folder / str(i), threads) for i, model in enumerate(part)]
            for backwards in range(_ROUNDS):
                for each in reversed(running) if backwards % 2 else running:
                    for _ in range(each.runs):
                        each.session.run(None, each.feed)
            for each in running:
                times.append(own_time(json.loads(Path(each.session.end_profiling()).read_text(encoding="utf-8"))))
    return tuple(times)


def _start(model: Model, prefix: Path, threads: int) -> _Running:
    session = open_session(model, threads=threads, profile=prefix)
    feed = random_feed(model)
    with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
        session.run(None, feed)
        began = time.perf_counter()
        session.run(None, feed)
    least, most = _RUNS
    return _Running(session, feed, int(np.clip(_ROUND_S / (time.perf_counter() - began), least, most)))


def own_time(events: Sequence[dict[str, Any]]) -> float:
    """Mean kernel time over the faster half of the runs, in microseconds.

    Conversions of layout belong to whoever reads the tensor: those behind the kernel's last node are not its own,
    unless the kernel's result is not read by a stub.
    """
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    if not kernels:  # onnxruntime computes nothing: it removes the nodes, or folds them when it loads the model
        return 0.0
    kernels.sort(key=lambda event: event["ts"])
    first = kernels[0]["name"]
    runs: list[list[dict[str, Any]]] = []
    for event in kernels:
        if event["name"] == first:
            runs.append([])
        runs[-1].append(event)
    totals = []
    for run in runs[2:]:  # the first two warm up
        own = [not event["name"].startswith(STUB) for event in run]
        reads = max((i for i, is_own in enumerate(own) if not is_own), default=-1)
        last = max((i for i, event in enumerate(run) if own[i] and not _is_conversion(event)), default=-1)
        end = last + 1 if reads > last else len(run)
        totals.append(sum(event["dur"] for event, is_own in zip(run[:end], own[:end], strict=True) if is_own))
    fast = np.sort(np.asarray(totals, dtype=np.float64))[: max(1, len(totals) // 2)]
    return float(fast.mean())


def _is_conversion(event: dict[str, Any]) -> bool:
    return event.get("args", {}).get("op_name") in ("ReorderInput", "ReorderOutput")

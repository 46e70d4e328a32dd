"""Measures kernel times, running many small models in turn: with onnxruntime's profiler where it tells them.

It tells them on the CPU. Other providers fuse whole graphs, or only start a kernel on a device when its node runs:
there whole runs are timed, which end when the outputs are back. What such a run costs besides its kernel is the same at
any width; what turns kernel times into end-to-end times takes it in (`latency.shares`).
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core.engine import Engine
from onnxprune.core.errors import ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.graph.model import Model
from onnxprune.latency.fused_kernels import STUB
from onnxprune.runtime.feeds import Feed, random_feed
from onnxprune.runtime.session import open_session, runtime_errors

# Rounds through all sessions, and bounds of a session's runs per round.
_ROUNDS = 5
_RUNS = (2, 20)
_ROUND_S = 0.004
_KERNEL = "_kernel_time"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """An onnxruntime session on a small model, and its runs per round."""

    session: Any
    feed: Feed
    runs: int


def round_times(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
    """Microseconds that each small model spends in its kernel in one run, without the nodes around it, round by round.

    All models run in turn, several rounds over: what is compared within a round met the same speed of the machine. Of a
    kernel's runs in a round the faster half counts: other processes only ever make a run slower. On another provider
    than the CPU's these are times of whole runs.

    Args:
        models: small models of kernels, see `latency.fused_kernels`.
        engine: threads and execution provider of onnxruntime.

    Returns:
        `(rounds, models)`.

    Raises:
        ModelError: onnxruntime cannot run a kernel.
    """
    if not engine.provider.is_cpu:
        return _run_times([_start_anywhere(model, engine) for model in models])
    with temporary_folder() as folder:
        running = [_start(model, folder / str(i), engine) for i, model in enumerate(models)]
        for backwards in range(_ROUNDS):
            for each in reversed(running) if backwards % 2 else running:
                for _ in range(each.runs):
                    each.session.run(None, each.feed)
        profiles = (Path(each.session.end_profiling()) for each in running)
        return np.stack([own_times(json.loads(path.read_text(encoding="utf-8")), _ROUNDS) for path in profiles], axis=1)


def _start(model: Model, prefix: Path | None, engine: Engine) -> _Running:
    session = open_session(model, engine=engine, profile=prefix)
    feed = random_feed(model)
    with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
        session.run(None, feed)
        began = time.perf_counter()
        session.run(None, feed)
    least, most = _RUNS
    return _Running(session, feed, int(np.clip(_ROUND_S / (time.perf_counter() - began), least, most)))


def _start_anywhere(model: Model, engine: Engine) -> _Running:
    """A kernel on the provider, or on the CPU where the provider fails on it alone (OpenVINO does at some widths of 1).

    The whole model may run there nevertheless; what is chosen in the end is built and timed as a whole.
    """
    try:
        return _start(model, None, engine)
    except ModelError as error:
        _log.debug("%s; timed on the CPU", error)
        return _start(model, None, Engine(engine.threads))


def _run_times(running: Sequence[_Running]) -> np.ndarray:
    """Microseconds of whole runs, `(rounds, models)`: the mean over the faster half of each round's runs."""
    rounds = np.zeros((_ROUNDS, len(running)))
    for number in range(_ROUNDS):
        turn = [*enumerate(running)]
        for index, each in reversed(turn) if number % 2 else turn:
            taken = []
            for _ in range(each.runs):
                began = time.perf_counter()
                each.session.run(None, each.feed)
                taken.append(time.perf_counter() - began)
            rounds[number, index] = 1e6 * float(np.mean(np.sort(taken)[: max(1, len(taken) // 2)]))
    return rounds


def own_times(events: Sequence[dict[str, Any]], rounds: int) -> np.ndarray:
    """Mean kernel time over the faster half of the runs of each round, `(rounds,)` microseconds.

    Conversions of layout belong to whoever reads the tensor: those behind the kernel's last node are not its own,
    unless the kernel's result is not read by a stub.
    """
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    if not kernels:  # onnxruntime computes nothing: it removes the nodes, or folds them when it loads the model
        return np.zeros(rounds)
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
    parts = (np.sort(part)[: max(1, len(part) // 2)] for part in np.array_split(np.asarray(totals, float), rounds))
    return np.array([part.mean() for part in parts])


def _is_conversion(event: dict[str, Any]) -> bool:
    return event.get("args", {}).get("op_name") in ("ReorderInput", "ReorderOutput")

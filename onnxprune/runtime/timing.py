"""Measures latency, peak memory and file size of models in onnxruntime, run in turn."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core.engine import ALL_CORES, CPU_NAME, ONE_CORE, Engine
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.core.results import InputSize, TimeReport
from onnxprune.graph.inputs import input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.write import write
from onnxprune.runtime.feeds import Feed, random_feed
from onnxprune.runtime.session import open_session, runtime_errors, session_providers

Clock = Callable[[], float]

# A sample lasts at least this long, so that the clock and the call do not show.
_SAMPLE_S = 1e-3
MOST_S = 3.0
"""Seconds that measuring a pair goes on for once there are enough pairs."""
PAIR_S = 1.2
"""Seconds that a budget of time is worth measuring a pair for."""
_PAIRS, _FEWEST_PAIRS = 20, 5
_QUICK = 0.1  # share of the runs that are quick
_RANGE = 1.4  # standard deviations of each of two such shares that 95 of 100 of their quotients lie within
_LONGEST_S = 60.0  # that so many pairs may take; of models that take longer there are fewer
# Deployed alone a session spins between operators; here it must stop when its run ends, or it slows the next one.
_ENTRIES = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}


@dataclass(frozen=True, slots=True, repr=False)
class Latency:
    """Speed and size of one model.

    Attributes:
        model: its name.
        median_ms: median time of a run, in milliseconds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        ratio: this model's time relative to the first model's: see `quick_ratio`.
        batch: rows a run.
        threads: threads of onnxruntime; 0 is all cores.
        warmup: rounds before the measured ones.
        rounds: measured rounds; every model runs in each.
        runs: runs that one sample averages (more than 1 for models of well under a millisecond).
        peak_bytes: peak memory of a process that runs this model alone; None where it was not measured.
        file_bytes: size of the model's file, with its external data.
        sizes: the sizes of inputs that the file leaves open, as they were taken.
        provider: execution provider of onnxruntime.
        low: the least that the ratio may be.
        high: the most.

    Example:
        ```python
        first, second = onnxprune.bench(["model.onnx", "smaller.onnx"], seconds=0.5)
        print(f"{second.median_ms:.3f} ms, {second.ratio:.2f} of the first one's time")
        ```
    """

    model: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    batch: int
    threads: int
    warmup: int
    rounds: int
    runs: int
    peak_bytes: int | None
    file_bytes: int
    sizes: tuple[InputSize, ...] = ()
    provider: str = CPU_NAME
    low: float = 1.0
    high: float = 1.0

    def __repr__(self) -> str:
        return f"Latency({self.model!r}: {self.median_ms:.3g} ms, {self.ratio:.3g} of the first model's)"


def time_models(
    models: Sequence[Model],
    *,
    batch: int = 1,
    engine: Engine = ALL_CORES,
    seconds: float = 5.0,
    warmup: int = 3,
    rounds: int = 10,
    memory: bool = True,
    feeds: Sequence[Feed] | None = None,
    known: OpenShapes | None = None,
    seed: int = 0,
    clock: Clock | None = None,
) -> tuple[Latency, ...]:
    """Measure models in interleaved rounds, so that changes of the machine's speed affect all alike.

    Args:
        models: the first is what the others are compared with.
        batch: rows a run; a model with a fixed batch runs at its own.
        engine: threads and execution provider.
        seconds: time to spend on measured rounds, for all models together.
        warmup: rounds that are not counted.
        rounds: measured rounds at least, whatever the time.
        memory: whether to measure peak memory too, each model in a process of its own.
        feeds: what each model runs on; by default random rows.
        known: sizes of random rows, as far as they are known.
        seed: seed of random rows.
        clock: what counts seconds; by default that of `clock_of`.

    Raises:
        InputError: no models, or a number below 1.
        ModelError: a model cannot be run.
    """
    if not models or batch < 1 or rounds < 1 or warmup < 0:
        raise InputError("latency needs at least one model, one row and one round")
    clock = clock or clock_of(engine)
    feeds = [random_feed(model, batch, seed, known) for model in models] if feeds is None else feeds
    sessions = [open_session(model, engine=engine, entries=_ENTRIES) for model in models]
    sizes = [_file_and_memory(m, f, engine, memory) for m, f in zip(models, feeds, strict=True)]
    runs = []
    for model, session, feed in zip(models, sessions, feeds, strict=True):
        with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
            session.run(None, feed)
        shortest = max(1e-9, min(_sample(session, feed, 1, clock) for _ in range(3)))
        runs.append(int(np.ceil(_SAMPLE_S / shortest)))
    samples = _interleaved(sessions, feeds, runs, warmup, rounds, seconds, clock)
    results = []
    for index, (model, feed, (file_bytes, peak)) in enumerate(zip(models, feeds, sizes, strict=True)):
        p10, median, p90 = (float(value) * 1e3 for value in np.percentile(samples[:, index], (10, 50, 90)))
        ratio, low, high = quick_ratio(samples[:, index], samples[:, 0]) if index else (1.0, 1.0, 1.0)
        results.append(
            Latency(
                model=model.name,
                median_ms=median,
                p10_ms=p10,
                p90_ms=p90,
                ratio=ratio,
                batch=_rows(model, feed),
                threads=engine.threads,
                warmup=warmup,
                rounds=len(samples),
                runs=runs[index],
                peak_bytes=peak,
                file_bytes=file_bytes,
                provider=str(engine.provider),
                low=low,
                high=high,
            )
        )
    return tuple(results)


def clock_of(engine: Engine) -> Clock:
    """On one thread of the CPU its own time counts, which no other process prolongs, else the time on the wall."""
    return time.thread_time if engine.threads == 1 and engine.provider.is_cpu else time.perf_counter


def quick_ratio(samples: np.ndarray, first: np.ndarray) -> tuple[float, float, float]:
    """How long a model takes relative to another, by the quick runs of both, with the range that it lies in.

    Other processes only ever make a run slower, one model's now and the other's then, so that quick runs (the 10th
    percentile) say more than pairs of them. The range is that of these percentiles by order statistics: n samples have
    0.1 n below it, give or take sqrt(0.09 n) (David and Nagaraja, Order Statistics, 7.1).

    Args:
        samples: `(rounds,)` seconds of the model.
        first: of the model that it is compared with, in the same rounds.
    """
    n = len(samples)
    at = _QUICK * (n - 1) + np.array([0.0, -1.0, 1.0]) * _RANGE * np.sqrt(_QUICK * (1 - _QUICK) * n)
    shares = np.clip(at / max(1, n - 1), 0, 1)
    (mine, my_least, my_most), (other, least, most) = (np.quantile(each, shares) for each in (samples, first))
    return float(mine / other), float(my_least / most), float(my_most / least)


def time_pair(
    original: Model,
    result: Model,
    *,
    batch: int = 1,
    engine: Engine = ONE_CORE,
    seconds: float = MOST_S,
    pairs: int = _PAIRS,
    feeds: tuple[Feed, Feed] | None = None,
    known: OpenShapes | None = None,
) -> TimeReport:
    """Measure a result beside its original, the two in turn; see `quick_ratio` and `clock_of`.

    Args:
        original: the original.
        result: the model that came out of it.
        batch: rows a run; a model with a fixed batch runs at its own.
        engine: threads and execution provider.
        seconds: time to go on measuring once there are enough pairs.
        pairs: how many are enough; of models that take very long fewer are.
        feeds: what each of them runs on; by default random rows.
        known: sizes of random rows, as far as they are known.

    Raises:
        InputError: an input has no known shape to make random rows of.
        ModelError: a model cannot be run.
    """
    models = (original, result)
    given = tuple(random_feed(model, batch, known=known) for model in models) if feeds is None else feeds
    sessions = [open_session(model, engine=engine, entries=_ENTRIES) for model in models]
    runs, first, clock = [], 0.0, clock_of(engine)
    for model, session, feed in zip(models, sessions, given, strict=True):
        with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
            session.run(None, feed)
        shortest = max(1e-9, min(_sample(session, feed, 1, clock) for _ in range(3)))
        runs.append(int(np.ceil(_SAMPLE_S / shortest)))
        first += shortest * (1 + runs[-1])
    pairs = int(np.clip(_LONGEST_S / max(first, 1e-9), _FEWEST_PAIRS, pairs))
    samples = _interleaved(sessions, given, runs, 1, pairs, seconds, clock)
    ratio, low, high = quick_ratio(samples[:, 1], samples[:, 0])
    before = 1e3 * float(np.quantile(samples[:, 0], _QUICK))
    rows, provider = _rows(original, given[0]), str(engine.provider)
    return TimeReport(ratio, low, high, before, ratio * before, len(samples), rows, engine.threads, provider)


def _interleaved(
    sessions: Sequence[Any],
    feeds: Sequence[Feed],
    runs: Sequence[int],
    warmup: int,
    rounds: int,
    seconds: float,
    clock: Clock,
) -> np.ndarray:
    """`(rounds, models)` seconds per run; every other round runs the models in reverse order.

    A run that does not count precedes each sample: the model before has taken the cache, which a single run would pay
    for and the mean of several would not.
    """
    samples: list[list[float]] = []
    order = list(range(len(sessions)))
    deadline = np.inf
    counted = -warmup
    while counted < rounds or time.perf_counter() < deadline:
        if counted == 0:
            deadline = time.perf_counter() + seconds
        row = [0.0] * len(sessions)
        for index in order:
            sessions[index].run(None, feeds[index])
            row[index] = _sample(sessions[index], feeds[index], runs[index], clock)
        order.reverse()
        if counted >= 0:
            samples.append(row)
        counted += 1
    return np.asarray(samples)


def _sample(session: Any, feed: Feed, runs: int, clock: Clock) -> float:
    start = clock()
    for _ in range(runs):
        session.run(None, feed)
    return (clock() - start) / runs


def _rows(model: Model, feed: Feed) -> int:
    batched = [spec.name for spec in input_specs(model) if spec.batched]
    return len(feed[batched[0]]) if batched else 1


def _file_and_memory(model: Model, feed: Feed, engine: Engine, memory: bool) -> tuple[int, int | None]:
    """Size of the model's file, and peak memory of a process that runs it, in bytes."""
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        write(model, path)
        size = sum(file.stat().st_size for file in folder.iterdir())
        if not memory:
            return size, None
        feeds = folder / "feeds.npz"
        if any(array.dtype.kind == "O" for array in feed.values()):
            return size, None
        ordered = {str(position): feed[spec.name] for position, spec in enumerate(input_specs(model))}
        np.savez(feeds, allow_pickle=False, **ordered)
        script = Path(__file__).with_name("peak_memory.py")
        providers = json.dumps(session_providers(engine.provider))
        command = [sys.executable, str(script), str(path), str(feeds), str(engine.threads), providers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise ModelError(f"{model.name}: the process that measures memory failed: {reason[0]}")
        return size, int(done.stdout) or None

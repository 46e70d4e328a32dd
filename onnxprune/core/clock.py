"""Measures the time of each stage of a run, and reports progress."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

_LOG = logging.getLogger(__name__)


class Progress(Protocol):
    """What is told of a run's steps: any function of three arguments.

    Called with the stage's name (`load`, `analyse`, `score`, `allocate`, `trials`, `repair`, `evaluate`, `time`, ...),
    the steps done, and the steps in all, 0 where their number is not known. A stage begins with `(name, 0, 0)` and ends
    with `(name, 1, 1)`; between them it may count steps of its own. It is called in the thread of the run and should
    return soon; what it raises ends the run.

    Example:
        ```python
        def log(stage: str, done: int, total: int) -> None:
            print(f"{stage}: {done} of {total or '?'}")
        result = onnxprune.prune("model.onnx", "rows.npz", targets="macs=0.5", progress=log)
        ```
    """

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note of a step."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` callback that does nothing."""


class StageMemoryError(MemoryError):
    """A stage asked for more memory than there is.

    Args:
        stage: its name.
        asked: what asked for how much, as far as that is known.
    """

    def __init__(self, stage: str, asked: str) -> None:
        super().__init__(asked)
        self.stage = stage


@dataclass(slots=True)
class Clock:
    """Measures seconds per stage, and tells `progress` and the log when a stage begins and ends."""

    progress: Progress = no_progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context that adds the time of its block to a stage."""
        began = perf_counter()
        _LOG.info("%s", name)
        self.progress(name, 0, 0)
        try:
            yield
        except MemoryError as error:
            raise StageMemoryError(name, str(error)) from error
        finally:
            spent = perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.progress(name, 1, 1)
        _LOG.info("%s done in %.2f s", name, spent)

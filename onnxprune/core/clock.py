"""Measures the time of each stage of a run, and reports progress."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in all (0 where their number is not known)."""


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

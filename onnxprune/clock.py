"""How long each stage of a run takes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from onnxprune.importance.base import Progress, no_progress

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Clock:
    """Seconds per stage, in order; tells `progress` and the log when a stage begins and ends."""

    progress: Progress = no_progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = perf_counter()
        _LOG.info("%s", name)
        self.progress(name, 0, 0)
        try:
            yield
        finally:
            spent = perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.progress(name, 1, 1)
        _LOG.info("%s done in %.2f s", name, spent)

"""Stores measured kernel times on disk: one file for each machine, onnxruntime version, threads and provider."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError
from onnxprune.core.files import place, read_text
from onnxprune.runtime.library import onnxruntime

SCHEMA = 2
OFF = "off"
_MOST_BYTES = 1 << 28
_LONGEST = 1e9  # microseconds that one kernel may take

_LOG = logging.getLogger(__name__)


def default_folder() -> Path:
    """The default cache folder: `onnxprune` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "onnxprune"


def machine(engine: Engine) -> dict[str, str]:
    """A description of everything that kernel times depend on: processor, cores, onnxruntime, threads, provider."""
    about = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": platform.processor(),
        "cores": str(os.cpu_count()),
        "onnxruntime": onnxruntime().__version__,
        "threads": str(engine.threads),
    }
    if engine.provider != Provider():
        about["provider"] = str(engine.provider)
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "flags", "Features", "CPU part"):
                about.setdefault(key.strip(), value.strip())
    return about


@dataclass(slots=True)
class TimeCache:
    """Kernel times in microseconds, by kernel and widths; `save` writes them to the cache file.

    Attributes:
        path: the file; None keeps times in memory only.
        about: the machine.
        times: by `key:width,width`.
    """

    path: Path | None
    about: Mapping[str, str]
    times: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | None, engine: Engine) -> "TimeCache":
        """Open the cache of this machine.

        A file that cannot be read, or that another machine or version wrote, counts as empty.

        Args:
            folder: where the file is; None means the user's cache folder, "off" none at all.
            engine: threads and execution provider of onnxruntime.
        """
        about = machine(engine)
        if folder == OFF:
            return cls(None, about)
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        try:
            path = (default_folder() if folder is None else Path(folder)) / f"latency-{name}.json"
        except RuntimeError:  # a user without a home
            return cls(None, about)
        times: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            data = json.loads(read_text(path, _MOST_BYTES))
            if data["schema"] == SCHEMA and data["machine"] == about:
                times = {str(key): float(value) for key, value in data["times"].items() if _is_time(value)}
        return cls(path, about, times)

    def save(self) -> None:
        """Write the cache file. Where that fails, a warning is logged once and the run goes on."""
        if self.path is None:
            return
        text = json.dumps({"schema": SCHEMA, "machine": dict(self.about), "times": self.times}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            place(self.path).write(text.encode("utf-8"))
        except (OSError, ValueError, InputError) as error:
            reason = getattr(error, "strerror", None) or error
            _LOG.warning(
                "the latency table %s cannot be kept (%s), and is measured again the next time; choose a folder with "
                "--latency-cache, or --latency-cache off",
                self.path,
                reason,
            )
            self.path = None


def _is_time(value: object) -> bool:
    """Whether a value read from the file can be a kernel time in microseconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LONGEST

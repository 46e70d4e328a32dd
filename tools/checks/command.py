"""onnxprune's command as a subprocess."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.corpus import ROOT


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended, or was stopped.

    Attributes:
        code: its exit code; negative where a signal ended it, None where it ran out of time.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        seconds: how long it ran.
        cpu_s: processor time of it and its children.
    """

    code: int | None
    out: bytes
    err: bytes
    seconds: float
    cpu_s: float

    @property
    def lines(self) -> list[str]:
        """The lines of stderr that are not empty."""
        return [line for line in self.err.decode(errors="replace").splitlines() if line.strip()]

    @property
    def message(self) -> str:
        """The last line of stderr that holds a word; a frame around it is left out."""
        lines = [line.strip("│ \t") for line in reversed(self.lines)]
        return next((line for line in lines if any(map(str.isalnum, line))), "")


def onnxprune(
    arguments: Sequence[object],
    folder: Path,
    *,
    checkout: Path = ROOT,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run the command of a checkout.

    Args:
        arguments: what follows `onnxprune`.
        folder: the working folder.
        checkout: folder that holds the package.
        limit_s: seconds after which it is killed.
        environment: variables to change.
    """
    command = [sys.executable, "-m", "onnxprune", *map(str, arguments)]
    return finish(command, folder, variables(checkout) | dict(environment or {}), limit_s)


def variables(checkout: Path = ROOT) -> dict[str, str]:
    """The environment in which the interpreter takes the package from a checkout, and no module from the folder."""
    return {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}


def finish(command: Sequence[str], folder: Path, environment: Mapping[str, str], limit_s: float | None) -> Finished:
    """Run a command to its end, or until the limit."""
    began, used = time.perf_counter(), _cpu_s()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    code: int | None
    try:
        out, err = process.communicate(timeout=limit_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        code = None
    return Finished(code, out, err, time.perf_counter() - began, _cpu_s() - used)


def _cpu_s() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

"""onnxprune's command as a subprocess."""

import os
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
    """

    code: int | None
    out: bytes
    err: bytes
    seconds: float

    @property
    def message(self) -> str:
        """The last line of stderr that holds a word; a frame around it is left out."""
        lines = [line.strip("│ \t") for line in self.err.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "")


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
    variables = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200", **(environment or {})}
    command = [sys.executable, "-m", "onnxprune", *map(str, arguments)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    code: int | None
    try:
        out, err = process.communicate(timeout=limit_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        code = None
    return Finished(code, out, err, time.perf_counter() - began)

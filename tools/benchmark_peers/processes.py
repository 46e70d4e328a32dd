"""Child processes whose time and memory are measured."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Every tool gets one thread, so that times compare and a busy machine disturbs them less.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# Children import this folder's package, and onnxprune from the working tree.
PATH = os.pathsep.join(str(Path(__file__).resolve().parents[n]) for n in (1, 2))


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process.

    Attributes:
        code: exit status.
        wall_s: elapsed time.
        cpu_s: processor time, of its own children too.
        peak_bytes: largest resident size.
        output: what it printed.
        errors: what it printed to stderr.
    """

    code: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str
    errors: str

    def reason(self) -> str:
        """The last line of its errors."""
        return next(iter(self.errors.strip().splitlines()[-1:]), f"exit status {self.code}")


def run(command: Sequence[str | Path]) -> Run:
    """Run a command to its end.

    Linux counts this process's own size as the child's until the child starts, so this process must stay small.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=errors,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": PATH},
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Run(
            process.returncode,
            round(wall, 2),
            round(usage.ru_utime + usage.ru_stime, 2),
            usage.ru_maxrss * 1024,
            output.read(),
            errors.read(),
        )


def ask(python: str | Path, module: str, request: Any, folder: Path) -> Any:
    """Run a module on a JSON request and read its JSON answer.

    Raises:
        SystemExit: the module fails.
    """
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    done = run([python, "-m", module, path])
    if done.code:
        raise SystemExit(f"{module} failed:\n{done.errors}")
    return json.loads(done.output.strip().splitlines()[-1])

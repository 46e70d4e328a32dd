"""Script that runs models and writes their results; the process that `runtime.worker` keeps.

It imports nothing of the package. Memory and time are bounded: what a file from anywhere asks for ends this process at
most.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_PATIENCE = 60  # seconds without a request
_MUCH_MEMORY = 1 << 29


class RefusedError(Exception):
    """A run whose results are not wanted."""


def main() -> None:
    """Answer requests, a line each of folder, bytes and seconds as JSON: "taken" first, then "done" or "failed"."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    while request := _next_line(sys.stdin):
        print("taken", file=answers, flush=True)
        folder, memory, seconds = json.loads(request)
        answer = "failed"
        # onnxruntime's exceptions share no base class with a name.
        with contextlib.suppress(Exception):
            _bound(memory, seconds)
            run(Path(folder))
            answer = "done"
        print(answer, file=answers, flush=True)
        if _memory() > _MUCH_MEMORY:
            break


def run(here: Path) -> None:
    """Run `model.onnx` in a folder on `feeds.npz`, as `request.json` says, and write the results to the folder.

    The request holds `values` (whether results are wanted, or only their shapes) and `most` (elements of all results).
    Shapes go to `shapes.json`: per tensor its sizes, None where only the data tell, the sizes in this run, and its
    type. Values go to `values.npz`, named by their positions.
    """
    request = json.loads((here / "request.json").read_text(encoding="utf-8"))
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its file would stay behind
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Folds shape arithmetic, so that the sizes that are told as unknown are those that the data tell.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(str(here / "model.onnx"), options, providers=["CPUExecutionProvider"])
    outputs = session.get_outputs()
    told = [[size if isinstance(size, int) else None for size in output.shape or ()] for output in outputs]
    if request["values"] or any(None in sizes or not sizes for sizes in told):  # no sizes: a scalar, or unknown
        known = sum(_elements(sizes) for sizes in told)
        if known > request["most"]:
            raise RefusedError("the results are too large")
        with np.load(here / "feeds.npz", allow_pickle=False) as held:
            feed = {value.name: held[str(position)] for position, value in enumerate(session.get_inputs())}
        results = session.run(None, feed)
        if request["values"]:
            if any(not isinstance(value, np.ndarray) for value in results):
                raise RefusedError("a result is no tensor")
            if sum(value.size for value in results) > request["most"]:
                raise RefusedError("the results are too large")
            np.savez(here / "values.npz", allow_pickle=False, **{str(i): value for i, value in enumerate(results)})
        sizes = [list(value.shape) if isinstance(value, np.ndarray) else [] for value in results]  # sequences, maps
    else:
        sizes = [[int(size or 0) for size in dims] for dims in told]
    shapes = [
        [output.name, known if len(known) == len(size) else [None] * len(size), size, output.type]
        for output, known, size in zip(outputs, told, sizes, strict=True)
    ]
    (here / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")


def _elements(sizes: list[int | None]) -> int:
    count = 1
    for size in sizes:
        count *= 1 if size is None else size
    return count


def _next_line(lines: TextIO) -> str:
    """The next request; nothing at the end. The process ends where none comes."""
    import signal

    alarm = getattr(signal, "alarm", lambda _: None)  # Windows has none: there it ends with its parent
    alarm(_PATIENCE)
    line = lines.readline()
    alarm(0)
    return line


def _bound(memory: int, seconds: int) -> None:
    """Limit the memory of this process, and the processor time that it may take from now on."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, until), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit: Any = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, hard))


def _memory() -> int:
    """The bytes that this process has now; 0 where the system does not tell.

    Not the most it has had, as `resource` tells it: there a child starts with what its parent has.
    """
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    main()

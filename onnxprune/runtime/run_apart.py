"""Script that runs a model once and writes its results; used by `runtime.apart`.

It imports nothing of the package. Memory and time are bounded: what a file from anywhere asks for ends this process at
most.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(folder: str, memory: str, seconds: str) -> None:
    """Run `model.onnx` in a folder on `feeds.npz`, as `request.json` says, and write the results to the folder.

    The request holds `values` (whether results are wanted, or only their shapes) and `most` (elements of all results).
    Shapes go to `shapes.json`: per tensor its sizes, None where only the data tell, the sizes in this run, and its
    type. Values go to `values.npz`, named by their positions.
    """
    here = Path(folder)
    request = json.loads((here / "request.json").read_text(encoding="utf-8"))
    _bound(int(memory), int(seconds))
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
            sys.exit("the results are too large")
        with np.load(here / "feeds.npz", allow_pickle=False) as held:
            feed = {value.name: held[str(position)] for position, value in enumerate(session.get_inputs())}
        results = session.run(None, feed)
        if any(not isinstance(value, np.ndarray) for value in results):
            sys.exit("a result is no tensor")
        if request["values"]:
            if sum(value.size for value in results) > request["most"]:
                sys.exit("the results are too large")
            np.savez(here / "values.npz", allow_pickle=False, **{str(i): value for i, value in enumerate(results)})
        sizes = [list(value.shape) for value in results]
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


def _bound(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit: Any = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Script that runs one model and prints the process's peak memory in bytes; used by `runtime.timing`.

It imports nothing of the package, so that what is measured is onnxruntime and the model.
"""

import json
import os
import sys
from pathlib import Path


def main(model: str, feeds: str, threads: str, providers: str) -> None:
    """Run the model file `model` three times on the arrays of the `.npz` file `feeds`, which are named by position.

    `providers` is a JSON list of execution providers with their options.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its file would stay behind
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 4
    given = [(name, chosen) for name, chosen in json.loads(providers)]
    session = ort.InferenceSession(model, options, providers=given, enable_fallback=0)
    with np.load(feeds, allow_pickle=False) as held:
        feed = {value.name: held[str(position)] for position, value in enumerate(session.get_inputs())}
    for _ in range(3):
        session.run(None, feed)
    sys.stdout.write(str(peak_bytes()))


def peak_bytes() -> int:
    """Peak resident memory of this process so far, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux counts the parent's size before exec in ru_maxrss; this line is of this program alone.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])

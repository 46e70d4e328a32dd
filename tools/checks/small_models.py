"""The corpus's small trained networks: their rows, and a judge from outside.

    python -m checks.small_models calib NAME OUT.npz
    python -m checks.small_models judge NAME ORIGINAL.onnx SMALLER.onnx

The judge prints one JSON line, as the corpus's own for its real models does, whose sessions and timing it uses.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_peers.cases import fashion_mnist

from checks.corpus import corpus

STORED = {"lstm_ts": "lstm", "tx_ts": "tx", "un_ts": "un"}
NAMES = ("cnn_ts", "mb_ts", *STORED)
_MEAN, _STD = 0.286, 0.353


def rows(name: str, part: str) -> dict[str, np.ndarray]:
    """Calibration or evaluation rows (`calib`, `eval`), with labels `y` where there are any."""
    if name in STORED:
        with np.load(corpus() / "small" / f"{STORED[name]}_{part}.npz") as held:
            return dict(held)
    found = fashion_mnist(corpus(), 1000)
    x, y = (found.train_x, found.train_y) if part == "calib" else (found.test_x, found.test_y)
    return {"input": ((x[:, None] / 255 - _MEAN) / _STD).astype(np.float32), "y": y}


def judge(name: str, original: Path, smaller: Path) -> dict[str, Any]:
    """Accuracy of both where there are labels, otherwise the relative error of each output; the ratio of times."""
    sys.path.insert(0, str(corpus() / "tools"))
    outside = importlib.import_module("judge_real")
    feeds = rows(name, "eval")
    labels = feeds.pop("y", None)
    sessions = [outside.session(str(path)) for path in (original, smaller)]
    before, after = (outside.outputs(session, feeds) for session in sessions)
    said: dict[str, Any] = {"relative_error": [outside.relative(a, b) for a, b in zip(before, after, strict=True)]}
    if labels is not None:
        said["accuracy"] = [round(float((made[0].argmax(-1) == labels).mean()), 4) for made in (before, after)]
    said |= outside.times(*sessions, feeds, 200)
    return said


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    what, name, *paths = arguments
    if what == "calib":
        np.savez(paths[0], allow_pickle=False, **rows(name, "calib"))
    else:
        print(json.dumps(judge(name, Path(paths[0]), Path(paths[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time and peak memory of `onnxprune prune`, seen from outside the process, and what `--cache` saves after SIGTERM.

One line of JSON a run: images, wall and CPU seconds, peak resident memory, seconds per stage.

    python tools/bench_scale.py MODEL.onnx --images 64 128 256
    python tools/bench_scale.py MODEL.onnx --images 256 --interrupt 0.7

`MODEL` may be `light:resnet50`, `stack:8x32` or `encoder:12x768`; see `scale_models.py`. Other options go on to
`onnxprune prune`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
from scale_models import made


def run(arguments: Sequence[str], stop_after_s: float | None = None) -> dict[str, float]:
    """Run the command; after a time send it SIGTERM."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "onnxprune", "prune", *arguments], stdout=subprocess.DEVNULL)
    if stop_after_s is not None:
        time.sleep(stop_after_s)
        process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code != (0 if stop_after_s is None else -signal.SIGTERM):
        raise SystemExit(f"onnxprune ended with status {code}")
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=int, nargs="+", default=[256])
    parser.add_argument("--data", default="random")
    parser.add_argument("--target", default="macs=0.7")
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--interrupt", type=float, metavar="SHARE", help="stop a run at this share of the time, go on")
    given, others = parser.parse_known_args()
    for images in given.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            report = folder / "report.json"
            model = given.model
            if (proto := made(given.model)) is not None:
                model = str(folder / "model.onnx")
                onnx.save(proto, model)
            common = [model, "--data", given.data, "--images", str(images), "--target", given.target]
            common += ["--executor", given.executor, "--json", str(report), *others]
            whole = run([*common, "-o", str(folder / "whole.onnx")])
            found: dict[str, object] = {
                "model": given.model,
                "images": images,
                **whole,
                "stages": json.loads(report.read_text())["timings"],
            }
            if given.interrupt is not None:
                cached = [*common, "-o", str(folder / "again.onnx"), "--cache", str(folder / "cache")]
                found["stopped"] = run(cached, given.interrupt * whole["wall_s"])
                found["resumed"] = run(cached)
                found["same_file"] = (folder / "whole.onnx").read_bytes() == (folder / "again.onnx").read_bytes()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""Measure how long the command line takes: help, inspect and prune, each as a process of its own.

    python tools/bench_cli.py MODEL.onnx [--runs 5]

Prints the median of the wall-clock times in seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(arguments: list[str], runs: int) -> float:
    """Median wall-clock time of `python -m onnxprune ARGUMENTS`."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "onnxprune", *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "out.onnx")
        magnitude = ["--importance", "magnitude", "--target", "macs=0.7"]
        for name, arguments in {
            "--help": ["--help"],
            "prune --help": ["prune", "--help"],
            "inspect": ["inspect", given.model],
            "prune --importance magnitude": ["prune", given.model, "-o", output, *magnitude],
        }.items():
            print(f"{seconds(arguments, given.runs):6.2f} s  {name}")


if __name__ == "__main__":
    main()

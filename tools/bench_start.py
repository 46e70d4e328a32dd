"""Measure how fast the command line starts, and which large packages each command imports.

    python tools/bench_start.py MODEL.onnx [--runs 3]

Runs `--help`, `inspect` and `prune --importance magnitude` as processes of their own and prints the shortest time and
the largest memory of each beside its limit. Exits with 1 where a limit is exceeded.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark_peers import processes

HEAVY = ("torch", "scipy", "onnxruntime", "onnx", "onnx_graphsurgeon", "numpy", "pyscipopt", "PIL", "distributed")


@dataclass(frozen=True, slots=True)
class Command:
    """One measured command.

    Attributes:
        name: what the table calls it.
        arguments: of `onnxprune`.
        limit_s: seconds that it should stay under.
    """

    name: str
    arguments: Sequence[str]
    limit_s: float


def imported(arguments: Sequence[str]) -> list[str]:
    """The large packages that a command imports, in the order of `HEAVY`."""
    done = processes.run([sys.executable, "-X", "importtime", "-m", "onnxprune", *arguments])
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.errors.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in modules]


def line(command: Command, runs: int) -> tuple[str, bool]:
    """A row of the table, and whether the command stayed under its limit."""
    done = [processes.run([sys.executable, "-m", "onnxprune", *command.arguments]) for _ in range(runs)]
    failed = next((each for each in done if each.code), None)
    if failed is not None:
        raise SystemExit(f"{command.name}: {failed.reason()}")
    best = min(done, key=lambda each: each.wall_s)
    memory = max(each.peak_bytes for each in done) / 1e6
    names = ", ".join(imported(command.arguments)) or "none"
    row = f"{command.name:28} {best.wall_s:7.2f} {best.cpu_s:7.2f} {command.limit_s:7.1f} {memory:7.0f}  {names}"
    return row, best.wall_s < command.limit_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"{'command':28} {'wall s':>7} {'CPU s':>7} {'limit s':>7} {'MB':>7}  imports")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "smaller.onnx")
        prune = ["prune", options.model, "-o", output, "--importance", "magnitude", "--target", "macs=0.5"]
        for command in (
            Command("--help", ["--help"], 0.5),
            Command("inspect", ["inspect", options.model], 3),
            Command("prune, magnitude", prune, 10),
        ):
            row, within = line(command, options.runs)
            good = good and within
            print(row, flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

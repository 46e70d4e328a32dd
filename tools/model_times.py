"""Prune every model of the corpus with default options, and measure whether the result is slower than the original.

    python tools/model_times.py FOLDER [--target macs=0.8] [--least 1000000] [--most 1000000000] [--only TEXT]

The corpus is `shared` beside the project, or `ONNXPRUNE_CORPUS`. Rows are random: what is measured is time, not
quality. FOLDER keeps results and the table (`times.json`), so that a run goes on where another stopped. Times are
ratios of interleaved runs at batch 1 on one thread, which need a quiet machine; a result is slower where the median is
above 1.02. Prints the table in Markdown.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from checks.bench import told
from checks.command import onnxprune
from checks.corpus import corpus

from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import OnnxPruneError
from onnxprune.graph.load import load
from onnxprune.runtime.timing import time_models
from onnxprune.structure.coupling import analyse

SLOWER = 1.02
_FOLDERS = ("models", "real", "small")


def models(least: float, most: float, only: str) -> Iterator[tuple[str, Path, int]]:
    """Name, path and multiply-adds of the corpus's models within bounds, the smallest first."""
    counted = []
    for folder in _FOLDERS:
        for path in sorted((corpus() / folder).rglob("*.onnx")):
            name = str(path.relative_to(corpus()))
            if only not in name:
                continue
            try:
                macs = analyse(load(path)).costs().macs
            except OnnxPruneError:
                continue
            if least < macs <= most:
                counted.append((name, path, macs))
    yield from sorted(counted, key=lambda entry: entry[2])


def row(name: str, path: Path, macs: int, folder: Path, target: str, rounds: int) -> dict[str, Any]:
    """What became of one model."""
    smaller, report = folder / (name.replace("/", "_")), folder / (name.replace("/", "_") + ".json")
    words = [
        "prune",
        path,
        "-o",
        smaller,
        "--json",
        report,
        "--data",
        "random",
        "--target",
        target,
        "--no-time",
        "--quiet",
    ]
    done = onnxprune(words, folder)
    made = {"model": name, "macs": macs, "exit": done.code, "cpu_s": round(done.cpu_s)}
    if done.code != 0:
        return made | {"message": told(done)}
    after = json.loads(report.read_text())["after"]["macs"]
    _, time = time_models([load(path), load(smaller)], engine=ONE_CORE, rounds=rounds, seconds=0.0, memory=False)
    return made | {"left": after / macs, "ratio": time.ratio}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, and how many are slower."""
    lines = ["| model | MACs | left | time |", "|---|--:|--:|--:|"]
    for each in rows:
        size = f"{each['macs'] / 1e6:.0f} M"
        if "ratio" in each:
            lines.append(f"| {each['model']} | {size} | {100 * each['left']:.0f} % | {each['ratio']:.2f} |")
        else:
            lines.append(f"| {each['model']} | {size} | | exit {each['exit']}: {each['message']} |")
    timed = [each for each in rows if "ratio" in each]
    slower = [each["model"] for each in timed if each["ratio"] > SLOWER]
    lines += [
        "",
        f"{len(slower)} of {len(timed)} take over {SLOWER} of the original's time: {', '.join(slower) or 'none'}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Entry point; exit code 1 where a model is slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="macs=0.8")
    parser.add_argument("--least", type=float, default=1e6, help="multiply-adds above which a model counts")
    parser.add_argument("--most", type=float, default=1e9, help="multiply-adds up to which it is tried")
    parser.add_argument("--only", default="", metavar="TEXT", help="only models with this in their name")
    parser.add_argument("--rounds", type=int, default=200, help="paired runs")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "times.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    for name, path, macs in models(options.least, options.most, options.only):
        if any(each["model"] == name for each in rows):
            continue
        rows.append(row(name, path, macs, options.folder, options.target, options.rounds))
        print(rows[-1], file=sys.stderr, flush=True)
        kept.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    return int(any(each.get("ratio", 0.0) > SLOWER for each in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

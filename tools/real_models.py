"""Prune the real and the small trained models of the corpus and judge the results from outside: quality, time, cost.

    python tools/real_models.py [--only NAME]... [--target macs=0.8] [--options TEXT] [--inputs FOLDER] [--keep FOLDER]

The corpus (`shared` beside the project, or `ONNXPRUNE_CORPUS`) holds the models, makes the inputs of the real ones
(`tools/real_inputs.py`) and judges them (`tools/judge_real.py`); MiniLM is made by its `tools/get_minilm.py`, which
needs torch and the package index. The small trained networks are judged by `checks/small_models.py`. Calibration rows
are never those that judge. Times are ratios of interleaved runs at batch 1 on one thread: they need a quiet machine,
which `--judge-with COMMAND` can give (it is put in front of the judge).
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks import small_models
from checks.bench import told
from checks.command import Finished, onnxprune
from checks.corpus import ROOT, corpus

SMALL = (sys.executable, "-m", "checks.small_models")
_UNTOLD = ("model", "ms")  # what the judge says and the table does not repeat


@dataclass(frozen=True, slots=True)
class Real:
    """A model and the rows it is calibrated and judged on.

    Attributes:
        name: its name in the corpus.
        calibration: rows that the run gets.
        evaluation: rows that judge.
        target: its budget where none is given.
        path: the file below the corpus; empty for one of its real models, or one that is made.
    """

    name: str
    calibration: int
    evaluation: int = 100
    target: str = "macs=0.8"
    path: str = ""

    @property
    def small(self) -> bool:
        """True for a small trained network."""
        return self.name in small_models.NAMES


MODELS = (
    Real("nudenet_yolov8n_320", 150),
    Real("nsfwjs_mobilenet_v2", 250),
    Real("hm_movenet_lightning", 150),
    Real("hm_selfie", 150),
    Real("hm_facemesh", 200),
    Real("crepe_tiny", 600),
    Real("oww_embedding", 400),
    Real("mtcnn_onet", 350),
    Real("ppocrv5_det", 28, 28),
    Real("minilm_l6_v2", 400, 300),
    Real("resemblyzer_lstm", 100, target="params=0.7"),
    Real("dnsmos_p808", 100),
    Real("dtln_2", 100),
    Real("lstm_ts", 300, target="params=0.7", path="small/lstm_ts.onnx"),
    Real("tx_ts", 500, target="macs=0.5", path="small/tx_ts.onnx"),
    Real("un_ts", 300, target="macs=0.5", path="small/un_ts.onnx"),
    Real("mb_ts", 1000, target="macs=0.6", path="small/mb_ts.onnx"),
    Real("cnn_ts", 1000, target="macs=0.5", path="small/cnn_ts.onnx"),
    Real("efficientnet_lite0", 250, 250, "macs=0.85", "models/efficientnet_lite0/efficientnet_lite0_imagenet.onnx"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """Where things are.

    Attributes:
        inputs: folder of the rows, `NAME_calib.npz` and `NAME_eval.npz`, and of models that are made; kept.
        results: folder of the results.
        options: more options of every `prune`.
        judge_with: words in front of the judge's command.
        checkout: the code that prunes.
    """

    inputs: Path
    results: Path
    options: tuple[str, ...]
    judge_with: tuple[str, ...]
    checkout: Path

    def model(self, real: Real) -> Path:
        """The model's file, made where it is none of the corpus's."""
        if real.name != "minilm_l6_v2":
            return corpus() / (real.path or f"real/{real.name}.onnx")
        made = self.inputs / "minilm.onnx"
        if not made.exists():
            corpus_tool("get_minilm.py", made)
        return made

    def calibration(self, real: Real) -> Path:
        """The calibration rows, made where they are missing."""
        path = self.inputs / f"{real.name}_calib.npz"
        if not path.exists() and real.small:
            _run([*SMALL, "calib", real.name, str(path)])
        elif not path.exists():
            corpus_tool("real_inputs.py", real.name, "calib", path, "--rows", real.calibration)
        return path

    def run(self, real: Real, target: str) -> dict[str, Any]:
        """Prune and judge one model; a row of the table."""
        original, smaller = self.model(real), self.results / f"{real.name}.onnx"
        report = self.results / f"{real.name}.report.json"
        for path in (smaller, report):
            path.unlink(missing_ok=True)
        words = ["-o", smaller, "--json", report, "--data", self.calibration(real), "--target", target]
        words += ["--threads", "1", "--seed", "0", "--quiet", *self.options]
        looked = self.command("inspect", original, "--quiet")
        done = self.command("prune", original, *words)
        row: dict[str, Any] = {"model": real.name, "target": target, "inspect_s": round(looked.seconds, 1)}
        row |= {"exit": done.code, "seconds": round(done.seconds, 1)}
        if looked.code != 0:
            row["inspect"] = told(looked)
        if done.code != 0:
            return row | {"message": told(done)}
        costs = json.loads(report.read_text())
        row |= {kind: round(costs["after"][kind] / max(costs["before"][kind], 1), 3) for kind in ("macs", "params")}
        return row | self.judged(real, original, smaller)

    def command(self, *words: object) -> Finished:
        """Run onnxprune."""
        return onnxprune(words, self.results, checkout=self.checkout)

    def judged(self, real: Real, original: Path, smaller: Path) -> dict[str, Any]:
        """What the corpus's judge says."""
        words = [real.name, str(original), str(smaller)]
        tool = [sys.executable, str(corpus() / "tools" / "judge_real.py")]
        command = [*SMALL, "judge", *words] if real.small else [*tool, *words, "--rows", str(real.evaluation)]
        done = _run([*self.judge_with, *command])
        if done.returncode != 0:
            return {"message": f"not judged: {done.stderr.strip().splitlines()[-1:]}"}
        said = json.loads(done.stdout.splitlines()[-1])
        return {key: value for key, value in said.items() if key not in _UNTOLD}


def corpus_tool(name: str, *arguments: object) -> None:
    """Run one of the corpus's programs."""
    _run([sys.executable, str(corpus() / "tools" / name), *map(str, arguments)]).check_returncode()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    path = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=path)


def merged(path: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a kept table with fresh ones in place of theirs."""
    held = json.loads(path.read_text()) if path.exists() else []
    fresh = {row["model"]: row for row in rows}
    return [fresh.pop(row["model"], row) for row in held] + [*fresh.values()]


def line(row: dict[str, Any]) -> str:
    """A row of the table as text."""
    cost = f"macs {row['macs']} params {row['params']}" if "macs" in row else ""
    time = f"time {row['time_ratio']} (p10 {row['time_ratio_p10']})" if "time_ratio" in row else ""
    known = {"model", "target", "inspect_s", "exit", "seconds", "macs", "params", "time_ratio", "time_ratio_p10"}
    others = "  ".join(f"{key} {value}" for key, value in row.items() if key not in known)
    ended = f"exit {row['exit']} {row['seconds']:6.0f} s inspect {row['inspect_s']:4.1f} s"
    head = f"{row['model']:22}{row['target']:12}{ended}"
    return "  ".join(text for text in (head, cost, time, others) if text)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[real.name for real in MODELS], help="only this model")
    parser.add_argument("--target", help="a budget for all, in place of their own")
    parser.add_argument("--options", default="", metavar="TEXT", help="more options of every prune")
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="where rows are, and are put; --keep otherwise")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep results, reports and the table (table.json)")
    parser.add_argument("--judge-with", default="", metavar="COMMAND", help="put this in front of the judge's command")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the code that prunes; this by default")
    given = parser.parse_args(arguments)
    if not (corpus() / "tools" / "judge_real.py").exists():
        print(f"the corpus is not at {corpus()} (set ONNXPRUNE_CORPUS)", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        results = given.keep.resolve() if given.keep else Path(temporary)
        inputs = given.inputs.resolve() if given.inputs else results
        for folder in (results, inputs):
            folder.mkdir(parents=True, exist_ok=True)
        options, judge_with = tuple(shlex.split(given.options)), tuple(shlex.split(given.judge_with))
        work = Work(inputs, results, options, judge_with, given.checkout.resolve())
        for real in MODELS:
            if given.only and real.name not in given.only:
                continue
            rows.append(work.run(real, given.target or real.target))
            print(line(rows[-1]), flush=True)
            table = results / "table.json"
            table.write_text(json.dumps(merged(table, rows), indent=1) + "\n")
    return 0 if all(row["exit"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

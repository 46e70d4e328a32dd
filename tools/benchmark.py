"""Compare onnxprune with onnxsim and Torch-Pruning: the same models, budgets and calibration images, no training.

Every tool runs in a process of its own and writes an ONNX file; one evaluator measures all files. The peers live in an
environment of their own:

    python tools/benchmark.py --make-env ~/peers
    python tools/benchmark.py --corpus DIR --peers-python ~/peers/bin/python [--models resnet20] [--tools onnxprune]

Results are added to `docs/benchmarks.json`; whatever is not run again stays. The tables in `docs/benchmarks.md` are
written from it (`--document` does only that).
"""

import argparse
import datetime as dt
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmark_peers import document, processes
from benchmark_peers.cases import CASES, Case
from benchmark_peers.job import Job
from benchmark_peers.methods import TIME, Method, methods_of

TOOLS = Path(__file__).resolve().parent
DOCS = TOOLS.parent / "docs"
# torch first and pinned: a plain torch would bring CUDA along.
# The last ones are what onnxprune needs to count the costs of candidates.
PEERS = (
    ("torch==2.13.0",),
    ("onnxsim==0.8.1", "torch-pruning==1.6.1", "onnxruntime", "onnx-graphsurgeon", "scipy"),
)
PEER_TOOLS = ("onnxsim", "torch-pruning")
OWN_METHODS = ("reconstruction", "magnitude, no repair")
OURS = ("onnxprune", "onnxruntime", "onnx", "numpy", "pyscipopt")
SCOPES = ("local", "global")
MULTIPLES = (1, 8)  # what Torch-Pruning rounds numbers of channels to where time counts
Row = dict[str, Any]


def make_env(folder: Path) -> None:
    """Create the peers' environment."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for packages in PEERS:
        subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)
    print(f"--peers-python {folder / 'bin/python'}")


class Bench:
    """One run of the benchmark.

    Args:
        options: the command line.
        work: folder for data and models.
    """

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.corpus: Path = options.corpus
        self.peers: Path | None = options.peers_python
        self.tools: list[str] = options.tools.split(",")
        self.work = work
        self.path: Path = options.results
        self.results: dict[str, Any] = {"models": {}, "rows": []}
        if self.path.exists():
            self.results = json.loads(self.path.read_text())

    def case(self, case: Case) -> None:
        """Run all asked tools on one model and save their rows."""
        folder = self.work / case.name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "feeds.npy").exists():
            self._evaluator({"prepare": case.name, "corpus": str(self.corpus), "folder": str(folder)}, folder)
        rows = self._peers(case, folder)
        if "onnxprune" in self.tools:
            for target in case.targets:
                methods = OWN_METHODS[:1] if target.startswith(TIME) else OWN_METHODS
                rows += [self._ours(case, folder, target, method) for method in methods]
        for row in rows:
            row["date"] = dt.datetime.now(tz=dt.UTC).date().isoformat()
            row["machine"] = machine()
            shown = (f"{key}={value}" for key, value in row.items() if key not in ("file", "date", "machine"))
            print(" ".join(shown), flush=True)
        known = self.results["models"].get(case.name, {})
        request = {"measure": case.name, "folder": str(folder), "rows": "test", "full": True}
        request["models"] = {"original": str(self.corpus / case.path)} | _files(rows)
        found = self._evaluator(request | {"skip": ["original"] if "top1" in known else []}, folder)
        self.results["models"][case.name] = {"images": case.images, **known, **found["original"]}
        for position, row in enumerate(rows):
            row.pop("file", None)
            self._store(row | found.get(str(position), {}))
        self.results["versions"] = self._versions()
        self.path.write_text(json.dumps(self.results, indent=1, sort_keys=True) + "\n")

    def _peers(self, case: Case, folder: Path) -> list[Row]:
        """Each peer's methods at each budget: the best scope and rounding, run again alone to measure time and memory.

        The best is that whose file is most accurate on the labelled calibration rows.
        """
        tried: list[tuple[Method, list[Job]]] = []
        for tool in PEER_TOOLS:
            if tool not in self.tools or (tool == "torch-pruning" and not case.torch):
                continue
            if self.peers is None:
                raise SystemExit("give --peers-python, or --tools onnxprune")
            pairs = [(t, m) for t in case.targets for m in methods_of(tool, t, normalised=case.normalised)]
            asked = [(method, self._jobs(case, folder, target, method)) for target, method in pairs]
            flat = [job for _, jobs in asked for job in jobs]
            ratios = iter(processes.ask(self.peers, "benchmark_peers.worker", [asdict(job) for job in flat], folder))
            tried += [(m, [replace(job, ratio=next(ratios)) for job in jobs]) for m, jobs in asked]
        request = {"measure": case.name, "folder": str(folder), "rows": "calibration", "full": False}
        request["models"] = {job.output: job.output for _, jobs in tried for job in jobs if job.ratio is not None}
        marks = self._evaluator(request, folder) if request["models"] else {}
        rows = []
        for method, jobs in tried:
            best = max(jobs, key=lambda job: marks.get(job.output, {}).get("top1", -1.0))
            row: Row = {"model": case.name, "target": best.target, "tool": best.tool, "method": method.name}
            rows.append(row | {"scope": best.scope, "round_to": best.round_to} | self._measured(best, folder))
        return rows

    def _jobs(self, case: Case, folder: Path, target: str, method: Method) -> list[Job]:
        """A method with every scope and rounding."""
        multiples = MULTIPLES if target.startswith(TIME) and method.tool == "torch-pruning" else MULTIPLES[:1]
        return [
            Job(
                tool=method.tool,
                method=method.criterion,
                scope=scope,
                model=str(self.corpus / case.path),
                calibration=str(folder / "feeds.npy"),
                labels=str(folder / "labels.npy"),
                target=target,
                ratio=None,
                output=str(folder / f"{method.tool}-{method.name}-{scope}-{multiple}-{target}.onnx"),
                ignored=case.ignored,
                steps=method.steps,
                statistics=method.statistics,
                round_to=multiple,
            )
            for scope, multiple in itertools.product(SCOPES, multiples)
        ]

    def _measured(self, job: Job, folder: Path) -> Row:
        """Run a peer in a fresh process."""
        if job.ratio is None:
            return {"error": "cannot reach the budget"}
        path = folder / "job.json"
        path.write_text(json.dumps(asdict(job)))
        done = processes.run([self.peers or "", "-m", "benchmark_peers.worker", path])
        return {"ratio": round(job.ratio, 4)} | self._outcome(done, Path(job.output))

    def _ours(self, case: Case, folder: Path, target: str, method: str) -> Row:
        importance, *bare = method.split(", ")
        output = folder / f"onnxprune-{importance}-{target}.onnx"
        model, data = self.corpus / case.path, folder / "calibration.npz"
        command: list[str | Path] = ["prune", model, "-o", output, "--data", data]
        for name, value in case.preprocessing().items():
            command += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        command += ["--target", target, "--threads", "1"]
        command += ["--importance", importance] if importance != "reconstruction" else []
        command += ["--no-repair"] if bare else []
        done = processes.run([sys.executable, "-m", "onnxprune", *command])
        shown = [part.name if isinstance(part, Path) else part for part in command]
        row: Row = {"model": case.name, "target": target, "tool": "onnxprune", "method": method}
        return row | {"command": shlex.join(["onnxprune", *shown])} | self._outcome(done, output)

    def _outcome(self, done: processes.Run, output: Path) -> Row:
        if done.code:
            return {"error": done.reason()}
        return {"file": str(output), "wall_s": done.wall_s, "cpu_s": done.cpu_s, "peak_bytes": done.peak_bytes}

    def _evaluator(self, request: Any, folder: Path) -> Any:
        return processes.ask(sys.executable, "benchmark_peers.measure", request, folder)

    def _versions(self) -> dict[str, str]:
        """Versions of the packages that made the rows; those of tools that were not run stay."""
        found = dict(self.results.get("versions", {}))
        for python, names in ((sys.executable, OURS), (self.peers, PEERS[-1][:2] + PEERS[0])):
            for name in names if python else ():
                package = name.split("==")[0]
                code = f"import importlib.metadata as m; print(m.version({package!r}))"
                done = processes.run([python or "", "-c", code])
                found[package] = done.output.strip() or "unknown"
        return found | {"Python": platform.python_version()}

    def _store(self, row: Row) -> None:
        """Put a row in the place of the one that it repeats."""
        key = ("model", "target", "tool", "method")
        kept = [r for r in self.results["rows"] if any(r[k] != row[k] for k in key)]
        self.results["rows"] = [*kept, row]


def machine() -> str:
    """Processor, cores and memory."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        name = next(iter(lines), name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def _files(rows: Sequence[Row]) -> dict[str, str]:
    """The files that there are, by position."""
    return {str(position): row["file"] for position, row in enumerate(rows) if "file" in row}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-env", type=Path, metavar="DIR", help="create the peers' environment and stop")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="folder with models and data")
    parser.add_argument("--peers-python", type=Path, metavar="PATH", help="python of the peers' environment")
    parser.add_argument("--models", default=",".join(c.name for c in CASES), metavar="A,B,...")
    parser.add_argument("--targets", metavar="A,B,...", help="only these budgets; default: all of each model")
    parser.add_argument("--tools", default=",".join(["onnxprune", *PEER_TOOLS]), metavar="A,B,...")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep data and models here")
    parser.add_argument("--results", type=Path, default=DOCS / "benchmarks.json", metavar="FILE")
    parser.add_argument("--document", action="store_true", help="only write the document's tables")
    options = parser.parse_args()
    if options.make_env:
        make_env(options.make_env)
        return
    if not options.document:
        if options.corpus is None:
            parser.error("give --corpus")
        with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
            bench = Bench(options, options.work or Path(temporary))
            for case in CASES:
                targets = [t for t in case.targets if t in (options.targets or t).split(",")]
                if case.name in options.models.split(",") and targets:
                    bench.case(replace(case, targets=tuple(targets)))
    document.write(options.results, DOCS / "benchmarks.md")


if __name__ == "__main__":
    main()

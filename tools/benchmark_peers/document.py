"""The tables of `docs/benchmarks.md`, from `docs/benchmarks.json`. The text around them is written by hand.

A table stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark_peers.cases import CASES, Case
from benchmark_peers.methods import METHODS, TIME

Row = Mapping[str, Any]
Results = Mapping[str, Any]
DEFAULT = ("onnxprune", "reconstruction")
TOOLS = {"onnxsim": "onnxsim", "torch-pruning": "Torch-Pruning"}
NAMES = {
    DEFAULT: "**onnxprune** (default)",
    ("onnxprune", "magnitude, no repair"): "onnxprune, magnitude, no repair",
} | {(m.tool, m.name): f"{TOOLS[m.tool]}, {m.title}{' (labels)' * m.labels}" for m in METHODS}


def write(results: Path, path: Path) -> None:
    """Replace the generated parts of the document."""
    found = json.loads(results.read_text())
    text = path.read_text()
    for name, make in PARTS.items():
        between = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not between.search(text):
            raise SystemExit(f"{path}: there is no <!-- {name}:begin --> ... <!-- {name}:end -->")
        part = make(found)
        text = between.sub(lambda match, part=part: match[1] + part + "\n" + match[2], text)  # type: ignore[misc]
    path.write_text(text)


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    heads = list(heads)
    rule = ["---", *("--:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def overview(results: Results) -> str:
    """One line a budget of size: the original, onnxprune, and each peer's most accurate method."""
    return _compared(results, lambda target: not target.startswith(TIME))


def times(results: Results) -> str:
    """One line a budget of time, with the time that each file takes."""
    return _compared(results, lambda target: target.startswith(TIME))


def _compared(results: Results, shown: Callable[[str], bool]) -> str:
    lines = []
    for case, target, rows in _by_budget(results):
        if not shown(target) or not rows:
            continue
        ours = next((r for r in rows if _key(r) == DEFAULT), None)
        peers = [_best(rows, tool) for tool in ("onnxsim", "torch-pruning")]
        reads = (True, case.torch)
        cells = [
            _accuracy(row) + _behind(row, _method(row)) if row else "not run" if able else "–"
            for row, able in zip(peers, reads, strict=True)
        ]
        base = results["models"][case.name]["top1"]
        marks = [row["top1"] for row in (ours, *peers) if row and "top1" in row]
        best = ours is not None and "top1" in ours and len(marks) > 1 and ours["top1"] == max(marks)
        mine = _accuracy(ours) if ours else "not run"
        mine = f"**{mine}**" if best else mine
        mine += _behind(ours) if ours else ""
        lines.append([f"{case.title}, {100 * base:.2f}", _budget(target), mine, *cells])
    return table(["model, top-1 before", "budget", "onnxprune", "best of onnxsim", "best of Torch-Pruning"], lines)


def details(results: Results) -> str:
    """One table a model with every method."""
    parts = []
    for case in CASES:
        if case.name not in results["models"]:
            continue
        base = results["models"][case.name]
        lines = [["original", "", *_cells(base, base), "", ""]]
        for _, target, rows in _by_budget(results, case.name):
            lines += [
                [NAMES[_key(row)], _budget(target), *_cells(row, base), *_effort(row)]
                if "error" not in row
                else [NAMES[_key(row)], _budget(target), row["error"], *[""] * 6]
                for row in sorted(rows, key=lambda row: list(NAMES).index(_key(row)))
            ]
        heads = ["method", "budget", "top-1", "MACs", "params", "file kB", "latency", "CPU s", "memory MB"]
        parts.append(f"### {case.title}\n\n{table(heads, lines)}")
    return "\n\n".join(parts)


def environment(results: Results) -> str:
    """Machines, versions and commands."""
    machines: dict[str, dict[str, None]] = {}
    for case, _, rows in _by_budget(results):
        for row in rows:
            machines.setdefault(row["machine"], {})[case.title.split(",")[0]] = None
    versions = results.get("versions", {})
    commands = dict.fromkeys(
        row["command"] for case, _, rows in _by_budget(results) for row in rows if _key(row) == DEFAULT
    )
    lines = [
        "Measured on: " + "; ".join(f"{name} ({', '.join(titles)})" for name, titles in machines.items()) + ".",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".",
        "",
        "The commands that made onnxprune's files:",
        "",
        "<!-- not run: needs trained models and their data -->",
        "```sh",
        *commands,
        "```",
    ]
    return "\n".join(lines)


def _by_budget(results: Results, model: str | None = None) -> list[tuple[Case, str, list[Row]]]:
    found = []
    for case in CASES:
        if case.name not in results["models"] or model not in (None, case.name):
            continue
        for target in case.targets:
            rows = [r for r in results["rows"] if (r["model"], r["target"]) == (case.name, target) and _key(r) in NAMES]
            found.append((case, target, rows))
    return found


def _key(row: Row) -> tuple[str, str]:
    return row["tool"], row["method"]


def _best(rows: Iterable[Row], tool: str) -> Row | None:
    own = [row for row in rows if row["tool"] == tool]
    return max(own, key=lambda row: row.get("top1", -1.0), default=None)


def _method(row: Row) -> str:
    return NAMES[_key(row)].split(", ", 1)[1].removesuffix(" (labels)")


def _accuracy(row: Row) -> str:
    return f"{100 * row['top1']:.2f}" if "top1" in row else "cannot reach it"


def _behind(row: Row, *words: str) -> str:
    """What stands behind an accuracy in brackets: the method, and where time is the budget what the file takes."""
    timed = [f"time {row['latency_ratio']:.2f}"] if row["target"].startswith(TIME) and "top1" in row else []
    told = [*words, *timed] if "top1" in row else []
    return f" ({', '.join(told)})" if told else ""


def _budget(target: str) -> str:
    kind, value = target.split("=")
    return f"{100 * float(value):g} % {'MACs' if kind == 'macs' else 'time' if kind == TIME else kind}"


def _cells(row: Row, base: Row) -> list[str]:
    latency = f"{row['latency_ratio']:.2f}" if row is not base else f"{row['latency_ms']:.3g} ms"
    costs = [
        _count(row[kind]) if row is base else f"{100 * row[kind] / base[kind]:.1f} %" for kind in ("macs", "params")
    ]
    return [f"{100 * row['top1']:.2f}", *costs, f"{row['file_bytes'] / 1e3:.0f}", latency]


def _effort(row: Row) -> list[str]:
    return [f"{row['cpu_s']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}"]


def _count(number: float) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k"


PARTS: dict[str, Callable[[Results], str]] = {
    "overview": overview,
    "times": times,
    "details": details,
    "environment": environment,
}

"""Reports of a sweep: terminal table, JSON, and an HTML page with charts."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.results import MetricChange
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.html_parts import card, command_line, page, section, solid
from onnxprune.report.html_parts import table as html_table
from onnxprune.report.json_report import head, latency_entry, metrics_entry, plain
from onnxprune.report.markup import Markup, element
from onnxprune.report.provenance import Provenance
from onnxprune.report.svg import HEIGHT, number, picture
from onnxprune.report.terminal import GOOD, shown, table, warning_lines
from onnxprune.report.text import (
    count,
    is_share,
    metric_change,
    metric_name,
    metric_value,
    percent,
    size,
    sizes_line,
)

_COLUMNS = ("budget", "MACs", "parameters", "weights", "latency")
_TITLE = 16  # characters of a column's title in a line, on a terminal


def sweep_summary(swept: SweepResult[PruneOutcome]) -> RenderableType:
    """Terminal table with a line for each point; the Pareto-optimal ones stand out."""
    made = table(*_COLUMNS, fill(_quality_title(swept), _TITLE), "change")
    front = set(swept.front(swept.points[0].target.kind))
    for n, point in enumerate(swept.points):
        style = GOOD if n in front else ""
        made.add_row(shown(str(point.target), "bold"), *(Text(cell, style=style) for cell in _cells(swept, point)))
    missed = [shown(f"note: {target}: {reason}", "yellow") for target, reason in swept.missed.items()]
    notes = [shown(f"note: {note}", "yellow") for note in _notes(swept)]
    sizes = sizes_line(swept.sizes)
    told = [Text(f"sizes {sizes}")] if sizes else []
    return Group(made, *told, *missed, *notes, *warning_lines(_warnings(swept)))


def sweep_report(
    swept: SweepResult[PruneOutcome], files: Sequence[str | None], origin: Provenance | None = None
) -> dict[str, Any]:
    """The JSON report of `sweep`.

    Args:
        swept: the sweep.
        files: where each point's model was written; None where it was not.
        origin: command line, files and machine.
    """
    first = swept.points[0].result
    return head("sweep", swept.source, origin) | {
        "target": swept.points[0].target.kind,
        "metric": swept.metric,
        "before": {**plain(first.before), "quality": swept.quality, "latency_ms": swept.milliseconds},
        "points": [
            {
                "target": str(point.target),
                "file": file,
                "after": plain(point.result.after),
                "cost": dict(point.cost),
                "latency_ms": point.milliseconds,
                "quality": point.quality,
                "metrics": metrics_entry(point.result.metrics),
                "warnings": plain(point.result.warnings),
                "kept": {group.name: group.kept for group in point.result.groups},
                "program": plain(point.result.program),
                "latency": None if point.result.latency is None else latency_entry(point.result.latency),
                "front": [cost for cost in COST_KINDS if n in swept.front(cost)],
            }
            for n, (point, file) in enumerate(zip(swept.points, files, strict=True))
        ],
        "missed": dict(swept.missed),
        "timings": plain(swept.seconds),
        "seed": first.seed,
        "versions": plain(first.versions),
        "settings": plain({key: value for key, value in first.settings.items() if key != "targets"}),
        "sizes": plain(swept.sizes),
        "notes": _notes(swept),
    }


def sweep_page(swept: SweepResult[PruneOutcome], origin: Provenance) -> str:
    """A self-contained HTML page with a chart for each cost, and the table."""
    title = swept.source.replace("\\", "/").rpartition("/")[2]
    charts = [_chart(swept, cost) for cost in COST_KINDS if swept.front(cost) and not _repeats(swept, cost)]
    rows = [[str(point.target), *_cells(swept, point)] for point in swept.points]
    columns = [*_COLUMNS, _quality_title(swept), "change"]
    return page(
        f"{title}: sweep",
        f"onnxprune {origin.onnxprune}",
        element("header", element("div", "onnxprune", class_="brand"), element("h1", title), element("p", "sweep")),
        *(element("div", warning, class_="note warning") for warning in _warnings(swept)),
        *(element("div", note, class_="note") for note in _notes(swept)),
        *charts,
        section("All points", None, html_table(columns, rows, range(1, len(columns)))),
        section("How to reproduce", None, card(command_line(origin.command))),
    )


def _repeats(swept: SweepResult[PruneOutcome], cost: str) -> bool:
    """Whether the bytes are redundant, since all weights have one type."""
    return cost == "bytes" and all(
        abs(point.cost["bytes"] - point.cost.get("params", 0.0)) < 5e-4 for point in swept.points
    )


def _chart(swept: SweepResult[PruneOutcome], cost: str) -> Markup:
    """Chart of quality against one cost, with the Pareto front as a line that ends at the original."""
    front = swept.front(cost)
    original, metric = (1.0, swept.quality or 0.0), swept.metric or ""
    measured = [(n, point) for n, point in enumerate(swept.points) if point.quality is not None]
    shown = [(point.cost[cost], point.quality or 0.0) for _, point in measured]
    best, least = (pick(quality for _, quality in [original, *shown]) for pick in (max, min))
    low, high = least - 0.05 * ((best - least) or 1.0), best + 0.05 * ((best - least) or 1.0)
    right = max(1.0, *(share for share, _ in shown))

    def place(share: float, quality: float) -> tuple[str, str]:
        return number(100 * share / right), number(HEIGHT * (high - quality) / (high - low))

    line = sorted([*(at for (n, _), at in zip(measured, shown, strict=True) if n in front), original])
    drawn = [element("polyline", points=" ".join(",".join(place(*at)) for at in line), class_="line")]
    names = ["the original", *(str(point.target) for _, point in measured)]
    for what, (share, quality) in zip(names, [original, *shown], strict=True):
        x, y = place(share, quality)
        told = f"{what}: {percent(share)} of the {COST_KINDS[cost].title}, {metric_value(metric, quality)}"
        drawn.append(element("g", element("title", told), element("path", d=f"M{x} {y}h0", class_="dot")))
    name = metric_name(metric)
    label = f"{name} against {COST_KINDS[cost].title}"
    steps = [step / 5 for step in range(int(5 * right) + 1)]
    marks = (element("span", solid(percent(step, 0)), style=f"left:{100 * step / right:.2f}%") for step in steps)
    levels = [percent(y) if is_share(metric) else metric_value(metric, y) for y in (high, (high + low) / 2, low)]
    grid = element(
        "div",
        element("div", *(element("span", mark) for mark in levels), class_="scale"),
        element("div", picture(100, HEIGHT, label, *drawn), class_="frame"),
        element("div", *marks, class_="depth"),
        class_="plot",
    )
    text = (
        f"Share of the original's cost (across) and {name} (up). The line joins the points that no other point beats."
    )
    return section(COST_KINDS[cost].title, text, card(grid))


def _quality_title(swept: SweepResult[PruneOutcome]) -> str:
    return "quality" if swept.metric is None else metric_name(swept.metric)


def _cells(swept: SweepResult[PruneOutcome], point: SweepPoint[PruneOutcome]) -> list[str]:
    after = point.result.after
    cells = [
        count(after.macs) + _share(point, "macs"),
        count(after.params) + _share(point, "params"),
        size(after.bytes),
        "–" if point.milliseconds is None else f"{point.milliseconds:.3g} ms{_share(point, 'latency')}",
    ]
    if swept.metric is None or point.quality is None or swept.quality is None:
        return [*cells, "–", "–"]
    change = metric_change(swept.metric, MetricChange(swept.quality, point.quality))
    return [*cells, metric_value(swept.metric, point.quality), change]


def _share(point: SweepPoint[PruneOutcome], cost: str) -> str:
    return f" ({percent(point.cost[cost], 0)})" if cost in point.cost else ""


def _notes(swept: SweepResult[PruneOutcome]) -> list[str]:
    return _once(swept, [point.result.notes for point in swept.points])


def _warnings(swept: SweepResult[PruneOutcome]) -> list[str]:
    return _once(swept, [point.result.warnings for point in swept.points])


def _once(swept: SweepResult[PruneOutcome], told: Sequence[Sequence[str]]) -> list[str]:
    """Everything told of the points once; what is about some of them names their budgets."""
    about: dict[str, list[str]] = {}
    for point, texts in zip(swept.points, told, strict=True):
        for text in texts:
            about.setdefault(text, []).append(str(point.target))
    every = len(swept.points)
    return [text if len(targets) == every else f"{', '.join(targets)}: {text}" for text, targets in about.items()]

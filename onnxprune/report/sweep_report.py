"""Reports of a sweep: terminal table, JSON, and an HTML page with charts."""

import re
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.results import MetricChange
from onnxprune.core.text import metric_name, percent, several
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.html_parts import Figure, card, command_line, mono, notes_card, page, section, verdict_line
from onnxprune.report.html_parts import table as html_table
from onnxprune.report.json_report import head, latency_entry, metrics_entry, plain
from onnxprune.report.listing import Listing
from onnxprune.report.markup import Markup, element
from onnxprune.report.pareto import chart
from onnxprune.report.provenance import Provenance
from onnxprune.report.terminal import GOOD, note_lines, shown, warning_lines
from onnxprune.report.text import cost, cost_name, metric_change, metric_value, sizes_line
from onnxprune.report.verdict import sweep_verdict

_NOISY_NOTE = "times differed too much from run to run to say which model is the fastest; try again on a quiet machine"
_TITLE = 16  # characters of a column's title in a line, on a terminal
# A number that counts or measures: no part of a name, no class, and not the value of an option.
_FIGURE = re.compile(r"(?<![\w./'=-])(?<!class )\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w/'=])")


def sweep_summary(swept: SweepResult[PruneOutcome]) -> RenderableType:
    """The verdict, and a line for each point; the Pareto-optimal ones stand out."""
    titles = _titles(swept)
    made = Listing(*titles, fill(_quality_title(swept), _TITLE), "change", spare=(3, 2, len(titles), len(titles) - 1))
    front = set(swept.front(swept.points[0].target.kind))
    for n, point in enumerate(swept.points):
        style = GOOD if n in front else ""
        made.add_row(shown(str(point.target), "bold"), *(Text(cell, style=style) for cell in _cells(swept, point)))
    sizes = sizes_line(swept.sizes)
    return Group(
        *(shown(sweep_verdict(swept), "bold"), Text(), made),
        *([Text(f"sizes {sizes}")] if sizes else []),
        *note_lines(f"{target}: {reason}" for target, reason in swept.missed.items()),
        *note_lines(_notes(swept)),
        *warning_lines(sweep_warnings(swept)),
    )


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
        "verdict": sweep_verdict(swept),
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
    sizes = sizes_line(swept.sizes)
    missed = [f"{target}: {reason}" for target, reason in swept.missed.items()]
    told_card = notes_card([*missed, *_notes(swept), *([f"sizes: {sizes}"] if sizes else [])])
    brand = element("div", "onnxprune", class_="brand")
    told = verdict_line(sweep_verdict(swept))
    return page(
        f"{title}: sweep",
        f"onnxprune {origin.onnxprune}",
        element("header", brand, element("h1", title), told, element("p", _budgets(swept))),
        *(element("div", warning, class_="note") for warning in sweep_warnings(swept)),
        charts_section(swept),
        section("All points", None, card(point_table(swept))),
        section("How it was decided", None, told_card) if told_card else None,
        section("How to reproduce", None, card(command_line(origin.command)) if origin.command else None),
    )


def _budgets(swept: SweepResult[PruneOutcome]) -> str:
    title = COST_KINDS[swept.points[0].target.kind].title
    return f"{several(len(swept.points), 'budget')} of {title}"


def charts_section(swept: SweepResult[PruneOutcome]) -> Markup | None:
    """Quality against each cost, time first; None where no quality was measured."""
    if swept.metric is None:
        return None
    drawn = charts(swept)
    text = (
        f"Share of the original's cost (across) and {metric_name(swept.metric)} (up). The line joins the models that "
        "no other one beats in both, the original among them; beaten ones are grey. Each is labelled with its budget."
    )
    return section("What each budget costs", text, element("div", *drawn, class_="charts")) if drawn else None


def charts(swept: SweepResult[PruneOutcome]) -> list[Markup]:
    """A chart of quality against each cost that is known, time first."""
    first = sorted(COST_KINDS, key=lambda cost: not COST_KINDS[cost].measured)
    return [chart(swept, cost) for cost in first if _is_known(swept, cost) and not _repeats(swept, cost)]


def point_table(swept: SweepResult[PruneOutcome]) -> Markup:
    """The points as a table."""
    columns = [*_titles(swept), _quality_title(swept), "change"]
    rows = [[mono(point.target), *_figures(swept, point)] for point in swept.points]
    return html_table(columns, rows, range(1, len(columns)), stacked=True)


def _is_known(swept: SweepResult[PruneOutcome], cost: str) -> bool:
    return any(cost in point.cost and point.quality is not None for point in swept.points)


def _repeats(swept: SweepResult[PruneOutcome], cost: str) -> bool:
    """Whether the bytes are redundant, since all weights have one type."""
    return cost == "bytes" and all(
        abs(point.cost.get("bytes", 0.0) - point.cost.get("params", 0.0)) < 5e-4 for point in swept.points
    )


def _is_timed(swept: SweepResult[PruneOutcome]) -> bool:
    return any(point.milliseconds is not None for point in swept.points)


def _titles(swept: SweepResult[PruneOutcome]) -> list[str]:
    """The budget and the costs that are known."""
    kinds = [kind for kind, row in COST_KINDS.items() if not row.measured or _is_timed(swept)]
    return ["budget", *map(cost_name, kinds)]


def _quality_title(swept: SweepResult[PruneOutcome]) -> str:
    return "quality" if swept.metric is None else metric_name(swept.metric)


def _cells(swept: SweepResult[PruneOutcome], point: SweepPoint[PruneOutcome]) -> list[str]:
    after = point.result.after
    cells = [
        *(
            cost(kind, number) + ("" if COST_KINDS[kind].is_size else _share(point, kind))
            for kind, number in after.items()
        ),
    ]
    if _is_timed(swept):
        time = point.milliseconds
        cells.append("–" if time is None else f"{time:.3g} ms{_share(point, 'latency')}")
    if swept.metric is None or point.quality is None or swept.quality is None:
        return [*cells, "–", "–"]
    change = metric_change(swept.metric, MetricChange(swept.quality, point.quality))
    return [*cells, metric_value(swept.metric, point.quality), change]


def _figures(swept: SweepResult[PruneOutcome], point: SweepPoint[PruneOutcome]) -> list[Figure]:
    """The cells of a row with what they are sorted by."""
    after, quality = point.result.after, 0.0 if point.quality is None else point.quality
    timed = (point.milliseconds or 0.0,) if _is_timed(swept) else ()
    values = (*after.values(), *timed, quality, quality)
    return [Figure(text, value) for text, value in zip(_cells(swept, point), values, strict=True)]


def _share(point: SweepPoint[PruneOutcome], cost: str) -> str:
    return f" ({percent(point.cost[cost], 0)})" if cost in point.cost else ""


def _notes(swept: SweepResult[PruneOutcome]) -> list[str]:
    told = [_NOISY_NOTE] if swept.is_noisy else []
    return [*told, *_once(swept, [point.result.notes for point in swept.points])]


def sweep_warnings(swept: SweepResult[PruneOutcome]) -> list[str]:
    """The warnings of all points, each once, with the budgets that it is about."""
    return _once(swept, [point.result.warnings for point in swept.points])


def _once(swept: SweepResult[PruneOutcome], told: Sequence[Sequence[str]]) -> list[str]:
    """Everything told of the points once; what is about some of them names their budgets.

    Texts that differ in their figures alone become one, with the range of each figure.
    """
    about: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for point, texts in zip(swept.points, told, strict=True):
        for text in texts:
            figures = _FIGURE.findall(text)
            about.setdefault(tuple(_FIGURE.split(text)), []).append((str(point.target), figures))
    every, lines = len(swept.points), []
    for words, entries in about.items():
        targets = list(dict.fromkeys(target for target, _ in entries))
        ranges = [_range(figures) for figures in zip(*(figures for _, figures in entries), strict=True)]
        text = words[0] + "".join(figure + word for figure, word in zip(ranges, words[1:], strict=True))
        lines.append(text if len(targets) == every else f"{', '.join(targets)}: {text}")
    return lines


def _range(figures: Sequence[str]) -> str:
    """From the least of some numbers to the largest."""
    least, most = min(figures, key=float), max(figures, key=float)
    return least if least == most else f"{least}–{most}"

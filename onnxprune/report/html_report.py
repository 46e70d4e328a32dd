"""The HTML report of `prune`: one self-contained file, for large and small screens, light and dark."""

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.results import LatencyReport, MetricChange, TimeReport
from onnxprune.core.text import metric_name, percent, several
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report import svg
from onnxprune.report.html_network import groups_section, macs_section, width_section
from onnxprune.report.html_parts import (
    Figure,
    badge,
    card,
    command_line,
    definitions,
    folded,
    legend,
    mono,
    notes_card,
    page,
    section,
    table,
    verdict_line,
)
from onnxprune.report.markup import Markup, element, join
from onnxprune.report.provenance import FileMark, Provenance
from onnxprune.report.settings import settings_in_words
from onnxprune.report.text import (
    asked_for,
    cost,
    duration,
    is_share,
    metric_change,
    metric_value,
    milliseconds,
    obstacles,
    on_provider,
    size,
    sizes_line,
    some,
    spread_of,
    threads_of,
)
from onnxprune.report.verdict import Judged, verdict_of

MOST_REASONS = 100
POINT = 0.01
_SAME_TIME = 0.01  # of the time: less is no change


def html_report(result: PruneOutcome, origin: Provenance) -> str:
    """The complete HTML page.

    Args:
        result: what `prune` found out.
        origin: command line, files and machine, for "how to reproduce".
    """
    title = result.source.replace("\\", "/").rpartition("/")[2]
    return page(
        f"{title} pruned",
        f"onnxprune {origin.onnxprune}",
        _header(title, result),
        *(element("div", warning, class_="note") for warning in result.warnings),
        _tiles(result),
        width_section(result),
        macs_section(result),
        groups_section(result),
        _not_pruned(result),
        _decision(result),
        _reproduce(result, origin),
    )


def _header(title: str, result: PruneOutcome) -> Markup:
    asked = [f"importance {result.plan.importance}"] if result.plan.importance else []
    asked += asked_for(result.settings)
    asked.append(f"seed {result.seed}")
    brand = element("div", "onnxprune", class_="brand")
    told = verdict_line(verdict_of(result))
    return element("header", brand, element("h1", title), told, element("p", " · ".join(asked)))


def _tiles(result: PruneOutcome) -> Markup:
    before, after = result.before, result.after
    latency = result.latency
    costs = (
        None if result.time is None else _time_tile(result.time),
        *(
            _cost_tile(COST_KINDS[kind].title, cost(kind, number), cost(kind, after[kind]), number, after[kind])
            for kind, number in before.items()
        ),
        None if latency is None else _latency_tile(latency),
    )
    hardly = Judged.by(result.rows).is_hardly
    metrics = [_metric_tile(name, change, hardly=hardly) for name, change in result.metrics.items()]
    metrics += [_metric_tile(name, change, ", confirmed") for name, change in result.confirmed.items()]
    return join(
        (
            element("div", *costs, class_="tiles"),
            element("div", *metrics, class_="tiles metrics") if metrics else None,
        )
    )


def _cost_tile(name: str, was: str, now: str, before: float, after: float, *, noisy: bool = False) -> Markup:
    left = after / before if before else 1.0
    if noisy:
        change = badge("too noisy to tell", "calm")
    elif left == 1:
        change = badge("unchanged", "calm")
    else:
        change = badge(f"−{percent(1 - left)}", "good") if left < 1 else badge(f"+{percent(left - 1)}", "bad")
    return _tile(name, change, now, f"from {was}", svg.share_bar(left, f"{percent(left)} of the {name} are left"))


def _time_tile(time: TimeReport) -> Markup:
    was = f"{milliseconds(time.before_ms)}; {spread_of(time)} of it, {threads_of(time)}"
    left = 1.0 if abs(time.ratio - 1) < _SAME_TIME else time.ratio
    return _cost_tile("Time a run", was, milliseconds(time.after_ms), 1.0, left, noisy=time.is_noisy)


def _latency_tile(latency: LatencyReport) -> Markup:
    was, predicted, now = (f"{time:.3g} ms" for time in (latency.before, latency.predicted, latency.measured))
    return _cost_tile("Measured latency", f"{was}, predicted {predicted}", now, latency.before, latency.measured)


def _metric_tile(name: str, change: MetricChange, more: str = "", *, hardly: bool = False) -> Markup:
    """A metric; what was hardly measured is shown without praise."""
    label = metric_name(name) + more
    if is_share(name):
        lost = change.before - change.after
        kind = "bad" if lost > POINT else "calm" if lost > 0 or hardly else "good"
        bar = svg.share_bar(change.after, f"{label} {percent(change.after)}")
    else:
        kind, bar = "calm", None
    same = change.before == change.after
    difference = badge("unchanged" if same else metric_change(name, change).replace("-", "−"), kind)
    was = f"from {metric_value(name, change.before)}" + (f"; {change.detail}" if change.detail else "")
    return _tile(label[:1].upper() + label[1:], difference, metric_value(name, change.after), was, bar)


def _tile(name: str, change: Markup, value: str, was: str, bar: Markup | None) -> Markup:
    return card(
        element("div", element("span", name), change, class_="label"),
        element("div", value, class_="value"),
        element("div", was, class_="was"),
        bar,
        class_="card tile",
    )


def _not_pruned(result: PruneOutcome) -> Markup:
    grouped = obstacles(result.not_pruned)
    if not grouped:
        return section("What was not pruned", None, card("Every channel was free to go."))
    rows = []
    for obstacle in grouped[:MOST_REASONS]:
        tensors = mono(some(obstacle.tensors, 3))
        rows.append(
            (
                obstacle.reason,
                mono(some(obstacle.nodes, 3)) if obstacle.nodes else "–",
                tensors,
                Figure(str(len(obstacle.tensors)), len(obstacle.tensors)),
            )
        )
    more = len(grouped) - len(rows)
    tail = element("p", f"The JSON report has {several(more, 'more reason')}.") if more > 0 else None
    return section(
        "What was not pruned, and why",
        "Channels of these tensors keep their number, together with everything that must match them.",
        card(table(("reason", "because of", "tensors", "number"), rows, numbers=(3,), stacked=True), tail),
    )


def _decision(result: PruneOutcome) -> Markup:
    program = result.program
    facts: list[tuple[str, object]] = [("status", _status(program.status))]
    for name, value in (("objective", program.objective), ("bound", program.bound)):
        if value is not None:
            facts.append((name, f"{value:.6g}"))
    if program.gap is not None:
        facts.append(("gap", percent(program.gap, 2)))
    if result.plan.widths:
        facts.append(("widths", result.plan.widths))
    facts.append(("time", duration(program.seconds)))
    if result.latency is not None:
        facts += _latency(result.latency)
    timings = [(stage, seconds) for stage, seconds in result.timings.items() if seconds > 0]
    total = sum(seconds for _, seconds in timings)
    parts = [(f"{stage}: {duration(seconds)}", seconds) for stage, seconds in timings]
    entries = [(f"part{n % svg.PARTS}", f"{stage} {duration(seconds)}") for n, (stage, seconds) in enumerate(timings)]
    return section(
        "How it was decided",
        None if program.status == "none" else _PROGRAM,
        element(
            "div",
            card(element("h3", "Program"), definitions(facts)),
            card(
                element("h3", f"Time: {duration(total)}"),
                svg.stacked(parts, "Time by stage") if parts else None,
                legend(*entries),
            ),
            class_="facts",
        ),
        _oamip(result),
        notes_card((*result.notes, *([f"sizes: {sizes}"] if (sizes := sizes_line(result.sizes)) else []))),
    )


_PROGRAM = (
    "An integer program chose how wide every layer is, for the least predicted damage within the budget (the "
    "objective); no choice can have less than the bound, and the gap is what lies between."
)


def _latency(latency: LatencyReport) -> list[tuple[str, object]]:
    """Section with predicted and measured latency."""
    threads = several(latency.threads, "thread") if latency.threads else "all cores"
    threads += on_provider(latency.provider)
    predicted, measured = percent(latency.predicted / latency.before), percent(latency.ratio)
    return [
        ("latency left", f"{measured} measured, {predicted} predicted"),
        ("measured at", f"batch {latency.batch}, {threads}, {latency.rounds} rounds of solving and measuring"),
    ]


def _status(status: str) -> Markup:
    words = {"optimal": "solved to optimality", "limit": "stopped at a limit", "none": "no program was solved"}
    return badge(words.get(status, status), {"optimal": "good", "limit": "bad"}.get(status, "calm"))


def _oamip(result: PruneOutcome) -> Markup | None:
    if not result.oamip:
        return None
    facts = [(k.replace("_", " "), str(v)) for k, v in result.oamip.items() if isinstance(v, int | float | str | bool)]
    return element("div", card(element("h3", "The paper's program"), definitions(facts)), class_="below")


_REPEATS = "The same command on the same files with the same versions gives the same model, byte for byte."
_MEASURED = (
    "Measured times chose the widths, and another run measures others. The plan of a run (--plan-out), given to --plan "
    "with the same files and versions, gives the same model, byte for byte but for the options in its metadata."
)


def _reproduce(result: PruneOutcome, origin: Provenance) -> Markup:
    facts: list[tuple[str, object]] = [(role, _file(mark)) for role, mark in origin.files.items()]
    facts.append(("seed", result.seed))
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())))
    facts.append(("machine", ", ".join(f"{name} {value}" for name, value in origin.machine.items())))
    settings = [(mono(name), mono(value)) for name, value in settings_in_words(result.settings)]
    timed = result.latency is not None or result.settings.get("round_to") in ("measured", "auto")
    return section(
        "How to reproduce",
        _MEASURED if timed else _REPEATS,
        card(
            command_line(origin.command) if origin.command else None,
            definitions(facts),
            folded("All settings", element("div", definitions(settings), class_="below")) if settings else None,
        ),
    )


def _file(mark: FileMark) -> Markup:
    if mark.sha256 is None:
        return mono(mark.path)
    details = f"{size(mark.size_bytes or 0)}, SHA-256 {mark.sha256}"
    return join((mono(mark.path), element("br"), element("span", details, class_="hash mono")))

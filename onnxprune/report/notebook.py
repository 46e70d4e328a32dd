"""What notebooks show of a result: the verdict, the figures, and two charts. No scripts, and no style outside of it."""

from collections.abc import Iterable
from importlib import resources

from onnxprune.core.text import metric_name, visible
from onnxprune.evaluation.comparison import Comparison
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.sweep import SweepResult
from onnxprune.report import svg
from onnxprune.report.depth import blocks
from onnxprune.report.html_network import heads_kept
from onnxprune.report.html_parts import profile, table
from onnxprune.report.log import shown_to_reader
from onnxprune.report.markup import Markup, element
from onnxprune.report.picture import network_picture
from onnxprune.report.sweep_report import charts, point_table, sweep_warnings
from onnxprune.report.text import cost, cost_name, count, metric_change, metric_value, milliseconds, ratio
from onnxprune.report.verdict import comparison_verdict, sweep_verdict, verdict_of

_CHARTS = 2


def result_view(result: PruneOutcome) -> str:
    """HTML of a pruned model: the picture of the network, and where the multiply-adds went."""
    macs = [
        svg.Column(visible(layer.node), layer.macs_before, layer.macs_after, f"{visible(layer.node)}: MACs")
        for layer in result.layers
        if layer.macs_before
    ]
    return _view(
        verdict_of(result),
        result.warnings,
        _figures(result),
        _picture(result),
        element("h4", "MACs of each layer, before and after") if macs else None,
        profile(macs, "MACs per layer", count) if macs else None,
    )


def comparison_view(found: Comparison) -> str:
    """HTML of a comparison of two models."""
    return _view(comparison_verdict(found), found.warnings, _figures(found))


def sweep_view(swept: SweepResult[PruneOutcome]) -> str:
    """HTML of a sweep: its points, and quality against time and multiply-adds."""
    drawn = charts(swept)[:_CHARTS]
    return _view(
        sweep_verdict(swept), sweep_warnings(swept), point_table(swept), element("div", *drawn, class_="charts")
    )


def _figures(result: PruneOutcome | Comparison) -> Markup:
    rows = []
    if result.time is not None:
        time = result.time
        left = "too noisy to tell" if time.is_noisy else f"{ratio(time.ratio, 1)} left"
        rows.append(("time a run", milliseconds(time.before_ms), milliseconds(time.after_ms), left))
    for kind, before in result.before.items():
        after = result.after[kind]
        rows.append((cost_name(kind), cost(kind, before), cost(kind, after), f"{ratio(after, before)} left"))
    rows += [
        (metric_name(name), metric_value(name, c.before), metric_value(name, c.after), metric_change(name, c))
        for name, c in result.metrics.items()
    ]
    return table(("", "before", "after", "change"), rows, numbers=(1, 2, 3))


def _picture(result: PruneOutcome) -> Markup | None:
    found = blocks(result)
    return element("div", network_picture(found, heads_kept(result.groups)), class_="wide") if found else None


def _view(told: str, warnings: Iterable[str], *content: object) -> str:
    warnings = list(warnings)
    shown_to_reader(warnings)
    style = resources.files("onnxprune.report").joinpath("notebook.css").read_text(encoding="utf-8")
    warned = [element("div", warning, class_="note") for warning in warnings]
    return element(
        "div",
        element("style", Markup(style)),
        element("div", told, class_="verdict"),
        *warned,
        *content,
        class_="onnxprune",
    )

"""Sections of the HTML report along the network's depth: widths, MACs, and a card for each group."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from onnxprune.core.results import GroupResult
from onnxprune.core.text import visible
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report import svg
from onnxprune.report.html_parts import card, folded, legend, mono, profile, section, solid, table
from onnxprune.report.markup import Markup, element
from onnxprune.report.text import count, percent, ratio, some

MOST_CARDS = 72
MOST_ROWS = 300


@dataclass(frozen=True, slots=True)
class Width:
    """Number of output channels of one prunable layer, before and after; 0 where all stay."""

    node: str
    op_type: str
    before: int
    after: int


def widths(result: PruneOutcome) -> tuple[Width, ...]:
    """Output channels of each layer, in graph order."""
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for group in result.groups:
        for node in group.producers:
            before[node] = before.get(node, 0) + group.units
            after[node] = after.get(node, 0) + group.kept
    return tuple(Width(x.node, x.op_type, before.get(x.node, 0), after.get(x.node, 0)) for x in result.layers)


def width_section(result: PruneOutcome) -> Markup:
    """Section with a bar of kept channels for each layer."""
    rows = [row for row in widths(result) if row.before]
    if not rows:
        return section("What is left of each layer", None, card("Nothing in this model can be removed; see below why."))
    data = [
        svg.Column(visible(r.node), r.before, r.after, f"{visible(r.node)}: {r.after} of {r.before} channels")
        for r in rows
    ]
    units, kept = sum(g.units for g in result.groups), sum(g.kept for g in result.groups)
    return section(
        "What is left of each layer",
        f"Output channels of the {len(rows)} prunable layers, from the input to the output. Layers that an addition "
        f"joins keep the same channels. In all, {kept} of {units} channels stay ({solid(ratio(kept, units))}).",
        card(
            profile(data, "Channels kept per layer", lambda value: f"{value:.0f}"),
            _legend(data, "kept", "removed"),
            folded(
                _table_title(len(rows)),
                table(
                    ("layer", "operator", "channels", "kept", "left"),
                    [(mono(r.node), r.op_type, r.before, r.after, ratio(r.after, r.before)) for r in rows[:MOST_ROWS]],
                    numbers=(2, 3, 4),
                ),
            ),
        ),
    )


def macs_section(result: PruneOutcome) -> Markup | None:
    """Section with the MACs of each layer."""
    layers = [layer for layer in result.layers if layer.macs_before]
    if not layers:
        return None
    data = [
        svg.Column(
            visible(layer.node),
            layer.macs_before,
            layer.macs_after,
            f"{visible(layer.node)} ({layer.op_type}): {count(layer.macs_before)} to {count(layer.macs_after)} MACs",
        )
        for layer in layers
    ]
    saved = sorted(layers, key=lambda layer: layer.macs_after - layer.macs_before)
    total = (result.before.macs - result.after.macs) or 1
    most = saved[: max(1, len(saved) // 10)]
    share = sum(layer.macs_before - layer.macs_after for layer in most) / total
    biggest = f" A tenth of the layers gave {solid(percent(share, 0))} of it." if len(layers) >= 20 else ""
    return section(
        "Where the MACs went",
        "Multiply-adds of each layer before and after, from the input to the output: "
        f"{solid(count(result.before.macs))} became {solid(count(result.after.macs))}.{biggest}",
        card(
            profile(data, "MACs per layer", count),
            _legend(data, "MACs left", "MACs saved"),
            folded(
                _table_title(len(layers)),
                table(
                    ("layer", "operator", "MACs before", "after", "left", "parameters before", "after"),
                    [
                        (
                            mono(layer.node),
                            layer.op_type,
                            count(layer.macs_before),
                            count(layer.macs_after),
                            ratio(layer.macs_after, layer.macs_before),
                            count(layer.params_before),
                            count(layer.params_after),
                        )
                        for layer in layers[:MOST_ROWS]
                    ],
                    numbers=(2, 3, 4, 5, 6),
                ),
            ),
        ),
    )


def _legend(data: Sequence[svg.Column], kept: str, gone: str) -> Markup:
    """Legend of the colours that occur."""
    touched = [("kept", kept), ("whole", gone)] if any(column.kept < column.whole for column in data) else []
    untouched = [("fixed", "layer untouched")] if any(column.kept == column.whole for column in data) else []
    return legend(*touched, *untouched)


def _table_title(layers: int) -> str:
    return "All layers as a table" if layers <= MOST_ROWS else f"The first {MOST_ROWS} layers as a table"


def groups_section(result: PruneOutcome) -> Markup | None:
    """Section with a card for each group: damage curve and histogram of scores."""
    groups = [group for group in result.groups if group.damage or group.scores]
    if not groups:
        return None
    shown = groups
    if len(groups) > MOST_CARDS:
        largest = {g.name for g in sorted(groups, key=lambda g: g.macs_after - g.macs_before)[:MOST_CARDS]}
        shown = [group for group in groups if group.name in largest]
    top = max((d for group in groups for _, d in group.damage[:-1] if isfinite(d)), default=0.0)
    removed = {name: frozenset(positions) for name, positions in result.plan.removed.items()}
    cards = (_group_card(group, removed.get(group.name, frozenset()), top) for group in shown)
    curves = any(group.damage for group in groups)
    sentence = "Channels that can only go together form a group. "
    if curves:
        sentence += (
            "The curve is the predicted damage to the task against the channels kept, on a logarithmic scale of "
            f"{svg.DECADES} decades that all groups share; the dot is the choice. "
        )
    if any(group.scores for group in groups):
        sentence += "The histogram shows the channels' scores, from 0 (useless) to 1."
    more = len(groups) - len(shown)
    rest = element("p", f"The {more} groups that saved less are in the JSON report.") if more > 0 else None
    meanings = [("kept", "kept"), ("gone", "removed")]
    return section("Group by group", sentence, element("div", *cards, class_="groups"), legend(*meanings), rest)


def _group_card(group: GroupResult, removed: frozenset[int], top: float) -> Markup:
    share = group.kept / group.units if group.units else 1.0
    parts: list[Markup] = []
    if len(group.damage) > 1:
        label = f"Predicted damage of {visible(group.name)} by channels kept"
        points = [(float(kept), damage) for kept, damage in group.damage]
        first, last = group.damage[0][0], group.damage[-1][0]
        parts.append(svg.curve(points, group.kept, top, label))
        parts.append(element("div", element("span", first), element("span", f"{last} kept"), class_="ends"))
    if group.scores:
        kept = [score for position, score in enumerate(group.scores) if position not in removed]
        gone = [score for position, score in enumerate(group.scores) if position in removed]
        parts.append(svg.histogram(kept, gone, f"Scores of {visible(group.name)}"))
        parts.append(element("div", element("span", "0"), element("span", "score 1"), class_="ends"))
    return card(
        element("div", element("bdi", visible(group.name)), class_="name mono", title=_tooltip(group)),
        element("div", f"{group.kept} of {group.units}", element("small", percent(share, 0)), class_="kept-of"),
        *parts,
    )


def _tooltip(group: GroupResult) -> str:
    return f"{visible(group.name)}\nmade by {some(group.producers, 6)}\nread by {some(group.consumers, 6)}"

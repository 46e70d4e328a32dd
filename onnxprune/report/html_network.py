"""Sections of the HTML report along the network's depth: its picture, widths, MACs, and a card for each group."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from onnxprune.core.results import GroupResult, LayerCost
from onnxprune.core.text import percent, several, visible
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report import svg
from onnxprune.report.depth import blocks
from onnxprune.report.html_parts import (
    NAMED_ROWS,
    Figure,
    card,
    folded,
    legend,
    mono,
    name_line,
    profile,
    section,
    solid,
    table,
)
from onnxprune.report.markup import Markup, element
from onnxprune.report.picture import network_picture
from onnxprune.report.text import count, narrowing, some, units_in_words

MOST_CARDS = 72
OPEN_CARDS = 15
MOST_ROWS = 300


def width_section(result: PruneOutcome) -> Markup:
    """Section with the picture of the network, and what is left of each layer that may lose channels."""
    rows = narrowing(result.groups, result.layers)
    drawn = _picture(result)
    if not result.groups:
        none = "Nothing in this model can be removed; see below why."
        return section("What is left of each layer", None, card(none), card(*drawn) if drawn else None)
    heads = heads_kept(result.groups)
    whole = folded(
        _table_title(len(rows)),
        table(
            ("layer", "operator", "channels", "kept", "left"),
            [_width_row(row, heads) for row in rows[:MOST_ROWS]],
            numbers=(2, 3, 4),
        ),
    )
    data = [
        svg.Column(visible(r.node), r.width_before, r.width_after, f"{visible(r.node)}: {_kept(r, heads)}")
        for r in rows
    ]
    bars = (profile(data, "Channels kept per layer", lambda value: f"{value:.0f}"), _legend(data, "kept", "removed"))
    cards: list[Markup] = [*([card(*drawn)] if drawn else []), *([card(*bars, whole)] if rows else [])]
    if len(rows) > NAMED_ROWS:  # the picture shows their widths as columns would
        cards = [card(*(drawn or bars), whole)]
    joined = any(len(group.producers) > 1 for group in result.groups)
    return section(
        "What is left of each layer",
        f"In all, {units_in_words(result.groups, 'stay')}."
        + " Layers that an addition joins keep the same channels." * joined,
        *cards,
    )


def _picture(result: PruneOutcome) -> tuple[Markup, ...]:
    """The picture in a frame that scrolls sideways, and what it shows; nothing where there is nothing to draw."""
    found = blocks(result)
    layers = [block for block in found if block.is_layer]
    if not layers:
        return ()
    colours = {
        "kept": any(0 < block.after < block.before for block in layers),
        "fixed": any(block.after == block.before and not block.gone for block in layers),
        "cutout": any(block.gone for block in layers),
    }
    meanings = {"kept": "stays of a layer", "fixed": "layer untouched", "cutout": "cut out as a whole"}
    heads = {node: told for node, told in heads_kept(result.groups).items() if told}
    text = (
        "From the input to the output: the higher a block, the more channels its layer has (by the square root); the "
        "filled part stays. Dots are places where branches meet."
    )
    return (
        element("div", network_picture(found, heads), class_="wide"),
        legend(*((colour, meanings[colour]) for colour, seen in colours.items() if seen)),
        element("p", text, class_="aside"),
    )


def heads_kept(groups: Sequence[GroupResult]) -> dict[str, str]:
    """For each layer that makes attention heads, how many of them stay, in words."""
    return {
        node: f"{group.kept} of {several(group.units, 'head')}"
        for group in groups
        if group.kind == "head"
        for node in group.producers
    }


def _kept(layer: LayerCost, heads: Mapping[str, str]) -> str:
    told = f"{layer.width_after} of {several(layer.width_before, 'channel')}"
    return f"{told}, {heads[layer.node]}" if layer.node in heads else told


def _width_row(layer: LayerCost, heads: Mapping[str, str]) -> tuple[object, ...]:
    before, after = layer.width_before, layer.width_after
    kept = f"{after} ({heads[layer.node]})" if layer.node in heads else str(after)
    left = after / before if before else 1.0
    return mono(layer.node), layer.op_type, Figure(str(before), before), Figure(kept, after), _left(left)


def _left(share: float) -> Figure:
    return Figure(percent(share), share)


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
    was, now = solid(count(result.before.macs)), solid(count(result.after.macs))
    became = f"{was} became {now}" if result.after.macs != result.before.macs else f"all {was} stay"
    biggest = (
        f" A tenth of the layers gave {solid(percent(share, 0))} of it."
        if len(layers) >= 20 and became != f"all {was} stay"
        else ""
    )
    return section(
        "Where the MACs went",
        f"Multiply-adds of each layer before and after, from the input to the output: {became}.{biggest}",
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
                            Figure(count(layer.macs_before), layer.macs_before),
                            Figure(count(layer.macs_after), layer.macs_after),
                            _left(layer.macs_after / layer.macs_before),
                            Figure(count(layer.params_before), layer.params_before),
                            Figure(count(layer.params_after), layer.params_after),
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

    def cards(those: Iterable[GroupResult]) -> Markup:
        made = (_group_card(group, removed.get(group.name, frozenset()), top) for group in those)
        return element("div", *made, class_="groups")

    first, others = _first(shown)
    curves = any(group.damage for group in groups)
    units = "Channels or heads" if any(group.kind == "head" for group in groups) else "Channels"
    sentence = f"{units} that can only go together form a group. "
    if curves:
        sentence += (
            "The curve is the predicted damage to the task against the channels kept, on one logarithmic scale for all "
            "groups; the dot is the choice. "
        )
    if any(group.scores for group in groups):
        sentence += "The histogram shows the channels' scores, from 0 (useless) to 1. "
    if others:
        sentence += "The groups that saved most come first."
    more = len(groups) - len(shown)
    rest = element("p", f"The JSON report has {several(more, 'more group')}, which saved less.") if more > 0 else None
    meanings = [("kept", "kept"), ("gone", "removed")]
    folds = folded(several(len(others), "more group"), cards(others)) if others else None
    return section("Group by group", sentence.strip(), cards(first), legend(*meanings), folds, rest)


def _first(groups: Sequence[GroupResult]) -> tuple[list[GroupResult], list[GroupResult]]:
    """The groups that a page shows at once, those that saved most, and the others; both along the depth."""
    if len(groups) <= OPEN_CARDS + OPEN_CARDS // 3:
        return list(groups), []
    most = {g.name for g in sorted(groups, key=lambda g: g.macs_after - g.macs_before)[:OPEN_CARDS]}
    return [g for g in groups if g.name in most], [g for g in groups if g.name not in most]


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
        name_line(visible(group.name), _tooltip(group)),
        element("div", _units(group), element("small", percent(share, 0)), class_="kept-of"),
        *parts,
    )


def _units(group: GroupResult) -> str:
    return (
        f"{group.kept} of {group.units}" if group.kind == "channel" else f"{group.kept} of {group.units} {group.kind}s"
    )


def _tooltip(group: GroupResult) -> str:
    return f"{visible(group.name)}\nmade by {some(group.producers, 6)}\nread by {some(group.consumers, 6)}"

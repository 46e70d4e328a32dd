"""The chart of a sweep: quality against one cost, with labels, and the front of what nothing beats."""

from dataclasses import dataclass

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.text import metric_name, percent
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.sweep import SweepResult
from onnxprune.report.html_parts import card, solid
from onnxprune.report.markup import Markup, element
from onnxprune.report.svg import HEIGHT, number, picture
from onnxprune.report.text import is_share, metric_value

_MARGIN = 0.08  # of the range of qualities, above and below the points
_LABEL = (0.065, 0.16)  # half the width, and the height, of a label: shares of a small chart


@dataclass(frozen=True, slots=True)
class Dot:
    """A model in the chart: its label and tooltip, its share of the cost, its quality, and whether nothing beats it."""

    label: str
    told: str
    cost: float
    quality: float
    on_front: bool


def dots(swept: SweepResult[PruneOutcome], cost: str) -> list[Dot]:
    """The original and the points that were measured, from the smallest cost to the largest."""
    metric, front = swept.metric or "", set(swept.front(cost))
    measured = [
        (n, str(point.target), point.cost[cost], point.quality)
        for n, point in enumerate(swept.points)
        if point.quality is not None and cost in point.cost
    ]
    kinds = {point.target.kind for point in swept.points}

    def label(n: int, name: str) -> str:
        value = swept.points[n].target.value
        return name if len(kinds) > 1 or value > 1 else f"{100 * value:g} %"

    def told(name: str, share: float, quality: float) -> str:
        return f"{name}: {percent(share)} of the {COST_KINDS[cost].title}, {metric_value(metric, quality)}"

    found = [
        Dot(label(n, name), told(name, share, quality), share, quality, n in front)
        for n, name, share, quality in measured
    ]
    if swept.quality is not None:
        own = swept.quality
        beaten = any(d.cost <= 1 and d.quality >= own and (d.cost, d.quality) != (1.0, own) for d in found)
        found.append(Dot("original", told("the original", 1.0, own), 1.0, own, not beaten))
    return sorted(found, key=lambda dot: (dot.cost, dot.quality))


def chart(swept: SweepResult[PruneOutcome], cost: str) -> Markup:
    """A card with the chart."""
    found, metric = dots(swept, cost), swept.metric or ""
    best, least = max(dot.quality for dot in found), min(dot.quality for dot in found)
    spare = _MARGIN * ((best - least) or 1.0)
    low, high, right = least - spare, best + spare, max(1.0, *(dot.cost for dot in found))
    if is_share(metric):
        low, high = max(low, min(least, 0.0)), min(high, max(best, 1.0))

    def place(dot: Dot) -> tuple[float, float]:
        """Position from the left and from the top, as shares of the chart."""
        return dot.cost / right, (high - dot.quality) / (high - low)

    def spot(dot: Dot) -> str:
        x, y = place(dot)
        return f"{number(100 * x)} {number(HEIGHT * y)}"

    front = " ".join(spot(dot).replace(" ", ",") for dot in found if dot.on_front)
    drawn = [element("polyline", points=front, class_="line")]
    for dot in sorted(found, key=lambda dot: dot.on_front):
        mark = element("path", d=f"M{spot(dot)}h0", class_="dot" if dot.on_front else "dot beaten")
        drawn.append(element("g", element("title", dot.told), mark))
    name = metric_name(metric)
    steps = [step / 5 for step in range(int(5 * right) + 1)]
    marks = (element("span", solid(percent(step, 0)), style=f"left:{100 * step / right:.2f}%") for step in steps)
    levels = [percent(y) if is_share(metric) else metric_value(metric, y) for y in (high, (high + low) / 2, low)]
    grid = element(
        "div",
        element("div", *(element("span", mark) for mark in levels), class_="scale"),
        element(
            "div",
            picture(100, HEIGHT, f"{name} against {COST_KINDS[cost].title}", *drawn),
            *_labels(found, [place(dot) for dot in found]),
            class_="frame",
        ),
        element("div", *marks, class_="depth"),
        class_="plot",
    )
    title = "Time" if COST_KINDS[cost].measured else COST_KINDS[cost].title
    return card(element("h3", f"{title} left, and {name}"), grid)


def _labels(found: list[Dot], places: list[tuple[float, float]]) -> list[Markup]:
    """Names beside the dots, above or below; one that would cover another is left to the tooltip and the table."""
    half, high = _LABEL
    taken: list[tuple[float, float, float]] = []
    made = []
    order = sorted(range(len(found)), key=lambda n: (found[n].label != "original", not found[n].on_front))
    for n in order:
        x, y = places[n]
        wide = half * max(1.0, len(found[n].label) / 4)
        for shift, class_ in ((-high, "over"), (high, "under")):
            clear = all(abs(x - a) >= wide + broad or abs(y + shift - b) >= high for a, b, broad in taken)
            if clear and -0.17 <= y + shift <= 1.05:
                taken.append((x, y + shift, wide))
                inwards = ";--at:-85%" if x + wide > 1 else ""  # not over the right edge
                style = f"left:{100 * x:.2f}%;top:{100 * y:.2f}%{inwards}"
                faint = "" if found[n].on_front else " beaten"
                made.append(element("span", found[n].label, class_=f"label {class_}{faint}", style=style))
                break
    return made

"""Small charts as inline SVG. They contain no text, since they stretch with the page; labels are put around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

from onnxprune.report.markup import Markup, element, join

HEIGHT = 100.0
BINS = 20
POINTS = 40
DECADES = 6
PARTS = 8
TOLD = 300
"""Columns that say what they are under the pointer; where there are more, the page would grow too large."""


@dataclass(frozen=True, slots=True)
class Column:
    """One layer in a chart: name, total, kept part, and the tooltip."""

    name: str
    whole: float
    kept: float
    title: str

    @property
    def class_(self) -> str:
        """CSS class of the kept part; layers that lost nothing are drawn in a calmer colour."""
        return "kept" if self.kept < self.whole else "fixed"


def picture(width: float, height: float, label: str, *shapes: object, class_: str = "chart") -> Markup:
    """An SVG that fills its box; `label` describes it to screen readers."""
    return element(
        "svg",
        *shapes,
        class_=class_,
        viewBox=f"0 0 {number(width)} {number(height)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def columns(data: Sequence[Column], label: str) -> Markup:
    """Column chart along the network's depth: totals in a light shade, kept parts over them."""
    top = max((column.whole for column in data), default=0.0) or 1.0
    draw = _told_column if len(data) <= TOLD else _column
    return picture(10 * len(data), HEIGHT, label, *(draw(n, column, top) for n, column in enumerate(data)))


def _told_column(position: int, column: Column, top: float) -> Markup:
    """A column with a tooltip."""
    ground = element("rect", x=10 * position, y=0, width=10, height=number(HEIGHT), class_="hover")
    return element("g", element("title", column.title), ground, _column(position, column, top))


def _column(position: int, column: Column, top: float) -> Markup:
    x, width = 10 * position + 1.2, 7.6
    whole, kept = (HEIGHT * value / top for value in (column.whole, column.kept))
    drawn = ((whole, "whole"), (kept, column.class_))
    return join(
        element("rect", x=number(x), y=number(HEIGHT - high), width=width, height=number(high), class_=class_)
        for high, class_ in drawn
    )


def row(column: Column, top: float) -> Markup:
    """One layer as a horizontal bar, scaled to the largest total `top`."""
    whole, kept = (100 * value / top for value in (column.whole, column.kept))
    return picture(
        100,
        10,
        column.title,
        element("title", column.title),
        element("rect", x=0, y=0, width=number(whole), height=10, class_="whole"),
        element("rect", x=0, y=0, width=number(kept), height=10, class_=column.class_),
        class_="bar tall",
    )


def share_bar(share: float, label: str) -> Markup:
    """A share as a horizontal bar."""
    filled = 100 * max(0.0, min(1.0, share))
    return picture(
        100,
        4,
        label,
        element("rect", x=0, y=0, width=100, height=4, class_="whole"),
        element("rect", x=0, y=0, width=number(filled), height=4, class_="kept"),
        class_="bar",
    )


def curve(points: Sequence[tuple[float, float]], chosen: float, top: float, label: str) -> Markup:
    """A damage curve.

    Args:
        points: `(units kept, damage)`, ascending.
        chosen: units that were kept; marked with a dot.
        top: the largest damage of all curves. The scale is logarithmic over `DECADES` decades below it.
        label: description.
    """
    first, last = points[0][0], points[-1][0]
    span = (last - first) or 1.0

    def place(kept: float, damage: float) -> tuple[float, float]:
        return 100 * (kept - first) / span, 4 + (HEIGHT - 8) * (1 - log_share(damage, top))

    shown = list(points) if len(points) <= POINTS else [points[round(n)] for n in _spread(len(points), POINTS)]
    line = [place(*point) for point in shown]
    path = " ".join(f"{number(x)},{number(y)}" for x, y in line)
    x, y = place(chosen, interpolate(points, chosen))
    return picture(
        100,
        HEIGHT,
        label,
        element(
            "polygon", points=f"{number(line[0][0])},{HEIGHT:g} {path} {number(line[-1][0])},{HEIGHT:g}", class_="area"
        ),
        element("polyline", points=path, class_="line"),
        element("path", d=f"M{number(x)} 0V{HEIGHT:g}", class_="rule"),
        element("path", d=f"M{number(x)} {number(y)}h0", class_="dot"),
        class_="spark",
    )


def histogram(scores: Sequence[float], removed: Sequence[float], label: str) -> Markup:
    """Histogram of scores in [0, 1]: kept units, with removed ones on top."""
    kept, gone = _bins(scores), _bins(removed)
    top = max((a + b for a, b in zip(kept, gone, strict=True)), default=0) or 1
    bars = []
    for n, (stay, go) in enumerate(zip(kept, gone, strict=True)):
        low, high = HEIGHT * stay / top, HEIGHT * go / top
        if stay:
            bars.append(_bin(n, HEIGHT - low, low, "kept"))
        if go:
            bars.append(_bin(n, HEIGHT - low - high, high, "gone"))
    return picture(10 * BINS, HEIGHT, label, *bars, class_="spark")


def _bin(position: int, y: float, height: float, class_: str) -> Markup:
    return element("rect", x=10 * position + 1, y=number(y), width=8, height=number(height), class_=class_)


def stacked(parts: Sequence[tuple[str, float]], label: str) -> Markup:
    """Shares of a whole, side by side; colours repeat over the CSS classes `part0`, `part1`, ..."""
    total = sum(value for _, value in parts) or 1.0
    shapes, x = [], 0.0
    for n, (name, value) in enumerate(parts):
        width = 100 * value / total
        box = element("rect", x=number(x), y=0, width=number(max(width - 0.15, 0)), height=6, class_=f"part{n % PARTS}")
        shapes.append(element("g", element("title", name), box))
        x += width
    return picture(100, 6, label, join(shapes), class_="bar tall")


def log_share(value: float, top: float) -> float:
    """Position on a logarithmic scale: 1 at `top`, 0 at `DECADES` decades below it or at value 0.

    What is not finite is as bad as can be: 1.
    """
    if not isfinite(value):
        return 1.0
    if value <= 0 or top <= 0:
        return 0.0
    return max(0.0, min(1.0, 1 + (log10(value) - log10(top)) / DECADES))


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear interpolation through ascending points, constant beyond the ends."""
    previous = points[0]
    for point in points:
        if point[0] >= at:
            if point[0] == previous[0]:
                return point[1]
            return previous[1] + (point[1] - previous[1]) * (at - previous[0]) / (point[0] - previous[0])
        previous = point
    return points[-1][1]


def _bins(values: Sequence[float]) -> list[int]:
    counts = [0] * BINS
    for value in filter(isfinite, values):
        counts[max(0, min(BINS - 1, int(value * BINS)))] += 1
    return counts


def _spread(size: int, wanted: int) -> list[float]:
    return [n * (size - 1) / (wanted - 1) for n in range(wanted)]


def number(value: float) -> str:
    """A coordinate as short text."""
    return f"{value:.2f}".rstrip("0").rstrip(".")

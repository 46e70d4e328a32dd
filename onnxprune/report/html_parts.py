"""Building blocks of the HTML report: tables, legends, plots and badges."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from onnxprune.core.text import MESSAGE, visible
from onnxprune.report import svg
from onnxprune.report.markup import Markup, element, join

NAMED_ROWS = 12
"""Layers that a chart names in rows; more of them become columns."""
LABELLED_COLUMNS = 60
"""Columns that fit on a page; more of them scroll sideways."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number in a table: how it is written, and what rows are sorted by."""

    text: str
    value: float


def page(name: str, maker: str, *content: object) -> str:
    """A complete, self-contained HTML page; its script only adds sorting, filters and a button to copy.

    Args:
        name: what the window is called.
        maker: the program that made it, with its version; also at the foot.
        content: what stands between.
    """
    style, script = (
        resources.files("onnxprune.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "page.js")
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=maker),
        element("title", name),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *content, element("footer", maker)), element("script", Markup(script)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def verdict_line(verdict: str) -> Markup:
    """The verdict, below the title; figures keep their units."""
    return element("p", verdict.replace(" %", "\u00a0%").replace(" points", "\u00a0points"), class_="verdict")


def section(title: str, explanation: str | None, *content: object) -> Markup:
    """A section with a heading and one sentence of explanation."""
    text = element("p", explanation) if explanation else None
    return element("section", element("h2", title), text, *content)


def card(*content: object, class_: str = "card") -> Markup:
    """A framed box."""
    return element("div", *content, class_=class_)


def badge(text: str, kind: str) -> Markup:
    """A coloured label; `kind` is good, bad or calm."""
    return element("span", text, class_=f"badge {kind}")


def name_line(name: str, title: str) -> Markup:
    """A layer's name on one line, cut at its start where room lacks.

    Small screens leave out the operator that many exporters put last, so that what tells layers apart is in sight.
    """
    path, slash, last = name.rpartition("/")
    if path.strip("/") and last[:1].isupper():
        shown = element("bdi", path, element("span", slash + last, class_="op"))
    else:
        shown = element("bdi", name)
    return element("div", shown, class_="name mono", title=title)


def mono(name: object) -> Markup:
    """A name from the model, in a monospaced font."""
    return element("code", visible(str(name), MESSAGE))


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = (), *, stacked: bool = False
) -> Markup:
    """A table that can be sorted and scrolls sideways if it is too wide; the columns in `numbers` are right-aligned.

    With `stacked`, a phone shows each row as a block with the columns' titles in front of the values. Rows are sorted
    by text, or by the value of a `Figure`.
    """

    def cell(tag: str, position: int, content: object) -> Markup:
        class_ = "num" if position in numbers else "name-cell" if position == 0 and tag == "td" else None
        label = head[position] if stacked and tag == "td" and position else None
        order = content.value if isinstance(content, Figure) else None
        shown = content.text if isinstance(content, Figure) else content
        return element(tag, shown, class_=class_, data_label=label, data_order=order)

    titles = element("tr", *(cell("th", n, title) for n, title in enumerate(head)))
    body = (element("tr", *(cell("td", n, content) for n, content in enumerate(row))) for row in rows)
    made = element(
        "table", element("thead", titles), element("tbody", *body), class_="sortable stacked" if stacked else "sortable"
    )
    return element("div", made, class_="wide")


def command_line(text: str) -> Markup:
    """A command to copy; lines break only between words."""
    return element("pre", Markup(" ".join(element("span", word) for word in text.split(" "))), class_="command")


def folded(summary: str, *content: object) -> Markup:
    """A block that can be opened; works without scripts."""
    return element("details", element("summary", summary), *content)


def legend(*entries: tuple[str, str]) -> Markup:
    """A legend in one line, from pairs (CSS class of the colour, meaning)."""
    items = (element("span", element("i", class_=f"i-{colour}"), text) for colour, text in entries)
    return element("div", *items, class_="legend")


def solid(text: str) -> str:
    """Text without line breaks, for numbers with units."""
    return text.replace(" ", "\u00a0")


def profile(data: Sequence[svg.Column], label: str, show: Callable[[float], str]) -> Markup:
    """Values along the network's depth: named rows for few layers, columns for many.

    Args:
        data: one entry a layer, from the input to the output.
        label: what the chart shows.
        show: a value as text.
    """
    top = max((column.whole for column in data), default=0.0) or 1.0
    if len(data) > NAMED_ROWS:
        return _plot(svg.columns(data, label), len(data), (show(top), show(top / 2), "0"))
    rows = (
        (
            name_line(column.name, column.name),
            svg.row(column, top),
            element("div", f"{show(column.kept)} of {show(column.whole)}", class_="num"),
        )
        for column in data
    )
    return element("div", *(cell for row in rows for cell in row), class_="rows")


def _plot(chart: Markup, count: int, scale: Sequence[str]) -> Markup:
    """A column chart with a vertical scale at the left."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, count) if count / s <= 12 or s == count)
    ticks = sorted({1, *range(step, count + 1, step)})
    marks = (element("span", n, style=f"left:{100 * (n - 0.5) / count:.2f}%") for n in ticks)
    wide = f"min-width:{12 * count}px" if count > LABELLED_COLUMNS else None
    grid = element(
        "div",
        element("div", *(element("span", text) for text in scale), class_="scale"),
        element("div", chart, class_="frame"),
        element("div", *marks, class_="depth"),
        class_="plot",
        style=wide,
    )
    return element("div", grid, class_="wide")


def notes_card(notes: Sequence[str]) -> Markup | None:
    """What else is worth knowing of how a run went; no warning."""
    if not notes:
        return None
    told = element("ul", *(element("li", *_whole_options(note)) for note in notes), class_="notes")
    return element("div", card(element("h3", "Worth knowing"), told), class_="below")


def _whole_options(text: str) -> list[object]:
    """A text whose options are not broken behind their dashes."""
    parts = re.split(r"(--[a-z][\w-]*)", text)
    return [element("span", part, class_="option") if part.startswith("--") else part for part in parts]


def definitions(pairs: Sequence[tuple[object, object]]) -> Markup:
    """Names and values in two columns."""
    return element("dl", join(join((element("dt", name), element("dd", value))) for name, value in pairs))

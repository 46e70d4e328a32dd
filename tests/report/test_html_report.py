import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.results import GroupResult, LatencyReport, NotPruned, ProgramReport
from onnxprune.core.text import visible_lines
from onnxprune.report import svg
from onnxprune.report.html_network import MOST_CARDS
from onnxprune.report.html_report import html_report
from onnxprune.report.markup import Markup, element
from onnxprune.report.provenance import FileMark, Provenance

ORIGIN = Provenance(command="onnxprune prune a.onnx -o b.onnx", files={"model": FileMark("a.onnx", 10, "0" * 64)})
VOID = {"meta", "br", "hr", "link"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_its_only_script_is_its_own(result) -> None:
    text = html_report(result(), ORIGIN)
    page = Page(text)
    assert page.open == []
    assert page.tags.count("script") == 1
    assert not {"img", "link", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "onclick", "onload"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?:|url\(|@import", text)


def test_page_shows_what_matters(result) -> None:
    shown = " ".join(Page(html_report(result(), ORIGIN)).text).replace("\u00a0", " ")
    for part in (
        *("example.onnx", "importance reconstruction", "macs=0.5", "seed 7", "1.00 M", "from 2.00 M", "−50.0 %"),
        *("92.60 %", "−0.80 points", "layer1/Conv", "15 of 16", "Softmax normalises across these channels"),
        *(
            "softmax1, softmax2",
            "solved to optimality",
            "0.10 %",
            "score 12.0 s",
            "0" * 64,
            "onnx 1.17.0",
        ),
    ):
        assert part in shown, part


@pytest.mark.parametrize(
    "command", ["onnxprune prune a.onnx -o b.onnx", "onnxprune prune 'a  b.onnx' --target macs=0.5"]
)
def test_the_command_is_there_to_copy(result, command: str) -> None:
    text = html_report(result(), dataclasses.replace(ORIGIN, command=command))
    assert command in "".join(Page(text).text)


def test_the_same_bytes_are_not_promised_where_times_chose(result) -> None:
    timed = LatencyReport(before=2.0, predicted=1.1, measured=1.2, batch=1, threads=1, rounds=2)
    for changes in ({"latency": timed}, {"settings": {"round_to": "measured"}}):
        page = html_report(result(**changes), ORIGIN)
        assert "The same command" not in page
        assert "--plan-out" in page
    assert "The same command" in html_report(result(settings={"round_to": "kernel"}), ORIGIN)


def test_rows_that_a_phone_stacks_name_their_columns(result) -> None:
    labels = [value for name, value in Page(html_report(result(), ORIGIN)).attributes if name == "data-label"]
    assert labels == ["because of", "tensors", "number"] * 2


def test_each_stage_has_its_colour(result) -> None:
    stages = ("load", "analyse", "score", "allocate", "remove", "repair", "distill", "evaluate")
    page = Page(html_report(result(timings=dict.fromkeys(stages, 1.0)), ORIGIN))
    used = [value for name, value in page.attributes if name == "class" and value.startswith("i-part")]
    assert len(set(used)) == len(stages)
    style = "".join(page.text)
    assert all(f".{name} {{" in style and f".{name[2:]} {{" in style for name in used)


def test_names_with_markup_are_shown_as_they_are(result) -> None:
    evil = '<script>alert("1")</script>&amp;[bold]'
    group = dataclasses.replace(result().groups[0], name=evil, producers=(evil,), consumers=(evil,))
    hostile = dataclasses.replace(
        result(),
        source=f"{evil}.onnx",
        groups=(group,),
        not_pruned=(NotPruned(evil, evil, evil),),
        notes=(evil,),
        versions={evil: evil},
    )
    page = Page(html_report(hostile, dataclasses.replace(ORIGIN, command=evil)))
    assert page.tags.count("script") == 1
    assert evil in page.text


def test_page_of_a_large_network_stays_small(result) -> None:
    groups = 1500
    text = html_report(result(groups=groups, units=512), ORIGIN)
    assert len(text.encode()) < 1_000_000
    assert text.count('class="name mono" title=') == MOST_CARDS
    assert f"{groups - MOST_CARDS} more groups, which saved less" in text


def test_groups_that_saved_least_are_folded(result) -> None:
    """The cards of a deep network took six screens before anything else came."""
    text = html_report(result(groups=40), ORIGIN)
    open_part, mark, folded = text.partition("<summary>25 more groups</summary>")
    assert mark
    assert (open_part.count('class="name mono" title='), folded.count('class="name mono" title=')) == (15, 25)
    assert "more group" not in html_report(result(groups=20), ORIGIN)


def test_page_without_groups_metrics_and_program(result) -> None:
    bare = result(
        groups=0, metrics={}, not_pruned=(), program=ProgramReport("none"), timings={}, settings={}, layers=()
    )
    page = Page(html_report(bare, Provenance()))
    shown = " ".join(page.text)
    assert page.open == []
    assert "Nothing in this model can be removed" in shown
    assert "Every channel was free to go" in shown
    assert "no program was solved" in shown


@pytest.mark.parametrize("units", [1, 2, 40, 41, 2048])
def test_page_of_groups_of_any_width(result, units: int) -> None:
    assert Page(html_report(result(groups=2, units=units), ORIGIN)).open == []


def test_page_with_values_that_are_not_finite(result) -> None:
    group = GroupResult("g", 3, 2, ("g",), (), 5, 4, (0.0, 0.5, 1.0), ((1, float("inf")), (2, float("nan")), (3, 0.0)))
    text = html_report(dataclasses.replace(result(), groups=(group,)), ORIGIN)
    points = re.findall(r'<polyline points="([^"]*)"', text)
    assert points == ["0,4 50,4 100,96"]


@given(st.text())
def test_text_in_elements_comes_back_with_control_characters_written_out(text: str) -> None:
    kept = visible_lines(text)
    page = Page(element("p", kept, title=kept))
    assert "".join(page.text) == kept
    assert ("title", kept) in page.attributes
    assert element("p", Markup("<b>x</b>")) == "<p><b>x</b></p>"


def test_columns_are_as_high_as_their_values() -> None:
    chart = svg.columns([svg.Column("a", 10, 5, "a"), svg.Column("b", 20, 20, "b")], "label")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="(?:whole|kept|fixed)"', chart)]
    assert heights == [50.0, 25.0, 100.0, 100.0]
    assert re.findall(r'class="(kept|fixed)"', chart) == ["kept", "fixed"]


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_log_scale_is_monotone_and_within_the_chart(value: float, other: float) -> None:
    low, high = sorted((value, other))
    assert 0 <= svg.log_share(low, 1e3) <= svg.log_share(high, 1e3) <= 1


def test_log_scale_has_its_ends() -> None:
    assert svg.log_share(8.0, 8.0) == 1
    assert svg.log_share(8.0 * 10**-svg.DECADES, 8.0) == pytest.approx(0)
    assert svg.log_share(0.0, 8.0) == 0


def test_histogram_counts_every_score_once() -> None:
    chart = svg.histogram([0.0, 0.5, 1.0], [0.02, 0.03], "scores")
    assert chart.count('class="kept"') == 3
    assert re.findall(r'height="([\d.]+)" class="gone"', chart) == ["66.67"]


def test_interpolation() -> None:
    points = [(1.0, 9.0), (3.0, 5.0)]
    assert [svg.interpolate(points, at) for at in (0, 1, 2, 3, 4)] == [9, 9, 7, 5, 5]


def test_latency_is_shown_where_there_was_a_budget(result) -> None:
    timed = result(latency=LatencyReport(before=2.0, predicted=1.1, measured=1.2, batch=1, threads=1, rounds=2))
    shown = " ".join(Page(html_report(timed, ORIGIN)).text)
    for part in (
        "Measured latency",
        "1.2 ms",
        "from 2 ms, predicted 1.1 ms",
        "60.0 % measured, 55.0 % predicted",
        "batch 1, 1 thread",
    ):
        assert part in shown
    assert "Measured latency" not in html_report(result(), ORIGIN)

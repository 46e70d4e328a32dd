"""How Python callers look at results: text, notebooks, reports, progress and the log."""

import contextlib
import html
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import onnxprune
from onnxprune.ops.examples import example
from onnxprune.report.progress import followed

ROWS = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
OPTIONS = onnxprune.PruneConfig(importance="magnitude", repair=False, round_to=1, time=False)


@pytest.fixture(scope="module")
def proto():
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return example(text, {"w1": (6, 32), "b1": (32,), "w2": (32, 3)})


@pytest.fixture(scope="module")
def result(proto) -> onnxprune.PruneResult:
    return onnxprune.prune(proto, ROWS, config=OPTIONS, targets="macs=0.5")


@pytest.fixture(scope="module")
def swept(proto) -> onnxprune.SweepResult:
    points = onnxprune.SweepConfig(points=3, highest=0.8, lowest=0.4, latency=False)
    return onnxprune.sweep(proto, ROWS, points=points, config=OPTIONS)


@pytest.mark.parametrize("width", [60, 100])
def test_a_summary_is_text_that_fits(result, swept, width: int) -> None:
    for each in (result, swept):
        lines = each.summary(width).splitlines()
        assert " ".join(lines).startswith(each.verdict)
        assert max(map(len, lines)) <= width
        assert all(line == line.rstrip() for line in lines)


def test_notebooks_see_the_verdict_and_two_charts(result, swept) -> None:
    for each in (result, swept):
        shown = each._repr_html_()
        assert each.verdict in shown
        assert "<script" not in shown
        style = re.search(r"<style>(.*?)</style>", shown, re.S)[1]
        selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")]
        assert len(selectors) > 10
        assert all(selector.startswith(".onnxprune") for selector in selectors)
    assert 'class="network"' in result._repr_html_()
    assert 'class="rows"' in result._repr_html_()
    assert swept._repr_html_().count('class="plot"') == 2


def test_reports_are_written_in_the_form_of_their_ending(result, swept, tmp_path: Path) -> None:
    for each, command in ((result, "prune"), (swept, "sweep")):
        assert each.report(tmp_path / "page.html").read_text().startswith("<!doctype html>")
        report = json.loads(each.report(str(tmp_path / "report.json")).read_text())
        assert (report["command"], report["verdict"]) == (command, each.verdict)
        with pytest.raises(onnxprune.InputError, match=r"ends in \.html or \.json"):
            each.report(tmp_path / "report.txt")


def test_a_report_is_not_written_over_what_was_read(proto, tmp_path: Path) -> None:
    (tmp_path / "model.html").write_bytes(proto.SerializeToString())
    made = onnxprune.prune(tmp_path / "model.html", ROWS, config=OPTIONS, targets="macs=0.5")
    with pytest.raises(onnxprune.InputError):
        made.report(tmp_path / "model.html")
    assert (tmp_path / "model.html").read_bytes() == proto.SerializeToString()


def test_a_sweep_is_gone_through_like_a_list(swept) -> None:
    assert [point.target for point in swept] == [point.target for point in swept.points]
    assert len(swept) == 3
    assert swept[-1] is swept.points[-1]
    rows = swept.to_dicts()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["target"] for row in rows] == ["macs=0.8", "macs=0.6", "macs=0.4"]
    assert [row["macs"] for row in rows] == [point.result.after.macs for point in swept]
    assert [n for n, row in enumerate(rows) if row["on_front"]] == list(swept.front("macs"))


def test_scripts_see_no_bars(proto, capfd) -> None:
    for progress in (None, True, False):
        onnxprune.prune(proto, ROWS, config=OPTIONS, targets="macs=0.9", progress=progress)
    assert "score" not in "".join(capfd.readouterr())


def test_a_prompt_on_a_terminal_sees_bars(monkeypatch, capfd) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    for progress, seen in ((None, True), (True, True), (False, False)):
        with followed(progress) as told:
            told("a stage", 1, 2)
        assert ("a stage" in "".join(capfd.readouterr())) == seen


class Cell:
    """The one output that a notebook's cell shows, as it changed."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Cell":
        assert (raw, display_id) == (True, True)
        assert not self.shown, "a second output"
        self.shown.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


@pytest.mark.parametrize("fails", [False, True])
def test_progress_leaves_nothing_in_a_notebook(monkeypatch, fails: bool) -> None:
    """A closed widget and an empty text stayed in every cell, in files too."""
    cell = Cell()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=cell.display))
    with contextlib.suppress(KeyError), followed(True) as told:
        told("load", 0, 0)
        told("score", 1, 4)
        told("score", 2, 4)  # too soon after the one before
        if fails:
            raise KeyError
    assert [data.get("text/plain", "").partition(",")[0] for data in cell.shown] == ["load", "score 1/4", ""]
    assert cell.shown[-1] == {}
    with followed(True):
        pass
    assert len(cell.shown) == 3


def test_results_are_not_called_as_their_original(proto, result) -> None:
    """`bench([model, result])` printed one name twice."""
    latencies = onnxprune.bench([proto, result], seconds=0, rounds=1, warmup=0, memory=False)
    assert [entry.model for entry in latencies] == ["model", "model (pruned: macs 50 %)"]
    found = onnxprune.validate(proto, result, ROWS, time=False)
    assert (found.original, found.other) == ("model", "model (pruned: macs 50 %)")
    assert result.source == "model"


def test_a_callback_is_told_of_every_stage(proto) -> None:
    steps = []
    onnxprune.prune(proto, ROWS, config=OPTIONS, targets="macs=0.9", progress=lambda *step: steps.append(step))
    began = [stage for stage, done, total in steps if (done, total) == (0, 0)]
    assert began[:2] == ["load", "analyse"]
    assert {stage for stage, done, total in steps if (done, total) == (1, 1)} >= set(began)


def test_heavy_losses_are_logged_as_warnings_and_notes_as_information(proto, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="onnxprune.result"):
        made = onnxprune.prune(proto, ROWS, config=OPTIONS, targets="macs=0.05", importance="activation")
    logged = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "onnxprune.result"]
    assert made.warnings
    assert made.notes
    wanted = [(logging.WARNING, text) for text in made.warnings] + [(logging.INFO, text) for text in made.notes]
    assert logged == wanted


class Shell:
    """What IPython offers to code in a cell."""

    def __init__(self) -> None:
        self.events, self.waiting = self, []

    def register(self, event: str, function) -> None:
        assert event == "post_run_cell"
        if function not in self.waiting:
            self.waiting.append(function)

    def unregister(self, event: str, function) -> None:
        self.waiting.remove(function)

    def end_of_cell(self) -> None:
        for function in self.waiting[:]:
            function(None)


@pytest.mark.parametrize("displayed", [True, False])
def test_a_cell_shows_a_warning_once(proto, monkeypatch, capsys, displayed: bool) -> None:
    """Heavy losses stood on stderr, and in the view of the result right below."""
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(logging.getLogger("onnxprune.result"), "propagate", False)  # pytest listens at the root
    made = onnxprune.prune(proto, ROWS, config=OPTIONS, targets="macs=0.1", progress=False)
    assert made.warnings
    if displayed:
        shown = made._repr_html_()
        assert all(html.escape(warning, quote=False) in shown for warning in made.warnings)
    assert capsys.readouterr().err == ""
    shell.end_of_cell()
    assert capsys.readouterr().err.splitlines() == ([] if displayed else list(made.warnings))
    assert shell.waiting == []


def test_a_summary_displays_nothing_by_itself(result, monkeypatch) -> None:
    """In notebooks an empty output stood above the text."""
    displayed = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *parts: displayed.append(parts))
    assert result.verdict in " ".join(result.summary().split())
    assert displayed == []

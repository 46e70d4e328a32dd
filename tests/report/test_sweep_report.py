import dataclasses
import io
import json
from pathlib import Path

import jsonschema
from rich.console import Console

from onnxprune.core.results import LatencyReport, MetricChange
from onnxprune.core.targets import Target
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.json_report import to_text
from onnxprune.report.provenance import provenance
from onnxprune.report.sweep_report import sweep_page, sweep_report, sweep_summary

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "report-schema.json").read_text())


def shown(swept: SweepResult, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(sweep_summary(swept))
    return console.file.getvalue()


def test_a_sweep_over_latency_fits_the_schema(result) -> None:
    made = result(latency=LatencyReport(before=2.0, predicted=1.1, measured=1.2, batch=1, threads=1, rounds=2))
    point = SweepPoint(Target("latency", 0.6), made, 1.2, {"macs": 0.5, "latency": 0.6}, 0.9)
    whole = SweepResult("m.onnx", "top1", 0.95, 2.0, (point,), {}, {"score": 1.0})
    report = json.loads(to_text(sweep_report(whole, [None])))
    jsonschema.validate(report, SCHEMA)
    assert report["points"][0]["latency"]["ratio"] == 0.6
    untimed = dataclasses.replace(whole, points=(dataclasses.replace(point, result=result()),))
    jsonschema.validate(json.loads(to_text(sweep_report(untimed, [None]))), SCHEMA)


def test_budgets_of_time_stay_on_one_line(result) -> None:
    """The title of a long metric left the first column six characters."""
    cost = {"macs": 0.86, "params": 0.86, "latency": 0.85}
    made = result(metrics={"agreement": MetricChange(1.0, 0.96)})
    points = tuple(SweepPoint(Target("latency", share), made, 0.103, cost, 0.96) for share in (0.9, 0.675))
    text = shown(SweepResult("m.onnx", "agreement", 1.0, 2.0, points, {}, {}), 110)
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["latency=0.9", "latency=0.675"]
    assert "…" not in text


def test_notes_name_the_budgets_that_they_are_about(result) -> None:
    """Notes of single points, such as those on trials, stood side by side as if they were about the same model."""
    notes = {0.9: ("all", "two"), 0.6: ("all",), 0.3: ("all", "two", "one")}
    points = tuple(
        SweepPoint(Target("macs", share), result(notes=own), None, {"macs": share}, 0.9) for share, own in notes.items()
    )
    report = sweep_report(SweepResult("m.onnx", "top1", 0.95, None, points, {}, {}), [None] * 3)
    assert report["notes"] == ["all", "macs=0.9, macs=0.3: two", "macs=0.3: one"]


def test_notes_that_differ_in_figures_become_one_line(result) -> None:
    """Every budget had its own note on trials, all in the same words."""
    notes = {
        0.9: ("of 6 trials the best lost 5e-06", "layer2/conv.1 stays"),
        0.6: ("of 3 trials the best lost 0.02", "class 4 is lost"),
        0.3: ("of 4 trials the best lost 0.001", "layer3/conv.1 stays, and class 3 is lost"),
    }
    points = tuple(
        SweepPoint(Target("macs", share), result(notes=own), None, {"macs": share}, 0.9) for share, own in notes.items()
    )
    report = sweep_report(SweepResult("m.onnx", "top1", 0.95, None, points, {}, {}), [None] * 3)
    told = ["of 3–6 trials the best lost 5e-06–0.02", "macs=0.9: layer2/conv.1 stays"]
    told += ["macs=0.6: class 4 is lost", "macs=0.3: layer3/conv.1 stays, and class 3 is lost"]
    assert report["notes"] == told


def test_warnings_are_shown_with_the_budgets_that_they_are_about(result) -> None:
    """A sweep was silent about losses that prune warns of."""
    told = {0.9: (), 0.3: ("heavy loss: accuracy falls",)}
    points = tuple(
        SweepPoint(Target("macs", share), result(warnings=own, notes=("a note",)), None, {"macs": share}, 0.9)
        for share, own in told.items()
    )
    swept = SweepResult("m.onnx", "top1", 0.95, None, points, {}, {})
    report = json.loads(to_text(sweep_report(swept, [None] * 2)))
    jsonschema.validate(report, SCHEMA)
    assert [point["warnings"] for point in report["points"]] == [[], ["heavy loss: accuracy falls"]]
    assert shown(swept).splitlines()[-1] == "WARNING: macs=0.3: heavy loss: accuracy falls"
    page = sweep_page(swept, provenance(["sweep"]))
    assert 0 < page.index("macs=0.3: heavy loss: accuracy falls") < page.index("a note")


def test_a_metric_that_is_no_share_is_shown_as_it_is(result) -> None:
    """A score of 489 was 48900.00 % in the charts and had fallen by 1100.00 points."""
    point = SweepPoint(Target("macs", 0.5), result(), None, {"macs": 0.5}, 489.0)
    swept = SweepResult("m.onnx", "score", 500.0, None, (point,), {}, {})
    page = sweep_page(swept, provenance(["sweep"]))
    assert "50.0 % of the MACs, 489<" in page
    assert "<span>500.9</span>" in page
    assert "00 %" not in page
    assert shown(swept).split()[-2:] == ["489", "-11"]


def test_times_have_a_column_where_there_are_any(result) -> None:
    """With --no-time a column of dashes stood there."""
    cost = {"macs": 0.5}
    for time, wanted in ((None, False), (1.2, True)):
        point = SweepPoint(Target("macs", 0.5), result(), time, cost, 0.9)
        swept = SweepResult("m.onnx", "top1", 0.95, time, (point,), {}, {})
        assert ("latency" in shown(swept)) == wanted
        assert (">latency</th>" in sweep_page(swept, provenance(["sweep"]))) == wanted

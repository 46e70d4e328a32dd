import dataclasses

from onnxprune.core.costs import Costs
from onnxprune.core.results import MetricChange, RowUse, TimeReport
from onnxprune.core.targets import Target
from onnxprune.evaluation.warnings import slow_result
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.html_report import html_report
from onnxprune.report.json_report import prune_report
from onnxprune.report.notebook import result_view
from onnxprune.report.provenance import Provenance
from onnxprune.report.sweep_report import sweep_report
from onnxprune.report.terminal import as_text, prune_summary
from onnxprune.report.verdict import Judged, sweep_verdict, verdict

BEFORE, AFTER = Costs(params=100, macs=100, bytes=400), Costs(params=39, macs=40, bytes=156)
TOP1 = {"top1": MetricChange(0.990, 0.986, rules=True)}


def time(ratio: float, low: float | None = None, high: float | None = None) -> TimeReport:
    return TimeReport(ratio, low or ratio, high or ratio, 1.0, ratio, 9, 1, 1)


def test_a_verdict_is_time_quality_and_size() -> None:
    told = verdict(BEFORE, AFTER, TOP1, time(0.47))
    assert told == "2.1 times faster, 0.4 points less top-1 accuracy, 61 % smaller"


def test_without_time_multiply_adds_count() -> None:
    error = {"relative_error": MetricChange(0.0, 0.06)}
    assert verdict(BEFORE, AFTER, error, None) == "60 % fewer multiply-adds, outputs 6.0 % off, 61 % smaller"


def test_small_gains_and_losses_are_no_times() -> None:
    for ratio, words in (
        (0.8, "20 % less time"),
        (1.0, "About as fast"),
        (1.2, "20 % more time"),
        (2, "2.0 times slower"),
    ):
        assert verdict(BEFORE, AFTER, {}, time(ratio)).startswith(words)


def test_a_time_that_jumps_about_is_no_gain(result) -> None:
    """One of 10.9 % to 608 % of the original's, on a busy machine, was announced as 5.4 times faster."""
    told = verdict(BEFORE, AFTER, {}, time(0.185, 0.109, 6.08))
    assert told.startswith("60 % fewer multiply-adds (too noisy here to time)")
    assert "too noisy to tell" in html_report(result(time=time(0.185, 0.109, 6.08)), Provenance())
    assert "too noisy to tell" not in html_report(result(time=time(0.5)), Provenance())


def test_a_gain_that_may_be_none_is_no_gain() -> None:
    assert verdict(BEFORE, AFTER, {}, time(0.92, 0.84, 1.01)).startswith("60 % fewer multiply-adds (too noisy")
    assert verdict(BEFORE, AFTER, {}, time(0.56, 0.52, 0.62)).startswith("1.8 times faster")
    assert slow_result(time(1.08, 0.98, 1.15)) == ()


def test_less_than_a_hundredth_of_the_time_is_no_change(result) -> None:
    """A model from which nothing was removed was shown in green as 0.8 % faster."""
    for ratio, told in ((0.992, False), (1.004, False), (0.98, True), (1.05, True)):
        tile = html_report(result(time=time(ratio)), Provenance()).split("Time a run")[1].split("MACs")[0]
        assert ("unchanged" not in tile) == told


def test_a_time_that_jumps_about_is_no_warning() -> None:
    """One of 0.17 to 8.32 times the original's was said to be about as long."""
    assert slow_result(time(0.98, 0.17, 8.32)) == ()
    assert "about as long" in slow_result(time(0.98, 0.9, 1.1))[0]


def test_full_agreement_is_said_in_plain_words() -> None:
    same = {"agreement": MetricChange(1.0, 1.0, rules=True)}
    assert "the same answers as the original" in verdict(BEFORE, AFTER, same, None)


def test_a_verdict_by_few_rows_says_so() -> None:
    """ "The same answers as the original" was measured on one calibration row; on the test set 31 points were lost."""
    same, lost = {"agreement": MetricChange(1.0, 1.0, rules=True)}, {"top1": MetricChange(0.9, 0.8, rules=True)}
    for metrics, rows, words in (
        (same, 1, ", accuracy hardly measured (the same answers as the original on 1 row), "),
        (lost, 19, ", accuracy hardly measured (10 points less top-1 accuracy on 19 rows), "),
        (same, 60, ", the same answers as the original on 60 rows, "),
        (lost, 199, ", 10 points less top-1 accuracy on 199 rows, "),
        (lost, 200, ", 10 points less top-1 accuracy, "),
    ):
        assert words in verdict(BEFORE, AFTER, metrics, None, Judged(rows))


def test_a_verdict_without_rows_says_that_nothing_was_measured(result) -> None:
    """ "19 % less time, 10 % smaller" stood above a model that had lost 78 points."""
    assert ", accuracy not measured, " in verdict(BEFORE, AFTER, {}, None)
    assert "measured" not in verdict(BEFORE, AFTER, {}, None, Judged(exact=True))
    bare = dataclasses.replace(swept(result, {0.5: 0.95}), metric=None)
    point = dataclasses.replace(bare.points[0], result=result(metrics={}), quality=None)
    assert "accuracy not measured" in sweep_verdict(dataclasses.replace(bare, points=(point,)))


def test_made_up_rows_measure_no_accuracy() -> None:
    same = {"agreement": MetricChange(1.0, 1.0, rules=True)}
    told = verdict(BEFORE, AFTER, same, None, Judged(400, made_up=True))
    assert ", accuracy not measured (the same answers as the original on 400 made-up rows), " in told


def test_every_view_has_the_number_of_rows(result) -> None:
    few = result(rows=RowUse(4, 4, 4, 4, "fitted"))
    told = "accuracy hardly measured (outputs 12.5 % off on 4 rows)"
    views = (
        html_report(few, Provenance()),
        result_view(few),
        as_text(prune_summary(few), 500),
        prune_report(few)["verdict"],
    )
    assert all(told in view.replace("\xa0", " ") for view in views)


def test_few_rows_earn_no_praise(result) -> None:
    """A page showed what was measured on one row in green."""
    same = {"agreement": MetricChange(1.0, 1.0, rules=True)}
    for rows, kind in ((4, "calm"), (400, "good")):
        page = html_report(result(metrics=same, rows=RowUse(rows, rows, rows, rows, "fitted")), Provenance())
        tile = page.split("Agreement with the original")[1].split("</div>")[0]
        assert f"badge {kind}" in tile


def test_the_same_labels_are_told_in_plain_words() -> None:
    """It said "the same equal labels"."""
    for name, words in (
        ("same_labels", ", the same labels as the original, "),
        ("found_again", ", the same detections as the original, "),
        ("agreement[tags]", ", the same answers as the original in tags, "),
    ):
        assert words in verdict(BEFORE, AFTER, {name: MetricChange(1.0, 1.0, rules=True)}, None)


def test_gains_and_equals_are_told_as_such() -> None:
    for after, words in (
        (0.99, "the same top-1"),
        (0.9925, "0.25 points more top-1"),
        (0.9, "9 points less top-1"),
        (1 - 1e-10, "1 point more top-1"),
    ):
        assert words in verdict(BEFORE, AFTER, {"top1": MetricChange(0.99, after, rules=True)}, None)
    assert "the same score" in verdict(BEFORE, AFTER, {"score": MetricChange(500, 500, rules=True)}, None)
    assert "score 489 instead of 500" in verdict(BEFORE, AFTER, {"score": MetricChange(500, 489, rules=True)}, None)
    assert "not known" in verdict(BEFORE, AFTER, {"top1": MetricChange(0.99, float("nan"), rules=True)}, None)


def test_points_and_detections_are_counted_in_plain_english() -> None:
    """It said "1 points less" and "4 points less detections found again"."""
    assert ", 1 point less top-1" in verdict(BEFORE, AFTER, {"top1": MetricChange(0.99, 0.98, rules=True)}, None)
    found = {"found_again": MetricChange(1.0, 0.96, rules=True)}
    assert ", 4 points fewer detections found again" in verdict(BEFORE, AFTER, found, None)


def test_nothing_removed() -> None:
    assert verdict(BEFORE, BEFORE, TOP1, time(1.0)) == "Nothing was removed"


def test_a_report_begins_with_its_verdict(result) -> None:
    assert prune_report(result())["verdict"] == "50 % fewer multiply-adds, outputs 12.5 % off, 40 % smaller"


def swept(result, points: dict[float, float], **cost: float) -> SweepResult:
    made = [
        SweepPoint(
            Target("macs", share), result(), None, {"macs": share, **{k: v * share for k, v in cost.items()}}, own
        )
        for share, own in points.items()
    ]
    return SweepResult("m.onnx", "top1", 0.95, None, tuple(made), {}, {})


def test_a_sweep_names_the_cheapest_that_loses_at_most_a_point(result) -> None:
    told = sweep_verdict(swept(result, {0.9: 0.95, 0.5: 0.942, 0.3: 0.8}))
    assert told.startswith("macs=0.5 is the cheapest that loses at most 1 point: 50 % fewer multiply-adds, 0.8 points")
    timed = sweep_verdict(swept(result, {0.9: 0.95, 0.5: 0.942}, latency=1.0))
    assert timed.startswith("macs=0.5 is the fastest that loses at most 1 point: 2.0 times faster")


def test_a_sweep_in_which_nothing_is_faster_says_so(result) -> None:
    """ "The fastest" took more time than the original."""
    told = sweep_verdict(swept(result, {0.9: 0.95, 0.5: 0.8}, latency=1.3))
    assert told.startswith("No model that loses at most 1 point is faster; macs=0.9 comes closest: 17 % more time")


def test_noisy_times_have_no_say_in_a_sweep(result) -> None:
    """A busy machine made "the fastest" of a model that took more time than the original."""
    noisy = dataclasses.replace(swept(result, {0.9: 0.95, 0.5: 0.942}, latency=3.0), is_noisy=True)
    told = sweep_verdict(noisy)
    assert told.startswith("macs=0.5 is the cheapest that loses at most 1 point: 50 % fewer multiply-adds (too noisy")
    assert "faster" not in told
    assert any("from run to run" in note for note in sweep_report(noisy, [None] * 2)["notes"])


def test_a_sweep_that_always_loses_says_so(result) -> None:
    told = sweep_verdict(swept(result, {0.9: 0.9, 0.5: 0.6}))
    assert told.startswith("Every model loses more than 1 point; macs=0.9 loses least: ")

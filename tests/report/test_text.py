import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.results import MetricChange, NotPruned
from onnxprune.core.text import main_metric, several
from onnxprune.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (1234567, "1.23 M"),
        (12345678, "12.3 M"),
        (123456789, "123 M"),
        (999_999, "1.00 M"),
        (999_499, "999 k"),
        (4.1e9, "4.10 G"),
    ],
)
def test_count(value: int, shown: str) -> None:
    assert text.count(value) == shown


def test_size() -> None:
    assert (text.size(512), text.size(2_400_000)) == ("512 B", "2.40 MB")


@given(st.integers(0, 10**15))
def test_count_is_within_half_a_per_cent_and_short(value: int) -> None:
    shown = text.count(value)
    digits, _, unit = shown.partition(" ")
    scale = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[unit]
    assert math.isclose(float(digits) * scale, value, rel_tol=0.006)
    assert len(shown) <= 6


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0123, "12 ms"), (1.25, "1.2 s"), (75, "1 min 15 s"), (3720, "1 h 2 min"), (59.99, "60.0 s")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_metrics_in_their_units() -> None:
    assert text.metric_value("top1", 0.9341) == "93.41 %"
    assert text.metric_change("top1", MetricChange(0.9341, 0.9263)) == "-0.78 points"
    assert text.metric_change("relative_error", MetricChange(0, 0.125)) == "+12.50 %"
    assert text.metric_change("latency_ms", MetricChange(2.5, 1.5)) == "-1"
    assert text.metric_value("top1", math.nan) == text.metric_change("x", MetricChange(0, math.inf)) == "–"


def test_main_metric_is_the_one_that_may_rule_and_falls_most() -> None:
    change = MetricChange(1, 1)
    top1, kept, gone = (MetricChange(1, after, rules=True) for after in (0.9, 0.7, float("nan")))
    assert main_metric({"relative_error": change, "agreement": change, "top1": top1}) == "top1"
    assert main_metric({"relative_error": change, "cosine[a]": top1, "cosine[b]": kept}) == "cosine[b]"
    assert main_metric({"cosine[a]": gone, "cosine[b]": kept}) == "cosine[a]"
    assert main_metric({"relative_error": change}) is None


def test_obstacles_are_grouped_by_reason_largest_first() -> None:
    found = text.obstacles(
        [NotPruned("y", "an output", ""), NotPruned("a", "mixed", "n1"), NotPruned("b", "mixed", "n1")]
    )
    assert found == (text.Obstacle("mixed", ("n1",), ("a", "b")), text.Obstacle("an output", (), ("y",)))


def test_asked_for() -> None:
    settings = {"targets": [{"kind": "macs", "value": 0.5, "layers": None}], "max_drop": 1.0, "threshold": "mean"}
    assert text.asked_for(settings) == ("macs=0.5", "at most 1 point lost", "threshold mean")
    assert text.asked_for({}) == ()


def test_some() -> None:
    assert text.some("abcde", 2) == "a, b and 3 more"
    assert text.some("ab", 2) == "a, b"


def test_several() -> None:
    assert [several(n, "group") for n in (0, 1, 2)] == ["0 groups", "1 group", "2 groups"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(9_994_999_999, "9.99 G"), (9_995_000_001, "10.0 G"), (99_960_000_000, "100 G"), (999_999, "1.00 M")],
)
def test_rounding_up_adds_no_digit(value: int, shown: str) -> None:
    assert text.count(value) == shown

from onnxprune.core.targets import Target
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.pareto import chart, dots
from onnxprune.report.provenance import Provenance
from onnxprune.report.sweep_report import sweep_page, sweep_report


def sweep_of(result, points: dict[float, tuple[float, float]], quality: float = 0.95) -> SweepResult:
    """Points by budget: share of the time, and quality."""
    made = (
        SweepPoint(Target("macs", share), result(), time, {"macs": share, "latency": time}, own)
        for share, (time, own) in points.items()
    )
    return SweepResult("m.onnx", "top1", quality, 1.0, tuple(made), {}, {})


def test_the_front_leaves_out_what_the_original_beats(result) -> None:
    """The line ran through a point that was slower and worse than the original."""
    swept = sweep_of(result, {0.9: (1.02, 0.94), 0.5: (0.6, 0.93), 0.4: (0.7, 0.92)})
    assert [(dot.label, dot.on_front) for dot in dots(swept, "latency")] == [
        ("50 %", True),
        ("40 %", False),
        ("original", True),
        ("90 %", False),
    ]
    assert swept.front("latency") == (1,)
    assert sweep_report(swept, [None] * 3)["points"][0]["front"] == ["macs"]


def test_an_original_that_is_beaten_is_not_on_the_line(result) -> None:
    found = dots(sweep_of(result, {0.5: (0.6, 0.96)}), "latency")
    assert [(dot.label, dot.on_front) for dot in found] == [("50 %", True), ("original", False)]


def test_beaten_points_are_grey_and_labelled(result) -> None:
    drawn = chart(sweep_of(result, {0.9: (1.02, 0.90), 0.5: (0.6, 0.93)}), "latency")
    assert drawn.count('class="dot beaten"') == 1
    assert drawn.count('class="dot"') == 2
    for label in ("90 %", "50 %", "original"):
        assert f">{label}</span>" in drawn


def test_time_and_macs_stand_side_by_side(result) -> None:
    page = sweep_page(sweep_of(result, {0.9: (0.9, 0.94), 0.5: (0.6, 0.93)}), Provenance())
    first, second = page.index("Time left"), page.index("MACs left")
    assert page.index('class="charts"') < first < second

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnxprune.core.results import LayerCost
from onnxprune.core.targets import Target
from onnxprune.core.text import shortened
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.inspection import inspection
from onnxprune.report.listing import Listing, apart
from onnxprune.report.sweep_report import sweep_summary
from onnxprune.report.terminal import inspect_summary, prune_summary
from onnxprune.structure.coupling import analyse

LONG = "/encoder/layers.{n}/self_attention/query_projection/MatMul_{n}"


def shown(what, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 110])
def test_no_name_is_lost_and_none_runs_over(result, width: int) -> None:
    """At 60 columns the tables ended names with three dots and lost what told them apart."""
    layers = tuple(LayerCost(LONG.format(n=n), "MatMul", 900, 400, 8, 2, 8, 2) for n in range(5))
    lines = shown(prune_summary(result(layers=layers)), width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith(("/enc", "/en"))]
    assert len(rows) == 5
    for n, row in enumerate(rows):
        name = row.split()[0]
        assert name == shortened(LONG.format(n=n), len(name))
        assert name.endswith(f"_{n}")


@pytest.mark.parametrize("width", [40, 60])
def test_sweeps_and_inspections_fit_too(result, width: int) -> None:
    points = tuple(SweepPoint(Target("macs", n / 8), result(), 1.2, {"macs": n / 8, "latency": 1}, 0.9) for n in (7, 3))
    swept = SweepResult("m.onnx", "agreement", 0.95, 2.0, points, {}, {})
    text = "g (float[N,4] x) => (float[N,3] y) { a = Gemm (x, w1, b1) r = Relu (a) y = Gemm (r, w2) }"
    proto = example(text, {"w1": (4, 6), "b1": (6,), "w2": (6, 3)})
    proto.graph.node[0].name = LONG.format(n=1)
    inspected = inspection(analyse(load(proto)))
    for lines in (shown(sweep_summary(swept), width), shown(inspect_summary(inspected), width)):
        assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in shown(sweep_summary(swept), width) if line.startswith("macs=0.")][-2:] == [
        "macs=0.875",
        "macs=0.375",
    ]
    assert sum(line.startswith("/enc") and "_1" in line for line in shown(inspect_summary(inspected), width)) == 2


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])), st.integers(1, 30))
def test_a_shortened_text_keeps_both_ends(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= max(most, len(text) if len(text) <= most else most)
    if len(text) > most > 2:
        head, _, tail = short.partition("…")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert 0 <= len(head) - len(tail) <= 1


def test_what_is_spare_goes_first_and_figures_stay_whole() -> None:
    made = Listing("layer", "kept", "share", "MACs before", spare=(2,))
    made.add_row("a_rather_long_name_of_a_layer", "112/256", "12.5 %", "1.05 M")
    assert "12.5 %" in "".join(shown(made, 80))
    narrow = "\n".join(shown(made, 36))
    assert "12.5" not in narrow
    assert "112/256" in narrow
    assert "1.05 M" in narrow
    assert "a_rather…_a_layer" in narrow


def test_names_that_differ_in_the_middle_stay_apart(result) -> None:
    """At 60 columns all layers of an encoder were called /t/lay…MatMul."""
    ends = ("self_attn/MatMul", "self_attn/Gemm", "linear1/MatMul", "linear2/MatMul")
    names = [f"/t/layers.{n}/{end}" for n in range(2) for end in ends]
    layers = tuple(LayerCost(name, "MatMul", 900, 400, 8, 2, 8, 2) for name in names)
    for width in (40, 60):
        lines = shown(prune_summary(result(layers=layers)), width)
        rows = [line.split()[0] for line in lines if "self_att" in line or "/linear" in line]
        assert max(map(len, lines)) <= width
        assert len(set(rows)) == len(names), width


@given(st.lists(st.text("abc/…", max_size=40), max_size=8), st.integers(2, 20))
def test_shortened_names_fit_and_are_parts_of_their_names(names: list[str], room: int) -> None:
    for name, short in apart(names, room).items():
        assert len(short) <= room
        assert short == name or len(name) > room
        assert short == name or all(part in name for part in short.split("…"))

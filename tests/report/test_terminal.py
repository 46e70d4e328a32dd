import dataclasses
import io
import math
import re
from types import SimpleNamespace

import numpy as np
import onnx
from rich.console import Console, RenderableType

import onnxprune
from onnxprune.core.results import GroupResult, LayerCost, NotPruned, ProgramReport
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.evaluation.comparison import Comparison
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.report.html_report import html_report
from onnxprune.report.inspection import inspection
from onnxprune.report.provenance import Provenance
from onnxprune.report.terminal import (
    bar,
    finetune_summary,
    inspect_summary,
    prune_summary,
    score_summary,
    validate_summary,
)
from onnxprune.structure.coupling import analyse
from onnxprune.training.result import Epoch

TRAINED = {"warnings": (), "loss": "distillation", "seconds": 2.0, "device": "cpu", "provider": "cpu"}


def shown(what: RenderableType, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return console.file.getvalue()


def test_prune_summary_says_what_a_person_asks_first(result) -> None:
    text = shown(prune_summary(result()))
    for part in (
        *("MACs", "2.00 M", "1.00 M", "50.0 % left", "top-1 accuracy", "93.40 %", "92.60 %", "-0.80 points"),
        *("6 of 48 channels removed in 3 groups", "layer3/Conv", "13/16"),
        *("Softmax normalises across these channels", "softmax1, softmax2", "optimal, gap 0.10 %"),
        "13.5 s (score 12.0 s · allocate 1.5 s)",
    ):
        assert part in text, part


def test_summary_is_short(result) -> None:
    text = shown(prune_summary(result(groups=200)))
    assert len(text.splitlines()) < 40
    assert "more layers" in text


def test_a_layer_stands_beside_its_own_figures(result) -> None:
    """A group's name stood beside the multiply-adds of the layers that read it."""
    group = GroupResult("a", 8, 2, ("a",), ("b",), macs_before=900, macs_after=225)
    layers = (LayerCost("a", "Conv", 400, 100, 8, 2, 8, 2), LayerCost("b", "Conv", 900, 225, 8, 2))
    text = shown(prune_summary(dataclasses.replace(result(), groups=(group,), layers=layers)))
    rows = [line.split() for line in text.splitlines() if line.startswith(("a ", "b "))]
    assert [row[:4] for row in rows] == [["b", "all", "900", "225"], ["a", "2/8", "400", "100"]]


DEPTHWISE = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    h = Conv (x, w1) d = Conv <group=16> (h, w2) r = Relu (d) y = Conv (r, w3) }"""
DEPTHWISE_WEIGHTS = {"w1": (16, 3, 1, 1), "w2": (16, 1, 1, 1), "w3": (4, 16, 1, 1)}


def test_a_depthwise_layer_loses_the_channels_that_it_reads() -> None:
    """It was said to have kept all of them, and its input stood in `inspect` as one that stays."""
    proto = example(DEPTHWISE, DEPTHWISE_WEIGHTS)
    for node, name in zip(proto.graph.node, ("conv", "depthwise", "relu", "last"), strict=True):
        node.name = name
    made = onnxprune.prune(
        *(proto,), targets="macs=0.5", importance="magnitude", repair=False, time=False, round_to=1, threads=1
    )
    left = made.after.macs * 16 // made.before.macs
    rows = {row.split()[0]: row.split()[1] for row in shown(prune_summary(made)).splitlines() if "/" in row}
    assert rows["depthwise"] == rows["conv"] == f"{left}/16"
    page = html_report(made, Provenance(command="onnxprune prune", files={}))
    assert re.search(rf'{left} of 16</div><div class="name mono" title="depthwise">', page)
    text = shown(inspect_summary(inspection(onnxprune.analyze(proto))))
    line = next(line for line in text.splitlines() if line.startswith("depthwise"))
    assert line.split()[2:4] == ["16*", "16*"]


def test_notes_are_shown(result) -> None:
    assert "note: measured on noise" in shown(prune_summary(result(notes=("measured on noise",))))


def test_names_with_brackets_are_shown_as_they_are(result) -> None:
    name = "model[0]/[red]conv[/red]"
    group = dataclasses.replace(result().groups[0], name=name)
    layer = dataclasses.replace(result().layers[0], node=name)
    strange = dataclasses.replace(
        result(),
        groups=(group,),
        layers=(layer,),
        not_pruned=(NotPruned("t", f"{name} is fixed", name),),
        notes=(name,),
    )
    text = shown(prune_summary(strange), width=200)
    assert text.count(name) == 4


def test_summary_where_nothing_went(result) -> None:
    text = shown(prune_summary(result(groups=0, not_pruned=(), program=ProgramReport("none"), timings={})))
    assert "0 of 0 channels removed" in text
    assert "none was needed" in text


def test_bar() -> None:
    assert [bar(share, 4).plain for share in (0, 0.5, 1, 7, -1)] == ["····", "██··", "████", "████", "····"]
    assert bar(0.45, 4).plain == "█▊··"


def test_validate_summary(result) -> None:
    whole = result()
    found = Comparison("a.onnx", "b.onnx", whole.before, whole.after, whole.metrics, 12, "random", ("random rows",))
    text = shown(validate_summary(found))
    assert "note: random rows" in text
    assert "12 rows; before: a.onnx, after: b.onnx" in text
    assert "12.50 %" in text


def test_score_summary() -> None:
    group = GroupScore("g[1]", np.array([1, 0, 2]), np.array([0.5, 0.25, 1.0]), np.zeros(4))
    text = shown(score_summary(Scores((group,), ProgramReport("limit", 1.0, 0.5, 0.5, 2)), "oamip"))
    assert "g[1]" in text
    assert "0.250    0.500     1.000" in text
    assert "limit, gap 50.00 %" in text


def _two_layers() -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(
        "g (float[N,4] x) => (float[N,3] y) { a = Gemm (x, w1, b1) r = Relu (a) h = Gemm (r, w2) y = Softmax (h) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (4, 6), "b1": (6,), "w2": (6, 3)}.items():
        graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def test_inspection() -> None:
    model = load(_two_layers())
    found = inspection(analyse(model))
    assert [(x.op_type, x.inputs, x.outputs, x.macs, x.params) for x in found.layers] == [
        ("Gemm", 4, 6, 24, 30),
        ("Gemm", 6, 3, 18, 18),
    ]
    assert [(x.inputs_prunable, x.outputs_prunable) for x in found.layers] == [(False, True), (True, False)]
    assert (found.prunable, found.units) == (6, 9)
    assert (found.costs.macs, found.floor.macs) == (42, 4 + 3)
    text = shown(inspect_summary(found))
    assert "6 of 9 channels (66.7 %) can be pruned, in 1 group" in text
    assert "Softmax" in text
    assert "6*" in text  # without colours too it is seen which widths may shrink
    assert "4*" not in text


def test_a_training_without_a_better_epoch_says_so() -> None:
    """It said that epoch 0 was the best, and that 0.5 became 0.5."""
    history = (Epoch(0, math.nan, 0.5, math.nan, 0.0, 1.0), Epoch(1, 0.4, 0.6, 0.9, 0.1, 1.0))
    for best, told in ((0, "no epoch was better than the model as it came"), (1, "epoch 1 is the best")):
        assert told in shown(finetune_summary(SimpleNamespace(**{**TRAINED, "history": history, "best": best})))

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.allocation.costs import CostModel
from onnxprune.allocation.keep import kept_groups
from onnxprune.allocation.plan import plan_mask
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.split import split_rows
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.text import visible
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.ops.examples import example
from onnxprune.structure.costs import count_costs

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return example(
        """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Add (c, r)
        t = Relu (s)
        p = GlobalAveragePool (t)
        f = Flatten (p)
        h = Gemm (f, w3, b3)
        g1 = Relu (h)
        y = Gemm (g1, w4, b4) }""",
        {
            "w1": (12, 3, 3, 3),
            "b1": (12,),
            "w2": (12, 12, 3, 3),
            "b2": (12,),
            "w3": (12, 16),
            "b3": (16,),
            "w4": (16, 5),
            "b4": (5,),
        },
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("importance", ["magnitude", "magnitude-l1", "activation", "random"])
@pytest.mark.parametrize("target", ["macs=0.5", "params=0.6", "bytes=3kB"])
def test_result_meets_its_target_by_recount(network, images, importance, target):
    result = onnxprune.prune(network, images, targets=target, importance=importance, repair=False)
    recount = count_costs(load(to_proto(result.model)))
    assert result.after == recount
    kind, value = target.split("=")
    limit = 3000 if kind == "bytes" else float(value) * getattr(result.before, kind)
    assert getattr(recount, kind) <= limit
    assert getattr(recount, kind) > 0.5 * limit


@pytest.mark.parametrize(("sizes", "rows"), [("N,3,H,W", 1), ("4,3,12,12", 4), ("N,3,H,12", 1)])
def test_costs_before_and_after_are_of_the_same_input_sizes(sizes, rows):
    """Sizes that the file left open were the data's before and guessed ones after: the result seemed to cost more."""
    proto = example(
        f"""g (float[{sizes}] x) => (float[A,4] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm (f, w2, b2) }}""",
        {"w1": (12, 3, 3, 3), "b1": (12,), "w2": (12, 4), "b2": (4,)},
    )
    data = np.random.default_rng(0).standard_normal((16 * rows, 3, 12, 12)).astype(np.float32)
    result = onnxprune.prune(proto, data, targets="macs=0.5", importance="magnitude", repair=False)
    assert result.before.macs == 12 * 144 * 27 + 12 * 4
    assert result.after.macs == 6 * 144 * 27 + 6 * 4 == sum(layer.macs_after for layer in result.layers)


def test_input_is_never_changed(network, images):
    before = network.SerializeToString(deterministic=True)
    onnxprune.prune(network, images, targets="macs=0.5", importance="magnitude", repair=False)
    assert network.SerializeToString(deterministic=True) == before


def test_same_seed_same_bytes(network, images):
    first, second = (
        onnxprune.prune(network, images, targets="macs=0.5", importance="random", seed=3, repair=False).proto
        for _ in range(2)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_other_seed_other_choice(network, images):
    plans = {
        str(
            onnxprune.prune(network, images, targets="macs=0.5", importance="random", seed=s, repair=False).plan.removed
        )
        for s in range(4)
    }
    assert len(plans) > 1


def test_plan_reproduces_its_result(network, images):
    first = onnxprune.prune(network, images, targets="macs=0.5", importance="magnitude", repair=False)
    plan = PrunePlan.from_json(first.plan.to_json())
    again = onnxprune.prune(network, images, plan=plan, repair=False)
    assert again.after == first.after
    assert again.proto.SerializeToString(deterministic=True) == first.proto.SerializeToString(deterministic=True)


def test_plan_of_another_graph_is_refused(network):
    analysis = onnxprune.analyze(network)
    other = PrunePlan(units={"elsewhere": 4}, removed={"elsewhere": (0,)})
    with pytest.raises(InputError, match="another graph"):
        plan_mask(analysis, other)


def test_plan_that_removes_a_whole_group_is_refused(network):
    analysis = onnxprune.analyze(network)
    units = {group.name: len(group) for group in analysis.groups}
    name = next(iter(units))
    with pytest.raises(InputError, match="all of them"):
        plan_mask(analysis, PrunePlan(units=units, removed={name: tuple(range(units[name]))}))


def test_budget_below_what_can_be_reached_names_the_least(network, images):
    with pytest.raises(BudgetError, match=r"a share is written with its sign \(macs=50%\)"):
        onnxprune.prune(MODELS / "lenet5_mnist.onnx", targets="macs=50", importance="magnitude")
    with pytest.raises(BudgetError, match="cannot go below"):
        onnxprune.prune(network, images, targets="macs=10", importance="magnitude", repair=False)


def test_no_budget_at_all_is_refused(network, images):
    with pytest.raises(InputError, match="targets="):
        onnxprune.prune(network, images, importance="magnitude", repair=False)


def test_scorer_without_data_is_refused(network):
    with pytest.raises(InputError, match="give data"):
        onnxprune.prune(network, targets="macs=0.5", importance="activation")


def test_threshold_removes_exactly_the_scores_below_it(network, images):
    result = onnxprune.prune(network, images, threshold="0.5", importance="random", repair=False)
    for group in result.groups:
        below = sum(score < 0.5 for score in group.scores)
        assert group.kept == max(1, group.units - below)


def test_mean_threshold_keeps_the_upper_part_of_each_group(network, images):
    result = onnxprune.prune(network, images, threshold="mean", importance="magnitude", repair=False)
    for group in result.groups:
        mean = sum(group.scores) / len(group.scores)
        assert group.kept == sum(score >= mean for score in group.scores)


@pytest.mark.parametrize(
    ("option", "value"), [("round_to", 0), ("round_to", "wide"), ("seed", -1), ("images", 0), ("importance", "best")]
)
def test_values_that_are_not_allowed_are_refused_in_python_too(network, images, option, value):
    """Only the command line checked them: NumPy's and the program's own errors came out, or the value did nothing."""
    with pytest.raises(InputError, match=f"^{option}: "):
        onnxprune.prune(network, images, targets="macs=0.5", **{option: value})


def test_keep_may_be_one_text(network, images):
    """Its letters were taken for patterns, and nearly every group was kept."""
    options = {"targets": "macs=0.8", "importance": "magnitude", "repair": False}
    name = onnxprune.analyze(network).groups[-1].name
    as_text, in_tuple = (onnxprune.prune(network, images, keep=keep, **options) for keep in (name, (name,)))
    assert as_text.plan == in_tuple.plan


def test_a_pattern_that_keeps_nothing_is_refused(network, images):
    """With a typing error the groups that were to stay were pruned, with no more than a note."""
    analysis = onnxprune.analyze(network)
    name = analysis.groups[-1].name
    stages = []

    def progress(stage, *_):
        stages.append(stage)

    with pytest.raises(InputError, match=f"keep='{name}x{name}' matches nothing in .*; did you mean.* '{name}'"):
        onnxprune.prune(network, images, targets="macs=0.9", keep=(name, f"{name}x{name}"), progress=progress)
    assert set(stages) <= {"load", "analyse"}
    with pytest.raises(InputError, match=r"`onnxprune\.analyze` lists the names"):
        onnxprune.prune(network, images, targets="macs=0.9", keep="zzzzzzzzzzzzzzz")
    with pytest.raises(InputError, match="is no regular expression"):
        onnxprune.prune(network, images, targets="macs=0.9", keep="re:(")


def test_a_pattern_for_what_stays_anyway_is_a_note(network, images):
    last = onnxprune.analyze(network).layers[-1].node
    result = onnxprune.prune(network, images, targets="macs=0.9", importance="magnitude", keep=(f"re:^{last}$",))
    assert f"keep='re:^{last}$' matches only what cannot be pruned anyway" in result.notes


def test_a_layer_that_carries_channels_of_another_keeps_them():
    """A depthwise convolution named by --keep was said to be unprunable, and lost channels."""
    proto = example(
        """g (float[N,3,8,8] x) => (float[N,2,8,8] y) {
        [first] h = Conv (x, w1)
        [relu] r = Relu (h)
        [depthwise] d = Conv <group = 8, pads = [1, 1, 1, 1]> (r, w2)
        [second] e = Conv (d, w3)
        [third] f = Conv (e, w4)
        [last] y = Conv (f, w5) }""",
        {"w1": (8, 3, 1, 1), "w2": (8, 1, 3, 3), "w3": (6, 8, 1, 1), "w4": (6, 6, 1, 1), "w5": (2, 6, 1, 1)},
    )
    analysis = onnxprune.analyze(proto)
    for pattern, kept in {"depthwise": {"first"}, "relu": {"first"}, "second": {"second"}, "last": set()}.items():
        assert kept_groups(analysis, (pattern,)) == kept
    found = onnxprune.prune(proto, targets="macs=0.6", importance="magnitude", keep="depthwise")
    assert {group.name: group.kept for group in found.groups}["first"] == 8
    assert not any("keep" in note for note in found.notes)


ODD_NAMES = ("net[0].conv", "net0aconv", "net[0].conv2", "(", "a*", "\\d", "^$", "\x1b[2J", "x" * 3000)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_as_inspect_prints_it_keeps_its_group_alone(name):
    """Names with brackets and dots were taken for regular expressions, and the layer was pruned."""
    text = "".join(f"h{n} = Gemm (h{n - 1}, w{n})" for n in range(1, len(ODD_NAMES) + 2)).replace("h0", "x")
    last = len(ODD_NAMES) + 1
    weights = {f"w{n}": (8, 8) for n in range(1, last + 1)}
    proto = example(f"g (float[N,8] x) => (float[N,8] h{last}) {{ {text} }}", weights)
    for node, given in zip(proto.graph.node, ODD_NAMES, strict=False):
        node.name = given
    analysis = onnxprune.analyze(proto)
    for option in (name, visible(name)):
        assert kept_groups(analysis, (option,)) == {name}
        (layer,) = (layer for layer in analysis.operations if layer.node == name)
        assert CostModel(analysis).of("macs", option)([8] * last) == analysis.macs(layer, analysis.none_removed())
    found = onnxprune.prune(proto, targets="macs=0.6", importance="magnitude", keep=name)
    assert {group.name: group.kept for group in found.groups}[name] == 8


def test_kept_groups_and_rounding_are_respected(network, images):
    result = onnxprune.prune(network, images, targets="macs=0.7", importance="magnitude", round_to=4)
    assert all(group.kept % 4 == 0 or group.kept == group.units for group in result.groups)
    names = [group.name for group in result.groups]
    kept = onnxprune.prune(
        network, images, targets="params=0.9", importance="magnitude", keep=(f"re:^{names[0]}$",), repair=False
    )
    assert kept.groups[0].kept == kept.groups[0].units


def test_target_for_a_layer_pattern_leaves_the_others_free(network, images):
    analysis = onnxprune.analyze(network)
    heavy = max(analysis.operations, key=lambda layer: analysis.macs(layer, analysis.none_removed())).node
    result = onnxprune.prune(network, images, targets=f"macs:re:^{heavy}$=0.4", importance="magnitude", repair=False)
    cost = {layer.node: layer for layer in result.layers}[heavy]
    assert cost.macs_after <= 0.4 * cost.macs_before


def test_pattern_without_a_layer_is_refused(network, images):
    with pytest.raises(InputError, match="no layer matches"):
        onnxprune.prune(network, images, targets="macs:nowhere=0.4", importance="magnitude", repair=False)


def test_figures_are_of_rows_that_nothing_was_fitted_to_where_some_can_be_spared() -> None:
    rows = np.load(MODELS / "mnist_calibration.npz")["x"]
    given = {"targets": "params=0.3", "importance": "activation", "time": False}
    many = onnxprune.prune(MODELS / "fc3_mnist.onnx", rows[:400], **given)
    few = onnxprune.prune(MODELS / "fc3_mnist.onnx", rows[:300], **given)
    assert any("40 calibration rows kept apart" in note for note in many.notes)
    assert any("60 calibration rows that nothing was fitted to, but" in note for note in few.notes)
    # Other figures' rows change nothing about the result.
    kept = rows[:400].copy()
    apart = Dataset({"x": rows}, None, "rows", np.arange(400))
    kept[split_rows(apart).report.rows] = rows[400:440]
    assert onnxprune.prune(MODELS / "fc3_mnist.onnx", kept, **given).plan.removed == many.plan.removed


def test_a_run_whose_widths_keep_the_kernels_work_down_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w1": (64, 3, 3, 3), "w2": (32, 64, 3, 3), "w3": (5, 32, 1, 1)}
    text = """g (float[N,3,12,12] x) => (float[N,5,1,1] y) { a = Conv (x, w1)  r = Relu (a)  b = Conv (r, w2)
        s = Relu (b)  p = GlobalAveragePool (s)  y = Conv (p, w3) }"""
    proto = example(text, weights)
    rows = np.random.default_rng(0).standard_normal((80, 3, 12, 12)).astype(np.float32)
    monkeypatch.setattr("onnxprune.pipeline.contest._HOPEFUL", 1e9)
    monkeypatch.setattr("onnxprune.pipeline.contest._PREDICTED_WORTH", 1e9)
    monkeypatch.setattr("onnxprune.pipeline.contest._RATE", 20)
    for worth, said in ((1e9, True), (0.0, False)):
        monkeypatch.setattr("onnxprune.pipeline.contest._WORTH", worth)
        monkeypatch.setattr("onnxprune.pipeline.contest._SLIGHT", 0.0)
        found = onnxprune.prune(proto, rows, targets="macs=0.7", time=False)
        assert any("work of the kernels" in note for note in found.notes) == said

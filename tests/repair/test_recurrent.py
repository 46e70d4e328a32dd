"""Recurrent layers: which hidden units go first, and what a refit of the others recovers."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracle import assert_close, run

import onnxprune
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.split import split_rows
from onnxprune.core.engine import RunOptions
from onnxprune.core.execution import SerialExecutor
from onnxprune.graph.load import load
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.reconstruction import score
from onnxprune.ops.examples import example
from onnxprune.repair import repair
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import remove

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 6


def network(op_type, direction="forward", batch="N", states="", last=False) -> onnx.ModelProto:
    dirs, rows = (2 if direction == "bidirectional" else 1), GATES[op_type] * HIDDEN
    body = (
        "l = Squeeze (p, zero) y = Gemm (l, w1, b1)"
        if last
        else "q = Transpose <perm = [2, 0, 1, 3]> (h) f = Reshape (q, flat) y = Gemm (f, w1, b1)"
    )
    width = HIDDEN if last else 7 * dirs * HIDDEN
    proto = example(
        f"""g (float[{batch},7,5] x) => (float[{batch},3] y) {{
        t = Transpose <perm = [1, 0, 2]> (x)
        {states}
        h, p = {op_type} <hidden_size = {HIDDEN}, direction = "{direction}"> (t, w, r, b{", , s" if states else ""})
        {body} }}""",
        {"w": (dirs, rows, 5), "r": (dirs, rows, HIDDEN), "b": (dirs, 2 * rows), "w1": (width, 3), "b1": (3,)}
        | ({"start": (dirs, 1, HIDDEN)} if states else {}),
        {"flat": np.array([-1, width]), "zero": np.array([0])}
        | {"one": np.array([1]), "two": np.array([2]), "dirs": np.array([dirs]), "six": np.array([HIDDEN])},
    )
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [t for t in proto.graph.initializer if t.name not in used]:
        proto.graph.initializer.remove(tensor)
    return proto


def with_twins(proto: onnx.ModelProto, op_type: str, first: int, second: int) -> onnx.ModelProto:
    """The second hidden unit does what the first one does: the others can make up for it exactly."""
    for tensor in proto.graph.initializer:
        value = np.array(numpy_helper.to_array(tensor))
        gates = GATES[op_type]
        if tensor.name in ("w", "r", "b"):
            count = 2 * gates if tensor.name == "b" else gates
            rows = value.reshape(value.shape[0], count, HIDDEN, -1)
            rows[:, :, second] = rows[:, :, first]
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return proto


def rows(count=120):
    return np.random.default_rng(0).standard_normal((count, 7, 5)).astype(np.float32)


def scored(proto):
    model = load(proto)
    analysis = analyse(model)
    data = load_data({"x": rows()}, model)
    return score(ScoreContext(analysis, split_rows(data), RunOptions(threads=1), SerialExecutor()))


CASES = [
    ("LSTM", "forward", True),
    ("LSTM", "bidirectional", False),
    ("GRU", "reverse", False),
    ("RNN", "forward", False),
]


@pytest.mark.parametrize(("op_type", "direction", "last"), CASES)
def test_a_unit_that_another_makes_up_for_goes_first(op_type, direction, last) -> None:
    """Hidden units were ordered by the size of their values alone."""
    proto = with_twins(network(op_type, direction, last=last), op_type, 1, 4)
    (found,) = scored(proto).groups
    assert found.order[0] in (1, 4)
    assert found.damage[HIDDEN - 1] < 0.1 * found.damage[1]


@pytest.mark.parametrize(("op_type", "direction", "last"), CASES)
def test_what_another_unit_can_do_is_recovered(op_type, direction, last) -> None:
    """The weights that read a unit's twin go to the other twin: in the recurrence, and behind it."""
    proto = with_twins(network(op_type, direction, last=last), op_type, 1, 4)
    model = load(proto)
    a = analyse(model)
    removed = a.removal({group.name: [4] for group in a.groups})
    smaller = remove(a, removed)
    data = load_data({"x": rows()}, model)
    repaired = repair(a, smaller, removed, split_rows(data).last, RunOptions(threads=1))
    feed = {"x": np.random.default_rng(1).standard_normal((40, 7, 5)).astype(np.float32)}
    (wanted,), (plain,), (better,) = (run(m, feed) for m in (model, smaller, repaired))
    assert np.linalg.norm(better - wanted) < 0.02 * np.linalg.norm(plain - wanted)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_repair_helps_where_units_are_missed(op_type) -> None:
    proto = network(op_type, "bidirectional")
    model = load(proto)
    a = analyse(model)
    removed = a.removal({group.name: [0, 3] for group in a.groups})
    smaller = remove(a, removed)
    data = load_data({"x": rows()}, model)
    repaired = repair(a, smaller, removed, split_rows(data).last, RunOptions(threads=1))
    assert not np.array_equal(repaired.constants["w"], smaller.constants["w"])
    feed = {"x": np.random.default_rng(1).standard_normal((40, 7, 5)).astype(np.float32)}
    (wanted,), (plain,), (better,) = (run(m, feed) for m in (model, smaller, repaired))
    assert np.linalg.norm(better - wanted) < 0.8 * np.linalg.norm(plain - wanted)


def test_nothing_changes_where_nothing_was_removed() -> None:
    model = load(network("LSTM"))
    a = analyse(model)
    repaired = repair(
        a, model, a.none_removed(), split_rows(load_data({"x": rows(30)}, model)).last, RunOptions(threads=1)
    )
    assert_close(run(repaired, {"x": rows(5)}), run(model, {"x": rows(5)}), run(model, {"x": rows(5)}))


LEARNED = """s1 = Shape (t) n = Slice (s1, one, two) e = Concat <axis = 0> (dirs, n, six) s = Expand (start, e)"""


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
def test_states_written_for_a_batch_of_one(op_type) -> None:
    """The original takes any batch, the pruned model stores the states for the batch that the file declares."""
    proto = network(op_type, batch="1", states=LEARNED)
    result = onnxprune.prune(proto, rows(), targets="params=0.6", threads=1)
    assert result.after.params <= 0.6 * result.before.params


@pytest.mark.parametrize("op_type", GATES)
def test_time_as_the_only_open_axis(op_type) -> None:
    """Rows are steps then, and the last batch has fewer of them: repair ended with an internal error."""
    gates = GATES[op_type] * HIDDEN
    proto = example(
        f"""g (float[T,2,5] x) => (float[T,2,3] y) {{
        h = {op_type} <hidden_size = {HIDDEN}> (x, w, r, b)
        s = Squeeze (h, one)
        y = MatMul (s, w1) }}""",
        {"w": (1, gates, 5), "r": (1, gates, HIDDEN), "b": (1, 2 * gates), "w1": (HIDDEN, 3)},
        {"one": np.array([1])},
    )
    steps = np.random.default_rng(0).standard_normal((40, 2, 5)).astype(np.float32)
    small = onnxprune.prune(proto, steps, targets="params=0.6", time=False)
    assert small.after["params"] <= 0.6 * small.before["params"]

"""Initial states of recurrent layers: zeros of any origin are left out, others go with their units."""

import numpy as np
import pytest
from oracle import analysed, check_removal, prunable

from onnxprune.ops.examples import example

STATES = {
    "ConstantOfShape": "z = ConstantOfShape (t)",
    "Expand": "z = Expand (filler, t)",
    "moved": "e = ConstantOfShape (t) i, j = Split <axis = 0> (e, pair) z = Concat <axis = 0> (i, j)",
    "learned": "z = Expand (start, t)",
    "learned and moved": "e = Expand (start, t) i, j = Split <axis = 0> (e, pair) z = Concat <axis = 0> (i, j)",
}


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_states_of_a_dynamic_batch(states: str, op_type: str, direction: str) -> None:
    """None of the hidden units were prunable behind states of a batch that varies."""
    dirs = 2 if direction == "bidirectional" else 1
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type] * 6
    model = example(
        f"""g (float[7,N,5] x) => (float[A,B,3] y) {{
        s = Shape (x)
        n = Slice (s, one, two)
        t = Concat <axis = 0> (four, n, six)
        {STATES[states]}
        a = Slice (z, zero, dirs)
        h, p = {op_type} <hidden_size = 6, direction = "{direction}"> (x, w, r, b, , a)
        y = MatMul (p, w1) }}""",
        {"w": (dirs, rows, 5), "r": (dirs, rows, 6), "b": (dirs, 2 * rows), "start": (4, 1, 6), "w1": (6, 3)},
        {"filler": np.zeros((), np.float32), "pair": np.array([1, 3]), "dirs": np.array([dirs])}
        | {name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("two", 2), ("four", 4), ("six", 6))},
    )
    used = set(" ".join(str(node) for node in model.graph.node).replace('"', " ").split())
    for unused in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(unused)
    assert prunable(model) == 6
    assert bool(analysed(model).omitted) == ("learned" not in states)


def test_layers_whose_last_states_are_joined_keep_their_own_width() -> None:
    """Exporters join the last states of all layers, of which one is read: that tied the layers' units."""
    model = example(
        """g (float[7,N,5] x) => (float[B,3] y) {
        h, p = LSTM <hidden_size = 6> (x, w, r)
        i = Squeeze (h, one)
        j, q = LSTM <hidden_size = 6> (i, v, u)
        k = Concat <axis = 0> (p, q)
        l = Gather (k, last)
        y = Gemm (l, w3) }""",
        {"w": (1, 24, 5), "r": (1, 24, 6), "v": (1, 24, 6), "u": (1, 24, 6), "w3": (6, 3)},
        {"one": np.array([1]), "last": np.array(-1)},
    )
    a = analysed(model)
    assert [(group.name, len(group)) for group in a.groups] == [("h", 6), ("j", 6)]
    smaller = check_removal(a, a.removal({"h": [0, 1, 5], "j": [2]}))
    assert [node.input for node in smaller.proto.graph.node if node.op_type == "Concat"] == [["q", "q"]]
    both = example(
        """g (float[7,N,5] x) => (float[2,B,3] y) {
        h, p = LSTM <hidden_size = 6> (x, w, r)
        i = Squeeze (h, one)
        j, q = LSTM <hidden_size = 6> (i, v, u)
        k = Concat <axis = 0> (p, q)
        y = MatMul (k, w3) }""",
        {"w": (1, 24, 5), "r": (1, 24, 6), "v": (1, 24, 6), "u": (1, 24, 6), "w3": (6, 3)},
        {"one": np.array([1])},
    )
    assert [len(group) for group in analysed(both).groups] == [6]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_peepholes_go_with_their_units(direction: str) -> None:
    dirs = 2 if direction == "bidirectional" else 1
    a = analysed(
        example(
            f"""g (float[7,N,5] x) => (float[A,N,3] y) {{
            h, p = LSTM <hidden_size = 6, direction = "{direction}"> (x, w, r, b, , , , peepholes)
            y = MatMul (p, w1) }}""",
            {"w": (dirs, 24, 5), "r": (dirs, 24, 6), "b": (dirs, 48), "peepholes": (dirs, 18), "w1": (6, 3)},
        )
    )
    assert a.prunable == 6
    assert a.recurrences == ()
    removed = a.none_removed()
    removed[a.groups[0].units[[1, 4]]] = True
    assert check_removal(a, removed, batch=2).constants["peepholes"].shape == (dirs, 12)


def test_units_behind_computed_weights_stay() -> None:
    a = analysed(
        example(
            """g (float[7,N,5] x, float[1,24,5] z) => (float[1,N,3] y) {
            h, p = LSTM <hidden_size = 6> (x, z, r)
            y = MatMul (p, w1) }""",
            {"r": (1, 24, 6), "w1": (6, 3)},
        )
    )
    assert a.prunable == 0
    assert "a weight of LSTM is computed" in [entry.reason for entry in a.not_pruned]

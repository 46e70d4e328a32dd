"""Recurrent layers as products: what the products say the gates are must give the states that onnxruntime gives."""

import numpy as np
import pytest

from onnxprune.calibration.recurrent_matrix import Block, GateMatrices, Sequences
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.complete import completed
from onnxprune.structure.coupling import analyse

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FORMS = [("LSTM", ""), ("RNN", ""), ("GRU", ""), ("GRU", ", linear_before_reset = 1")]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer(op_type, more, direction, *, bias=True, start=True):
    dirs, rows = (2 if direction == "bidirectional" else 1), GATES[op_type] * 4
    proto = example(
        f"""g (float[6,N,5] x) => (float[A,B,4] y) {{
        h, y = {op_type} <hidden_size = 4, direction = "{direction}"{more}>
            (x, w, r{", b" if bias else ", "}, {", start" if start else ""}) }}""",
        {"w": (dirs, rows, 5), "r": (dirs, rows, 4)}
        | ({"b": (dirs, 2 * rows)} if bias else {})
        | ({"start": (dirs, 3, 4)} if start else {}),
    )
    a = completed(analyse(load(proto), {"x": (6, 3, 5)}))
    (recurrence,) = a.recurrences
    x = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    states = Runner(a.model, [recurrence.output], engine=ONE_CORE).run_feed({"x": x})
    constants = dict(a.model.constants)
    return GateMatrices(recurrence, constants), Sequences.read(recurrence, {"x": x, **constants, **states})


def values(gates, sequences, block):
    """`(T, B, gates, H)` in the order of time."""
    rows = gates.columns(block, sequences, np.arange(sequences.rows)).astype(float)
    found = rows @ gates.matrix(block) + gates.bias(block)
    return found.reshape(*sequences.inputs.shape[:2], block.end - block.first, gates.hidden)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0] + ("-" if form[1] else ""))
@pytest.mark.parametrize("bias", [True, False])
def test_gates_give_the_states(form, direction, bias) -> None:
    gates, sequences = layer(*form, direction, bias=bias)
    for d, backward in enumerate(gates.recurrence.backward):
        own = [values(gates, sequences, block) for block in gates.blocks if block.direction == d]
        before, states = sequences.earlier(d, backward=backward), sequences.states[:, d]
        if form[0] == "RNN":
            found = np.tanh(own[0][:, :, 0])
        elif form[0] == "GRU":
            z, r = (sigmoid(own[0][:, :, i]) for i in (0, 1))
            new = own[1][:, :, 0] + (r * own[2][:, :, 0] if form[1] else own[2][:, :, 0])
            found = (1 - z) * np.tanh(new) + z * before
        else:
            i, o, f = (sigmoid(own[0][:, :, i]) for i in range(3))
            found, c = np.zeros_like(before), np.zeros_like(before[0])
            for t in range(6)[:: -1 if backward else 1]:
                c = f[t] * c + i[t] * np.tanh(own[0][t, :, 3])
                found[t] = o[t] * np.tanh(c)
        np.testing.assert_allclose(found, states, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0] + ("-" if form[1] else ""))
def test_changed_blocks_are_written_where_they_were_read(form) -> None:
    gates, _ = layer(*form, "bidirectional")
    rng = np.random.default_rng(0)
    changes = [
        (b, rng.standard_normal(gates.matrix(b).shape), rng.standard_normal(len(gates.bias(b)))) for b in gates.blocks
    ]
    written = GateMatrices(gates.recurrence, gates.changed(changes))
    for block, matrix, shift in changes:
        np.testing.assert_allclose(written.matrix(block), matrix, rtol=1e-6)
        np.testing.assert_allclose(written.bias(block), gates.bias(block) + shift, atol=1e-5)
    assert {block.direction for block in gates.blocks} == {0, 1}
    assert all(isinstance(block, Block) for block in gates.blocks)


def test_forms_whose_products_are_not_known_are_left_alone() -> None:
    proto = example(
        """g (float[6,2,5] x) => (float[1,2,4] y) {
        h, y = LSTM <hidden_size = 4> (x, w, r, , lengths) }""",
        {"w": (1, 16, 5), "r": (1, 16, 4)},
        {"lengths": np.array([3, 6], np.int32)},
    )
    assert not analyse(load(proto)).recurrences

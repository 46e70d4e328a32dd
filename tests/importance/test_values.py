"""The values that scorers give, on networks small enough to count by hand."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig, PruneConfig, RunOptions, Target
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.scores import GroupScore
from onnxprune.graph.load import load
from onnxprune.importance import scorer_row
from onnxprune.importance.base import ScoreContext
from onnxprune.ops.examples import example
from onnxprune.pipeline.prepare import prepare, score
from onnxprune.structure.coupling import analyse


def network(text, **constants):
    """A model of ONNX text with given constants."""
    return example(text, constants={name: np.asarray(value, np.float32) for name, value in constants.items()})


def scored(proto: onnx.ModelProto, importance: str, **rows) -> dict[str, GroupScore]:
    model = load(proto)
    data = load_data({name: np.asarray(value) for name, value in rows.items()}, model) if rows else None
    analysis = analyse(model, None if data is None else data.shapes)
    given = ScoreContext(analysis, data, RunOptions(threads=1), SerialExecutor())
    return {found.group: found for found in scorer_row(importance).load()(given).groups}


def shares(energy, power=2, consumers=1):
    """Scores, and damage per kept width, of units with these energies."""
    energy = np.asarray(energy, float)
    lost = np.concatenate([[0.0], np.cumsum(np.sort(energy))])[::-1]
    return (energy / energy.max()) ** (1 / power), consumers * lost / energy.sum()


def check(found: GroupScore, energy, power=2, consumers=1):
    scores, damage = shares(energy, power, consumers)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    np.testing.assert_allclose(found.damage, damage, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(found.order, np.argsort(energy, kind="stable"))
    assert found.judged


GEMM = "g (float[N,2] x) => (float[N,1] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
DENSE = network(GEMM, w1=[[3, 1, 0], [4, 0, 2]], b1=[9, 9, 9], w2=[[1], [2], [10]])


def test_magnitude_of_a_dense_layer() -> None:
    """Of the weights that make a unit: (3, 4), (1, 0), (0, 2)."""
    check(scored(DENSE, "magnitude")["h"], [25, 1, 4])
    check(scored(DENSE, "magnitude-l1")["h"], [7, 1, 2], power=1)


def test_activation_of_a_dense_layer() -> None:
    """Mean squares of (3, 1, 0) + 9 and (4, 0, 2) + 9, times the squares of the weights 1, 2, 10."""
    x = np.eye(2, dtype=np.float32)
    energy = [(12**2 + 13**2) / 2, 4 * (10**2 + 9**2) / 2, 100 * (9**2 + 11**2) / 2]
    check(scored(DENSE, "activation", x=x)["h"], energy)


def test_activation_weighs_rows_alike() -> None:
    """Rows come in batches of 64: the last of 65 counted as much as the 64 before it."""
    proto = network(GEMM, w1=[[1, 0], [0, 1]], b1=[0, 0], w2=[[1], [1]])
    x = np.tile(np.float32([[1, 0]]), (65, 1))
    x[64] = (0, 4)
    check(scored(proto, "activation", x=x)["h"], [64 / 65, 16 / 65])


def recurrent(op_type, w, r):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    assert np.shape(w) == (1, gates * 2, 1)
    assert np.shape(r) == (1, gates * 2, 2)
    return network(
        f"""g (float[N,3,1] x) => (float[1,N,1] y) {{
        t = Transpose <perm = [1, 0, 2]> (x)
        h, last = {op_type} <hidden_size = 2> (t, w, r)
        y = MatMul (last, w2) }}""",
        w=w,
        r=r,
        w2=[[1], [3]],
    )


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_magnitude_counts_every_gate(op_type, gates) -> None:
    """Units of recurrent layers scored 0. Every gate has weights 1 and (2, 0) of the first, 2 and 0 of the second."""
    w = np.tile([[1], [2]], (gates, 1))[None]
    r = np.tile([[2, 0], [0, 0]], (gates, 1))[None]
    check(scored(recurrent(op_type, w, r), "magnitude")["h"], [gates * (1 + 4), gates * 4], consumers=2)


def test_activation_counts_the_recurrence() -> None:
    """All states times the recurrent weights (0 and 5), the last ones times those of the next layer (1 and 3)."""
    proto = recurrent("RNN", [[[1], [2]]], [[[0, 0], [0, 5]]])
    states = [np.tanh(2.0)]
    states += [np.tanh(2 + 5 * states[0])]
    states += [np.tanh(2 + 5 * states[1])]
    energy = [np.tanh(1.0) ** 2 * 1, np.mean(np.square(states)) * 25 + states[-1] ** 2 * 9]
    check(scored(proto, "activation", x=np.ones((2, 3, 1), np.float32))["h"], energy, consumers=2)


def test_magnitude_of_an_embedding_and_a_product_by_letters() -> None:
    proto = example(
        """g (int64[N,2] t) => (float[N,2,1] y) {
        e = Gather (table, t)
        h = Einsum <equation = "nti,ij->ntj"> (e, w1)
        y = MatMul (h, w2) }""",
        constants={
            "table": np.float32([[1, 2], [0, 2], [1, 0]]),
            "w1": np.float32([[3, 0, 1], [4, 1, 1]]),
            "w2": np.float32([[1], [1], [1]]),
        },
    )
    found = scored(proto, "magnitude")
    check(found["e"], [2, 8])
    check(found["h"], [25, 1, 2])


def test_activation_of_a_product_of_activations() -> None:
    """Queries (1, 2) and keys (3, 1) a token: the squares of one, times those of the other."""
    proto = network(
        """g (float[N,2,1] x) => (float[N,2,2] y) {
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        t = Transpose <perm = [0, 2, 1]> (k)
        y = MatMul (q, t) }""",
        wq=[[1, 2]],
        wk=[[3, 1]],
    )
    (found,) = scored(proto, "activation", x=np.ones((1, 2, 1), np.float32)).values()
    check(found, [1 * 9, 4 * 1])


def test_activation_of_a_sum() -> None:
    """What a ReduceSum adds up counts as it is."""
    proto = example(
        """g (float[N,2] x) => (float[N,1] y) {
        h = Gemm (x, w1)
        y = ReduceSum (h, one) }""",
        constants={"w1": np.float32([[1, 2], [0, 2]]), "one": np.array([1])},
    )
    check(scored(proto, "activation", x=np.eye(2, dtype=np.float32))["h"], [1 / 2, 8 / 2])


def test_snip_by_hand() -> None:
    """`|dL/dw w|` where the logits are `r W2` and the loss is the mean cross-entropy."""
    pytest.importorskip("torch", reason="SNIP needs torch")
    text = "g (float[N,2] x) => (float[N,2] y) { h = Gemm (x, w1) r = Relu (h) z = Gemm (r, w2) y = Softmax (z) }"
    w1, w2 = np.float32([[1, 2], [1, 1]]), np.float32([[1, 0], [0, 2]])
    x = np.float32([[1, 2], [2, 1]])
    h = x @ w1
    z = h @ w2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(2)[z.argmax(1)]) / 2
    per_w2, per_w1 = np.abs(h.T @ dz * w2), np.abs(x.T @ (dz @ w2.T) * w1)
    energy = per_w1.sum(0) + per_w2.sum(1)
    found = scored(network(text, w1=w1, w2=w2), "snip", x=x)["h"]
    np.testing.assert_allclose(found.scores, energy / energy.max(), rtol=1e-4)


def test_reconstruction_by_hand() -> None:
    """Independent inputs of equal size: losing one loses its weights' squares, a ridge of 3 % on top."""
    text = "g (float[N,3] x) => (float[N,2] y) { h = Gemm (x, w1) y = Gemm (h, w2) }"
    w2 = np.float32([[1, 1], [0, 3], [0.5, 0]])
    x = np.tile(np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32), (16, 1))
    found = scored(network(text, w1=np.eye(3), w2=w2), "reconstruction", x=x)["h"]
    assert found.order.tolist() == [2, 0, 1]
    errors = np.cumsum([0, 0.25, 2, 9])[1:]  # of removing the third, the first, the second unit
    np.testing.assert_allclose(found.scores[found.order], np.sqrt(errors / errors[-1]), rtol=1e-3)


SUMS = """g (float[N,2] x) => (float[N,2] y) {
    h = Gemm (x, w1)
    a = Relu (h)
    p = Pad (a, pads)
    q = Mul (p, p)
    s = ReduceSum (q, one)
    y = Gemm (s, w2) }"""


def test_groups_that_a_scorer_cannot_judge_stay_whole() -> None:
    """Of units without weights, such as those of a Pad, nothing is known: they went down to one."""
    shapes = {"w1": (2, 6), "w2": (1, 2)}
    proto = example(SUMS, shapes, {"pads": np.array([0, 0, 0, 3]), "one": np.array([1])})
    assert [(group.name, len(group)) for group in analyse(load(proto)).groups] == [("h", 6), ("p", 3)]
    config = PruneConfig(importance="magnitude", threads=1, targets=(Target.parse("params=0.4"),), repair=False)
    prepared = prepare(proto, None, config, PreprocessConfig())
    scores = score(prepared, config)
    assert scores.unjudged == ("p",)
    assert "cannot judge 1 group, which keep all units: 'p'" in scores.notes[-1]
    kept = onnxprune.prune(proto, targets="params=0.4", importance="magnitude", repair=False, threads=1)
    assert {group.name: group.kept for group in kept.groups}["p"] == 3
    assert {group.name: group.kept for group in kept.groups}["h"] < 6

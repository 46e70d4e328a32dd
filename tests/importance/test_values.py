"""The values that scorers give, on networks small enough to count by hand."""

import numpy as np
import onnx
import pytest
from scipy.stats import kstest

import onnxprune
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.split import split_rows
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.engine import RunOptions
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.scores import GroupScore
from onnxprune.core.targets import Target
from onnxprune.graph.load import load
from onnxprune.importance import scorer_row
from onnxprune.importance.base import ScoreContext
from onnxprune.ops.examples import example
from onnxprune.pipeline.prepare import prepare, score
from onnxprune.structure.coupling import analyse


def network(text, **constants):
    """A model of ONNX text with given constants."""
    return example(text, constants={name: np.asarray(value, np.float32) for name, value in constants.items()})


def scored(proto: onnx.ModelProto, importance: str, seed: int = 0, **rows) -> dict[str, GroupScore]:
    model = load(proto)
    arrays = {name: np.asarray(value) for name, value in rows.items()}
    data = split_rows(load_data(arrays, model)) if rows else None
    analysis = analyse(model, None if data is None else data.rows.shapes)
    given = ScoreContext(analysis, data, RunOptions(seed=seed, threads=1), SerialExecutor())
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
    x = np.repeat(np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32), 10, axis=0)
    found = scored(network(text, w1=np.eye(3), w2=w2), "reconstruction", x=x)["h"]
    assert found.order.tolist() == [2, 0, 1]
    errors = np.cumsum([0, 0.25, 2, 9])[1:]  # of removing the third, the first, the second unit
    np.testing.assert_allclose(found.scores[found.order], np.sqrt(errors / errors[-1]), rtol=1e-3)


def designed(columns: int) -> np.ndarray:
    """Rows of independent columns of equal size, each five times: one of the five measures damage."""
    rows = np.concatenate([np.eye(columns), -np.eye(columns)]).astype(np.float32)
    return np.repeat(rows, 5, axis=0)


def three_digits(values: float | np.ndarray) -> np.ndarray:
    """Measured damage has no more of them, so that an allocation does not hang on the last bits of a sum."""
    return np.array([float(f"{value:.2e}") for value in np.atleast_1d(values)])


def test_damage_of_a_reconstruction_by_hand() -> None:
    """A quantity of four independent terms: what is lost of its variance, to the power of 0.7."""
    text = "g (float[N,4] x) => (float[N,1] y) { h = Gemm (x, w1) y = Gemm (h, w2) }"
    proto = network(text, w1=np.eye(4), w2=[[1], [3], [0.5], [-4]])
    found = scored(proto, "reconstruction", x=designed(4))["h"]
    lost = np.array([0.25, 0.25 + 1, 0.25 + 1 + 9])[::-1] / (0.25 + 1 + 9 + 16)
    assert found.order.tolist() == [2, 0, 1, 3]
    np.testing.assert_allclose(found.damage[1:4], three_digits(lost) ** 0.7, rtol=1e-6)
    assert found.damage[4] == 0


def test_damage_to_class_scores_by_hand() -> None:
    """The divergence of the class probabilities, where each input is on in every eighth row."""
    text = "g (float[N,4] x) => (float[N,2] z) { h = Gemm (x, w1) y = Gemm (h, w2) z = Softmax (y) }"
    w2 = np.array([[1, 0], [0, 2], [0.5, 0], [3, 0]])
    found = scored(network(text, w1=np.eye(4), w2=w2), "reconstruction", x=designed(4))["h"]

    def divergence(gap: float) -> float:
        """Of 1/2 to 1/2 from the probabilities of two scores that lie `gap` apart."""
        p = 1 / (1 + np.exp(-gap))
        return p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))

    lost = np.cumsum([divergence(gap) for gap in (0.5, 1, 2)])[::-1] * 2 / 8
    assert found.order.tolist() == [2, 0, 1, 3]
    np.testing.assert_allclose(found.damage[1:4], three_digits(lost) ** 0.7, rtol=1e-6)


def test_reconstruction_of_inputs_that_stand_for_each_other() -> None:
    """`h = (a, 0.6 a + 0.8 b)`: moments 1 and 0.6, a ridge of 0.03. The second takes over 0.6 / 1.03 of the first."""
    text = "g (float[N,2] x) => (float[N,1] y) { h = Gemm (x, w1) y = Gemm (h, w2) }"
    proto = network(text, w1=np.sqrt(2) * np.array([[1, 0.6], [0, 0.8]]), w2=[[1], [2]])
    found = scored(proto, "reconstruction", x=designed(2))["h"]
    first = 1.03 - 0.6**2 / 1.03
    second = first + (2 + 0.6 / 1.03) ** 2 * 1.03
    assert found.order.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [np.sqrt(first / second), 1], rtol=1e-5)
    lost = 1 - 2 * 0.6 * 0.6 / 1.03 + (0.6 / 1.03) ** 2
    np.testing.assert_allclose(found.damage[1], three_digits(lost / (1 + 4 + 2 * 2 * 0.6)) ** 0.7, rtol=1e-6)


def wide(first: str = "h") -> onnx.ModelProto:
    units = 4000
    text = f"""g (float[N,2] x) => (float[N,1] y) {{
        {first} = Gemm (x, w1)
        r = Relu ({first})
        k = Gemm (r, w2)
        y = Gemm (k, w3) }}"""
    return network(text, w1=np.ones((2, units)), w2=np.ones((units, 3)), w3=np.ones((3, 1)))


def test_random_scores_are_uniform() -> None:
    found = scored(wide(), "random")
    scores = found["h"].scores
    assert kstest(scores, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(scores[1:], scores[:-1])[0, 1]) < 0.05
    for group in found.values():
        np.testing.assert_array_equal(group.order, np.argsort(group.scores))
        lost = [np.sort(group.scores)[:gone].sum() for gone in range(len(group.scores) + 1)]
        np.testing.assert_allclose(group.damage, lost[::-1])


def test_random_scores_depend_on_the_seed_and_on_names_alone() -> None:
    scores = {(name, seed): scored(wide(name), "random", seed=seed)[name].scores for name in "hg" for seed in (0, 1)}
    np.testing.assert_array_equal(scores["h", 0], scored(wide(), "random")["h"].scores)
    assert all(abs(np.corrcoef(scores["h", 0], other)[0, 1]) < 0.05 for key, other in scores.items() if key != ("h", 0))


def test_a_residual_stream_counts_once_for_each_reader() -> None:
    """`h` and `k` are one group, which `k` and `y` read: energies of both makers, and two consumers."""
    text = """g (float[N,2] x) => (float[N,1] y) {
        h = Gemm (x, w1)
        r = Relu (h)
        k = Gemm (r, w2)
        s = Add (h, k)
        y = Gemm (s, w3) }"""
    w1, w2 = np.array([[1, 2], [3, 0]]), np.array([[1, 1], [0, 2]])
    proto = network(text, w1=w1, w2=w2, w3=[[1], [1]])
    (found,) = scored(proto, "magnitude").values()
    check(found, [1 + 9 + 1 + 0, 4 + 0 + 1 + 4], consumers=2)
    (found,) = scored(proto, "magnitude-l1").values()
    check(found, [1 + 3 + 1, 2 + 1 + 2], power=1, consumers=2)


def test_activation_of_a_convolution_and_a_flattened_layer() -> None:
    """Mean squares over rows and positions, times the squares of all weights that read a channel."""
    text = """g (float[N,1,1,2] x) => (float[N,1] y) {
        h = Conv (x, w1)
        f = Flatten (h)
        y = Gemm (f, w2) }"""
    proto = network(text, w1=np.array([1, 3]).reshape(2, 1, 1, 1), w2=[[1], [2], [3], [0]])
    x = np.float32([[1, 2], [3, 0]]).reshape(2, 1, 1, 2)
    mean = np.mean(np.square(x))
    check(scored(proto, "activation", x=x)["h"], [mean * (1 + 4), 9 * mean * 9])


def test_snip_over_two_groups_by_hand() -> None:
    """Damage is a share of the whole network's sensitivity, in both groups alike."""
    pytest.importorskip("torch", reason="SNIP needs torch")
    text = """g (float[N,2] x) => (float[N,2] y) {
        h = Gemm (x, w1)
        k = Gemm (h, w2)
        z = Gemm (k, w3)
        y = Softmax (z) }"""
    w1, w2, w3 = np.array([[1, 2], [1, 1]]), np.array([[1, 0.5], [0.5, 1]]), np.array([[1, 0], [0, 2]])
    x = np.float32([[1, 2], [2, 1]])
    h, k = x @ w1, x @ w1 @ w2
    z = k @ w3
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(2)[z.argmax(1)]) / 2
    per_w3, per_w2 = np.abs(k.T @ dz * w3), np.abs(h.T @ (dz @ w3.T) * w2)
    per_w1 = np.abs(x.T @ (dz @ w3.T @ w2.T) * w1)
    energies = {"h": per_w1.sum(0) + per_w2.sum(1), "k": per_w2.sum(0) + per_w3.sum(1)}
    whole = sum(energy.sum() for energy in energies.values())
    found = scored(network(text, w1=w1, w2=w2, w3=w3), "snip", x=x)
    for name, energy in energies.items():
        np.testing.assert_allclose(found[name].scores, energy / energy.max(), rtol=1e-4)
        lost = [energy.sum() / whole, energy.min() / whole, 0]
        np.testing.assert_allclose(found[name].damage, lost, rtol=1e-4, atol=1e-9)


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

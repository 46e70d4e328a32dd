"""Entries of sets are compared in the order in which they differ least."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.meaning import EntrySet, Meaning, Part
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse
from onnxprune.structure.selection import sorted_within

ENTRIES = 4
SEEDS = st.integers(0, 10**6)
KINDS = ["classes", "probabilities", "quantities", "embedding", "labels"]


def of_set(kind: str, axis: int) -> Meaning:
    """Scores, boxes that they weigh, one mask an entry, and an output without entries; the masks tell nothing."""
    wide = {"width": 3, "positions": (ENTRIES,)}
    parts = (
        Part("scores", kind, axis=axis, form="probabilities" if kind == "probabilities" else "logits", **wide),
        Part("boxes", "quantities", axis=axis, confidence=(0,) if kind in ("classes", "probabilities") else (), **wide),
        Part("masks", "quantities", axis=0, positions=(ENTRIES, 2, 5)),
        Part("other", "quantities", width=ENTRIES),
    )
    axes = {"scores": 3 - axis, "boxes": 3 - axis, "masks": 1}
    return Meaning(dict.fromkeys(axes, 0) | {"other": 0}, parts, (0.4, 0.3, 0.2, 0.1), (EntrySet((0, 1), axes),))


def outputs(kind: str, axis: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = 2 * rng.standard_normal((3, ENTRIES, 3))
    if kind == "probabilities":
        scores = 1 / (1 + np.exp(-scores))
    if kind == "labels":
        scores = np.round(scores)
    boxes = rng.uniform(size=(3, ENTRIES, 3)) + np.array([0, 50, 100])
    listed = [scores, boxes] if axis == 2 else [scores.swapaxes(1, 2), boxes.swapaxes(1, 2)]
    masks, other = rng.uniform(size=(3, ENTRIES, 2, 5)), rng.uniform(size=(3, ENTRIES))
    return {"scores": listed[0], "boxes": listed[1], "masks": masks, "other": other}


def reordered(meaning: Meaning, known: dict[str, np.ndarray], orders: list[np.ndarray]) -> dict[str, np.ndarray]:
    axes = meaning.sets[0].axes
    return {
        name: np.stack([np.take(row, order, axes[name] - 1) for row, order in zip(array, orders, strict=True)])
        if name in axes
        else array
        for name, array in known.items()
    }


@given(st.sampled_from(KINDS), st.sampled_from([1, 2]), SEEDS)
def test_entries_in_another_order_are_the_same(kind: str, axis: int, seed: int) -> None:
    meaning, known = of_set(kind, axis), outputs(kind, axis, seed)
    rng = np.random.default_rng(seed)
    other = reordered(meaning, known, [rng.permutation(ENTRIES) for _ in range(3)])
    reference = Reference(meaning, known)
    found = reference.matched(other)
    assert {name: found[name].tolist() for name in known} == {name: known[name].tolist() for name in known}
    assert reference.divergence(other) == pytest.approx(0, abs=1e-12)
    assert reference.parts(other) == pytest.approx([0] * 4, abs=1e-12)


@given(st.sampled_from(KINDS), st.sampled_from([1, 2]), SEEDS)
def test_no_other_order_differs_less(kind: str, axis: int, seed: int) -> None:
    """Every order is tried, by the differences place by place of what tells the entries apart."""
    meaning, known, other = of_set(kind, axis), outputs(kind, axis, seed), outputs(kind, axis, seed + 1)
    told = replace(meaning, weights=(0.4, 0.3, 0.0, 0.0))
    by_place = Reference(replace(told, sets=()), known)
    least = np.min(
        [by_place.rows(reordered(meaning, other, [np.array(order)] * 3)) for order in permutations(range(ENTRIES))],
        axis=0,
    )
    np.testing.assert_allclose(Reference(told, known).rows(other), least, rtol=1e-9)


def test_values_that_are_not_finite_are_no_match() -> None:
    meaning, known = of_set("classes", 2), outputs("classes", 2, 0)
    broken = {**known, "boxes": known["boxes"] * np.array([1.0, np.nan, 1.0])}
    assert Reference(meaning, known).divergence(broken) == np.inf


TEXT = """g (float[N,8,6] x) => ({outputs}) {{
        h = MatMul (x, w1)
        m = ReduceMax <axes = [2], keepdims = 0> (h)
        r = Mul (m, turn)
        t, i = TopK <axis = 1> (r, k)
        along = Unsqueeze (i, two)
        all = Tile (along, each)
        found = GatherElements <axis = 1> (h, all)
        a = Relu (found)
        {end} }}"""
CONSTANTS = {"k": np.array([8]), "two": np.array([2]), "each": np.array([1, 1, 8])}


def queries(outputs: str, end: str, turn: float, **constants: np.ndarray) -> onnx.ModelProto:
    given = CONSTANTS | {"turn": np.array([turn], np.float32)} | constants
    return example(
        TEXT.format(outputs=outputs, end=end), {"w1": (6, 8), "w2": (8, 3), "w3": (8, 16), "w4": (16, 3)}, given
    )


BOXES = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
ROWS = {"x": np.random.default_rng(0).standard_normal((40, 8, 6)).astype(np.float32)}
LAYERS = "more = MatMul (a, w3) b = Relu (more) y = MatMul (b, w4)"
MASKS = ("float[N,8,4,4] y", "wide = MatMul (a, w3) y = Reshape (wide, map)", {"map": np.array([0, 8, 4, 4])})


def test_queries_that_a_network_sorts_are_a_set() -> None:
    """In the reverse order, 92.8 % of the detections counted as found again where all were."""
    both = [queries("float[N,8,3] y", LAYERS, turn) for turn in (1.0, -1.0)]
    meaning = read_meaning(analyse(load(both[0])))
    assert [(each.parts, each.axes) for each in meaning.sets] == [((0,), {"y": 1})]
    compared = onnxprune.validate(*both, ROWS, time=False)
    assert compared.metrics["relative_error"].after == pytest.approx(0, abs=1e-6)
    assert not compared.warnings
    result = onnxprune.prune(both[0], data=ROWS, targets={"params": 0.7}, time=False)
    assert not any("place" in warning for warning in result.warnings)


def test_maps_go_with_the_entries_that_scores_tell_apart() -> None:
    masks = queries("float[N,8,3] s, float[N,8,4,4] y", f"s = MatMul (a, w2) {MASKS[1]}", 1.0, **MASKS[2])
    assert [each.axes for each in read_meaning(analyse(load(masks))).sets] == [{"s": 1, "y": 1}]
    turned = queries("float[N,8,3] s, float[N,8,4,4] y", f"s = MatMul (a, w2) {MASKS[1]}", -1.0, **MASKS[2])
    error = onnxprune.validate(masks, turned, ROWS, time=False).metrics["relative_error"]
    assert error.after == pytest.approx(0, abs=1e-6)


def test_two_sets_of_one_size_have_orders_of_their_own() -> None:
    def branches(first: float, second: float) -> onnx.ModelProto:
        text = "\n".join(
            f"""h{b} = MatMul (x, w{b}) m{b} = ReduceMax <axes = [2], keepdims = 0> (h{b}) r{b} = Mul (m{b}, turn{b})
            t{b}, i{b} = TopK <axis = 1> (r{b}, k) u{b} = Unsqueeze (i{b}, two) a{b} = Tile (u{b}, each)
            f{b} = GatherElements <axis = 1> (h{b}, a{b}) y{b} = MatMul (f{b}, v{b})"""
            for b in "ab"
        )
        text = f"g (float[N,8,6] x) => (float[N,8,3] ya, float[N,8,3] yb) {{ {text} }}"
        turns = {"turna": np.array([first], np.float32), "turnb": np.array([second], np.float32)}
        return example(text, {f"{w}{b}": s for b in "ab" for w, s in (("w", (6, 8)), ("v", (8, 3)))}, CONSTANTS | turns)

    meaning = read_meaning(analyse(load(branches(1, 1))))
    assert [each.axes for each in meaning.sets] == [{"ya": 1}, {"yb": 1}]
    compared = onnxprune.validate(branches(1, 1), branches(1, -1), ROWS, time=False)
    assert compared.metrics["relative_error"].after == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "sorting",
    [
        "g = MatMul (x, router) t, i = TopK <axis = -1> (g, few) s = Softmax <axis = -1> (t) c = ReduceSum (s, last)",
        "d = Transpose <perm = [0,2,1]> (x) e = MatMul (x, d) t, i = TopK <axis = 2> (e, many) c = ReduceSum (t, last)",
    ],
    ids=["experts", "nearest neighbours"],
)
def test_tokens_and_points_are_no_sets(sorting: str) -> None:
    """What is sorted for each token does not change their order: with all of them turned round nothing was lost."""
    text = (
        f"g (float[N,16,6] x) => (float[N,16,3] y) {{ {sorting} h = MatMul (x, w1) a = Mul (h, c) y = MatMul (a, w2) }}"
    )
    sizes = {"few": np.array([2]), "many": np.array([10]), "last": np.array([2])}
    proto = example(text, {"router": (6, 4), "w1": (6, 8), "w2": (8, 3)}, sizes)
    analysis = analyse(load(proto))
    assert read_meaning(analysis).sets == ()
    assert sorted_within(analysis) == {}


def test_entries_that_nothing_tells_apart_are_warned_of() -> None:
    masks = queries(MASKS[0], MASKS[1], 1.0, **MASKS[2])
    both = queries(f"{MASKS[0]}, float[N,8,3] s", f"{MASKS[1]} s = MatMul (x, w5)", 1.0, **MASKS[2], w5=BOXES)
    assert read_meaning(analyse(load(both))).sets == ()  # these scores are of the places as they were
    for proto in (masks, both):
        found = onnxprune.validate(proto, proto, ROWS, time=False)
        assert any("entries that change places count as errors" in warning for warning in found.warnings)
    found = onnxprune.validate(masks, masks, ROWS, time=False)
    assert any("entries that change places count as errors" in warning for warning in found.warnings)

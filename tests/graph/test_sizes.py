"""The one rule for the sizes of inputs: the file, what the user gives, the data, a guess."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.graph.sizes import Given, given_sizes, input_sizes, parse_shapes
from onnxprune.ops.examples import example
from onnxprune.report.text import sizes_line


def two_inputs() -> onnx.ModelProto:
    return example(
        """g (float[batch,steps,6] x, float[batch,steps,1] m) => (float[batch,steps,3] y) {
        h = MatMul (x, w1)
        s = Mul (h, m)
        y = MatMul (s, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
    )


def origins(result: object) -> list[tuple[str, int, str]]:
    return [(each.name, each.size, each.origin) for each in result.sizes]


ROWS: Mapping[str, np.ndarray] = {"x": np.ones((4, 5, 6), np.float32), "m": np.ones((4, 5, 1), np.float32)}
OPTIONS = {"importance": "magnitude", "repair": False, "targets": "macs=0.7"}


def test_what_is_given_holds_for_every_input_that_has_the_size() -> None:
    model = load(two_inputs())
    assert given_sizes(model, ["x=1,7,6"]) == {"x": (1, 7, 6), "m": (1, 7, 1)}
    assert given_sizes(model, {}, {"x": (1, 5, 6)}) == {"x": (1, 5, 6)}
    assert onnxprune.analyze(two_inputs(), {"m": (1, 7, 1)}).costs().macs == 7 * (6 * 8 + 8 * 3)
    assert onnxprune.analyze(two_inputs(), {"m": (3, 7, 1)}).costs().macs == 7 * (6 * 8 + 8 * 3)  # for one row


def test_inspect_prune_validate_bench_and_sweep_take_the_same_sizes() -> None:
    proto = two_inputs()
    by_guess = onnxprune.prune(proto, **OPTIONS)
    assert origins(by_guess) == [("steps", 64, "guess")]
    assert by_guess.before == onnxprune.analyze(proto).costs()
    by_data = onnxprune.prune(proto, ROWS, **OPTIONS)
    assert origins(by_data) == [("steps", 5, "data")]
    given = onnxprune.prune(proto, shapes={"x": (1, 9, 6)}, **OPTIONS)
    assert origins(given) == [("steps", 9, "given")]
    assert given.before == onnxprune.analyze(proto, {"x": (1, 9, 6)}).costs()
    assert given.after.macs == 9 * sum(group.kept * (6 + 3) for group in given.groups)
    compared = onnxprune.validate(proto, given.proto, ROWS, time=False)
    assert origins(compared) == [("steps", 5, "data")]
    assert compared.before == by_data.before
    at_random = onnxprune.validate(proto, given.proto, "random", shapes={"x": (1, 9, 6)}, time=False)
    assert (origins(at_random), at_random.before) == ([("steps", 9, "given")], given.before)
    assert origins(onnxprune.validate(proto, given, "random", time=False)) == [("steps", 64, "guess")]
    assert origins(onnxprune.prune(proto, "random", **OPTIONS)) == [("steps", 64, "guess")]
    (measured,) = onnxprune.bench([proto], seconds=0, rounds=1, memory=False, shapes=("x=1,9,6",))
    assert origins(measured) == [("steps", 9, "given")]
    config = onnxprune.PruneConfig(importance="magnitude", repair=False, shapes=("x=1,9,6",))
    points = onnxprune.SweepConfig(points=1, highest=0.7, lowest=0.7)
    swept = onnxprune.sweep(proto, points=points, config=config)
    assert origins(swept) == [("steps", 9, "given")]
    assert swept.points[0].result.after == given.after


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("x", "not of the form"),
        ({"x": 5}, "give whole numbers"),
        ({"x": (1, 5.5, 6)}, "give whole numbers|not of the form"),
        ("x=", "not of the form"),
        ("x=1,a,6", "not of the form"),
        ("x=1,-5,6", "not of the form"),
        ("x=1,0,6", "sizes are 1 or more"),
        ("x=1,999999999,6", "at most 67108864 along an axis"),
        ("x=9999999,9999999,6", "at most .* and 1099511627776 elements in all"),
        ("z=1,5,6", r"no input 'z'"),
        ("x=1,5", "3 axes"),
        ("x=1,5,7", "fixes axis 2 of input 'x': float32 .* to 6"),
        (("x=1,5,6", "x=1,5,6"), "twice"),
        (("x=1,5,6", "m=1,4,1"), "'steps' is 4 here and 5 in 'x'"),
        ("x=1,9,6", "contradicts the data, whose rows are x=1,5,6"),
        ("m=1,9,1", 'x=1,9,6"? contradicts the data'),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_work(shape: Given, told: str) -> None:
    with pytest.raises(InputError, match=told):
        onnxprune.prune(two_inputs(), ROWS, shapes=shape, **OPTIONS)
    with pytest.raises(InputError, match=told):
        onnxprune.validate(two_inputs(), two_inputs(), ROWS, shapes=shape)
    with pytest.raises(InputError, match=told):
        onnxprune.bench([two_inputs()], ROWS, shapes=shape)


def test_sizes_that_the_graph_cannot_take_are_the_users() -> None:
    proto = example(
        """g (float[N,T,6] x) => (float[N,5,3] y) {
        h = MatMul (x, w1)
        r = Add (h, c)
        y = MatMul (r, w2) }""",
        {"w1": (6, 8), "c": (5, 8), "w2": (8, 3)},
        full_check=False,
    )
    assert onnxprune.analyze(proto, {"x": (1, 5, 6)}).costs().macs == 5 * (6 * 8 + 8 * 3)
    with pytest.raises(InputError, match=r'shapes="x=1,7,6": .*shapes contradict'):
        onnxprune.analyze(proto, {"x": (1, 7, 6)})


def test_names_with_an_equals_sign_and_sizes_in_words() -> None:
    assert parse_shapes(["a=b=1,3x4"]) == {"a=b": (1, 3, 4)}
    model = load(two_inputs())
    sizes = input_sizes(model, {"x": (1, 7, 6), "m": (1, 7, 1)}, (), {"x": (1, 7, 6)})
    assert sizes_line(sizes) == "steps 7, from the data"
    unnamed = example("g (float[N,?,6] x) => (float[N,A,8] y) { y = MatMul (x, w) }", {"w": (6, 8)})
    guessed = input_sizes(load(unnamed), {"x": (1, 64, 6)})
    assert sizes_line(guessed) == "axis 1 of 'x' 64, a guess (--shape sets it)"


def test_transformer_of_the_corpus(corpus_path: object) -> None:
    path: Path = corpus_path("small/tx_ts.onnx")  # type: ignore[operator]
    model = load(path)
    assert [each.size for each in input_sizes(model, onnxprune.analyze(path, {"ids": (1, 48)}).facts.shapes, {})] == [
        48
    ]


def test_inputs_that_are_no_tensors_are_inspected_all_the_same() -> None:
    proto = example(
        """g (seq(float[N,6]) s) => (float[N,3] y) {
        x = SequenceAt (s, zero)
        h = MatMul (x, w1)
        y = MatMul (h, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"zero": np.array(0)},
        full_check=False,
    )
    model = load(proto)
    assert input_sizes(model, {}) == ()
    assert given_sizes(model, ()) == {}


def test_an_input_that_no_memory_holds_is_refused_before_shapes_are_inferred() -> None:
    """Inference of a Range over one of its sizes took all memory there was."""
    weights = {"w1": (8, 3, 3), "w2": (4, 8, 1)}
    proto = example(
        "g (float[N,3,W] x) => (float[N,4,V] y) { h = Conv (x, w1) r = Relu (h) y = Conv (r, w2) }", weights
    )
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 62
    with pytest.raises(ModelError, match=r"input 'x' of shape \d+x3x4611686018427387904 has more values"):
        onnxprune.analyze(proto)


def test_long_chains_of_sizes_that_follow_from_others_are_known() -> None:
    """A ShuffleNet halves its channels by Shape and Slice in every block; from the ninth on nothing was known of it."""
    blocks, text = 20, ""
    for b in range(blocks):
        text += f"""s{b} = Shape (x{b}) c{b} = Gather (s{b}, one) h{b} = Div (c{b}, two) e{b} = Mul (h{b}, two)
            f{b} = Slice (x{b}, zero, h{b}, one) r{b} = Slice (x{b}, h{b}, e{b}, one)
            v{b} = Conv (r{b}, w{b}) a{b} = Relu (v{b}) x{b + 1} = Concat <axis = 1> (f{b}, a{b}) """
    text = f"g (float[N,8,4,4] x0) => (float[N,8,4,4] y) {{ {text} y = Relu (x{blocks}) }}"
    sizes = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    analysis = onnxprune.analyze(example(text, {f"w{b}": (4, 4, 1, 1) for b in range(blocks)}, sizes))
    assert analysis.facts.shapes[f"x{blocks}"] == (1, 8, 4, 4)
    assert not analysis.incomplete

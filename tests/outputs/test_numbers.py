"""Outputs of whole numbers: classes are compared by their scores, pixels as quantities."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.config import OutputConfig
from onnxprune.evaluation.metrics import compare
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.meaning import Part
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

TEXT = "g (float[N,5] x) => ({outputs}) {{ h = MatMul (x, w1)  a = Relu (h)  z = MatMul (a, w2)  {end} }}"
SHAPES = {"w1": (5, 40), "w2": (40, 3)}
LABEL = "k = ArgMax <axis = 1, keepdims = 0> (z)"


def network(outputs: str, end: str, **constants: np.ndarray) -> onnx.ModelProto:
    return example(TEXT.format(outputs=outputs, end=end), SHAPES, constants)


def parts(proto: onnx.ModelProto, *said: str) -> list[tuple[str, str]]:
    found = read_meaning(analyse(load(proto)), OutputConfig(kinds=said))
    return [(part.output, part.kind) for part in found.parts]


@pytest.mark.parametrize("end", [LABEL, "i = ArgMax <axis = 1> (z) j = Squeeze (i) k = Cast <to = 6> (j)"])
def test_classes_are_compared_by_their_scores(end: str) -> None:
    kind = "int32[N] k" if "Cast" in end else "int64[N] k"
    assert parts(network(kind, end)) == [("z", "classes")]


def test_scores_that_are_put_out_are_not_compared_twice() -> None:
    both = "float[N,3] y, int64[N] k"
    assert parts(network("float[N,3] z, int64[N] k", LABEL)) == [("z", "classes")]
    assert parts(network(both, f"{LABEL} y = Softmax (z)")) == [("y", "classes")]
    assert parts(network(both, "y = Softmax (z) k = ArgMax <axis = 1, keepdims = 0> (y)")) == [("y", "classes")]


def test_a_confidence_beside_a_class_is_not_compared_alone() -> None:
    """It was all that was compared: a heavy loss was told where the classes were the same."""
    end = f"y = Softmax (z) c = ReduceMax <axes = [1], keepdims = 0> (y) {LABEL.replace('(z)', '(y)')}"
    proto = network("float[N] c, int64[N] k", end)
    assert parts(proto) == [("y", "classes")]
    assert parts(proto, "c=quantities") == [("c", "quantities"), ("y", "classes")]
    other = network(
        "float[N] c, int64[N] k, float[N,2] e", f"{end} e = MatMul (a, w3)", w3=np.ones((40, 2), np.float32)
    )
    assert parts(other) == [("e", "quantities"), ("y", "classes")]


def test_maps_of_classes_are_judged_by_labels_of_their_shape() -> None:
    """The classes of pixels alone hardly tell what a channel is worth: a few of them change, or none."""
    text = """g (float[N,3,8,8] x) => (int64[N,8,8] k) { h = Conv <pads = [1, 1, 1, 1]> (x, w1)  a = Relu (h)
        z = Conv (a, w2)  k = ArgMax <axis = 1, keepdims = 0> (z) }"""
    proto = example(text, {"w1": (16, 3, 3, 3), "w2": (4, 16, 1, 1)})
    (part,) = read_meaning(analyse(load(proto))).parts
    assert part == Part("z", "classes", axis=1, width=4, positions=(8, 8))
    rows = np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32)
    labels = onnxprune.feeds(proto, rows)
    labels = np.concatenate([session_run(proto, feed) for feed in labels])
    result = onnxprune.prune(proto, {"x": rows, "y": labels}, targets="macs=0.8", time=False)
    assert result.metrics["accuracy"].before == 1.0
    assert "agreement" in result.metrics
    assert [output.name for output in onnx.load_from_string(result.proto.SerializeToString()).graph.output] == ["k"]


def session_run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feed)
    return np.asarray(found)


@pytest.mark.parametrize("names", [{"z": "other"}, {"z": "a", "a": "z"}])
def test_models_without_the_scores_are_compared_by_their_classes(names: dict[str, str]) -> None:
    """Another export, whose inner tensors have other names, or give these to other tensors."""
    first, second = network("int64[N] k", LABEL), network("int64[N] k", LABEL)
    for node in second.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    found = onnxprune.validate(first, second, rows, time=False)
    assert found.metrics["same_labels"].after == 1.0


PIXELS = "m = Mul (z, large) o = Add (m, middle) r = Round (o) c = Clip (r, zero, most) k = Cast <to = 2> (c)"
LEVELS = {"large": 20, "middle": 128, "zero": 0, "most": 255}


def levels() -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in LEVELS.items()}


def test_pixels_are_quantities() -> None:
    """They were labels: 28.6 % equal and a heavy loss, where an image had lost nothing that shows."""
    proto = network("uint8[N,3] k", PIXELS, **levels())
    assert parts(proto) == [("k", "quantities")]
    flat = network("uint8[N,3] k", PIXELS.replace("k =", "p =") + " k = Transpose <perm = [0, 1]> (p)", **levels())
    assert parts(flat) == [("k", "quantities")]
    rows = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32)
    changes = compare(load(proto), load(proto), onnxprune_rows(proto, rows))
    assert changes["explained"].after == 1.0


def test_quantised_values_are_quantities() -> None:
    """A depth map that ended in QuantizeLinear was labels: 84.5 points fewer "equal", and no model within 1 point."""
    end = "k = QuantizeLinear (z, scale, shift)"
    proto = network("uint8[N,3] k", end, scale=np.array(0.05, np.float32), shift=np.array(128, np.uint8))
    assert parts(proto) == [("k", "quantities")]


TOWER = "o = MatMul (x, w3) i = Relu (o) q = MatMul (i, w4) d = Cast <to = 6> (q)"


@pytest.mark.parametrize("beside", [("int64[N] k", LABEL), ("float[N,3] z", "")])
def test_rounded_values_of_another_head_count_too(beside: tuple[str, str]) -> None:
    """Beside a class map a depth map in millimetres was left out: 1218 mm off instead of 340, and nothing was said."""
    more = {"w3": np.ones((5, 8), np.float32), "w4": np.ones((8, 4), np.float32)}
    proto = network(f"{beside[0]}, int32[N,4] d", f"{beside[1]} {TOWER}", **more)
    assert sorted(parts(proto)) == [("d", "quantities"), ("z", "classes" if "k" in beside[0] else "quantities")]


def test_rounded_values_of_what_is_compared_say_no_more() -> None:
    end = "m = Mul (z, large) k = Cast <to = 2> (m)"
    proto = network("float[N,3] z, uint8[N,3] k", end, large=np.array(20, np.float32))
    assert [name for name, _ in parts(proto)] == ["z"]


def test_class_numbers_of_another_size_are_no_quantities() -> None:
    text = """g (float[N,3,8,8] x) => (uint8[N,1,16,16] k) { h = Conv <pads = [1, 1, 1, 1]> (x, w1)  a = Relu (h)
        z = Conv (a, w2)  i = ArgMax <axis = 1> (z)  f = Cast <to = 1> (i)
        r = Resize <mode = "nearest"> (f, , twice)  k = Cast <to = 2> (r) }"""
    twice = {"twice": np.array([1, 1, 2, 2], np.float32)}
    assert parts(example(text, {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)}, twice)) == [("k", "labels")]


def test_pixels_do_not_train_in_one_clear_line() -> None:
    """No gradient flows through rounding: that was an internal error."""
    pytest.importorskip("torch")
    proto = network("uint8[N,3] k", PIXELS, **levels())
    rows = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32)
    with pytest.raises(onnxprune.InputError, match="no floating-point output"):
        onnxprune.finetune(proto, rows, teacher=proto, config=onnxprune.FinetuneConfig(epochs=1))


def onnxprune_rows(proto: onnx.ModelProto, rows: np.ndarray):
    from onnxprune.calibration.inputs import load_data

    return load_data(rows, load(proto))


def test_what_the_user_says_of_whole_numbers_holds() -> None:
    proto = network("int64[N] k", LABEL)
    assert parts(proto, "k=quantities") == [("k", "quantities")]

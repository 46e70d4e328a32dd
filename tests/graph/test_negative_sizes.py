"""Windows larger than what they go over: onnx infers sizes below zero, and fails an assertion at a Slice of them."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.negative import infer_shapes
from onnxprune.ops.examples import example

CUT = {"from": np.array([0]), "to": np.array([9]), "axes": np.array([2]), "pads": np.array([0, 0, 0, 0, 0, 0, -3, 0])}
CUT |= {"second": np.array([2]), "fourth": np.array([4]), "rows": np.array([-1, 3])}
WAYS = {
    "convolution": "s = Conv (x, w1)",
    "pool": "a = Conv <pads = [2, 2, 2, 2]> (x, w1) s = MaxPool <kernel_shape = [7, 7]> (a)",
    "crop": "a = Conv <pads = [2, 2, 2, 2]> (x, w1) b = Slice (a, from, to, axes) c = Relu (b) s = Pad (c, pads)",
    "reshaped": "n = Shape (x) q = Slice (n, second, fourth) o = Concat <axis = 0> (rows, q) "
    "r = Reshape (x, o) s = Conv (r, w1)",
    "transposed": "a = Conv <pads = [2, 2, 2, 2]> (x, w1) s = ConvTranspose <pads = [9, 9, 9, 9]> (a, w3)",
}


def network(way: str, sizes: str = "N,3,H,W") -> onnx.ModelProto:
    text = (
        f"g (float[{sizes}] x) => (float[N,4,A,B] y) {{ {WAYS[way]} t = Slice (s, from, to, axes) y = Conv (t, w2) }}"
    )
    return example(text, {"w1": (8, 3, 5, 5), "w2": (4, 8, 1, 1), "w3": (8, 8, 5, 5)}, CUT)


def run(code: str, proto: onnx.ModelProto) -> "subprocess.CompletedProcess[bytes]":
    """In a process of its own: the assertion ends it."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=proto.SerializeToString(), capture_output=True, check=False)


@pytest.mark.parametrize("way", WAYS)
def test_sizes_that_are_too_small_are_told(way: str) -> None:
    code = """if True:
        import sys, onnx, onnxprune
        try:
            onnxprune.analyze(onnx.load_model_from_string(sys.stdin.buffer.read()), {"x": (1, 3, 2, 2)})
        except onnxprune.InputError as error:
            print(error)"""
    done = run(code, network(way))
    told = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert told.startswith('shapes="x=1,3,2,2": ')
    assert "axis 2 of 's' would have size -" in told or "axis 3 of 's' would have size -" in told


def test_sizes_below_zero_without_a_slice_are_told_too() -> None:
    """The layers were left out of the counts, and nothing could be pruned."""
    proto = example(
        "g (float[N,3,H,W] x) => (float[N,4,A,B] y) { h = Conv (x, w1) y = Conv (h, w2) }",
        {"w1": (8, 3, 5, 5), "w2": (4, 8, 1, 1)},
    )
    with pytest.raises(InputError, match="axis 2 of 'h' would have size -1"):
        onnxprune.analyze(proto, {"x": (1, 3, 3, 3)})


def test_open_sizes_written_as_numbers_below_zero() -> None:
    """Some converters write -1 for an open size. Every guess is another one, and the file stays as it is."""
    proto = network("convolution")
    for dim in (proto.graph.input[0].type.tensor_type.shape.dim[axis] for axis in (0, 2, 3)):
        dim.dim_value = -1
    code = "import sys, onnx, onnxprune; print(onnxprune.analyze(onnx.load_model_from_string(sys.stdin.buffer.read())))"
    done = run(code, proto)
    assert b"8 of 12 units prunable" in done.stdout, done.stderr.decode()[-500:]


@pytest.mark.parametrize("way", WAYS)
def test_stages_change_no_shape(way: str) -> None:
    proto = network(way, "2,3,40,40")
    wanted = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    assert infer_shapes(proto, strict=True, data_prop=True) == wanted


@pytest.mark.parametrize(("window", "size"), [(300, 512), (900, 4096), (20_000, 65_536)])
def test_windows_longer_than_usual_sizes(window: int, size: int) -> None:
    """Of networks over sound of any length nothing was followed."""
    proto = example(
        "g (float[N,1,T] x) => (float[N,4,A] y) { h = Conv <strides = [4]> (x, w1) y = Conv (h, w2) }",
        {"w1": (8, 1, window), "w2": (4, 8, 1)},
    )
    analysis = onnxprune.analyze(proto)
    assert (analysis.facts.shapes["x"], analysis.prunable) == ((1, 1, size), 8)


def test_where_no_guess_fits_the_message_says_what_to_do() -> None:
    proto = example(
        "g (float[N,1,T] x) => (float[N,4,A] y) { h = Conv (x, w1) y = Conv (h, w2) }",
        {"w1": (1, 1, 70_000), "w2": (4, 1, 1)},
    )
    with pytest.raises(ModelError, match=r"would have size -[0-9]+; give the sizes of its inputs \(shapes\)"):
        onnxprune.analyze(proto)
    assert onnxprune.analyze(proto, {"x": (1, 1, 80_000)}).costs().macs

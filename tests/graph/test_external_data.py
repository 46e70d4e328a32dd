"""Tensors that lie in other files: read where they are whole, refused in one line where anything is wrong with them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.api.prune import prune
from onnxprune.core.errors import ModelError
from onnxprune.graph import external
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto

ROOT = Path(__file__).resolve().parents[2]
DATA = bytes(range(256)) * 16


def perceptron(first: TensorProto | None = None) -> onnx.ModelProto:
    """Three layers, `(N, 8)` to `(N, 4)`; `first` takes the place of the first weight."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / 3).astype(np.float32), f"W{n}")
        for n, shape in enumerate([(8, 32), (32, 32), (32, 4)])
    ]
    if first is not None:
        weights[0] = first
    nodes = [
        helper.make_node("MatMul", ["x", "W0"], ["h0"], name="a"),
        helper.make_node("Relu", ["h0"], ["r0"], name="ra"),
        helper.make_node("MatMul", ["r0", "W1"], ["h1"], name="b"),
        helper.make_node("Relu", ["h1"], ["r1"], name="rb"),
        helper.make_node("MatMul", ["r1", "W2"], ["y"], name="c"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outside(
    name: str = "W0", dims: tuple[int, ...] = (8, 32), kind: int = TensorProto.FLOAT, **entries: str
) -> TensorProto:
    """A tensor whose data are in w.bin, or where `entries` say."""
    tensor = TensorProto(name=name, dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def written(proto: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(DATA)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


WRONG = {
    "strings": ({"kind": TensorProto.STRING}, "keeps STRING elements"),
    "empty strings": ({"kind": TensorProto.STRING, "dims": (0,)}, "keeps STRING elements"),
    "type 0": ({"kind": 0}, "unknown element type 0"),
    "type 30": ({"kind": 99}, "unknown element type 99"),
    "type -1": ({"kind": -1}, "unknown element type -1"),
    "2^32 x 2^32": ({"dims": (2**32, 2**32)}, "impossible shape"),
    "2^62 x 4": ({"dims": (2**62, 4)}, "impossible shape"),
    "2^61 x 8 of 4 bits": ({"dims": (2**61, 8), "kind": TensorProto.INT4}, "impossible shape"),
    "0 x 2^62": ({"dims": (0, 2**62)}, "impossible shape"),
    "2^63 - 1": ({"dims": (2**63 - 1,)}, "impossible shape"),
    "negative": ({"dims": (-8, -32)}, "negative dimension"),
    "100 axes": ({"dims": (1,) * 100}, "impossible shape"),
    "2^40": ({"dims": (2**40,)}, "too short"),
    "one too many": ({"dims": (1025,)}, "too short"),
    "offset beyond the end": ({"offset": "4093", "dims": (1,)}, "too short"),
    "offset of 2^63": ({"offset": str(2**63)}, "too short"),
    "negative offset": ({"offset": "-4"}, "damaged external-data offset"),
    "offset in words": ({"offset": "four"}, "damaged external-data offset"),
    "offset of 5000 digits": ({"offset": "1" * 5000}, "damaged external-data offset"),
    "another length": ({"length": "4"}, "takes 1024 bytes, its external data 4"),
    "length in words": ({"length": "all"}, "damaged external-data length"),
    "NUL in the location": ({"location": "w\0.bin"}, "impossible external-data location"),
    "endless location": ({"location": "a" * 5000}, "impossible external-data location"),
    "no location": ({"location": ""}, "outside the model's folder"),
    "the folder": ({"location": "."}, "is missing"),
    "a device": ({"location": "device"}, "outside the model's folder"),
    "a pipe": ({"location": "pipe"}, "is missing"),
    "links in a circle": ({"location": "around/w.bin"}, "location|missing|outside"),
    "out of the folder and back": ({"location": "../secret"}, "outside the model's folder"),
    "a link's folder": ({"location": "away/secret"}, "outside the model's folder"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("place", ["initializer", "constant", "body", "sparse", "function"])
def test_what_is_wrong_is_refused_in_one_line(case: str, place: str, tmp_path: Path) -> None:
    """Strings made bytes of the file into object pointers; others were internal errors, or counted modulo 2^64."""
    changes, message = WRONG[case]
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(DATA)
    (folder / "device").symlink_to("/dev/zero")
    (folder / "around").symlink_to("around")
    (folder / "away").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    path = written(PLACES[place](outside(**changes)), folder)
    with pytest.raises(ModelError, match=message) as found:
        load(path)
    assert "\n" not in str(found.value)


def as_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return perceptron(tensor)


def as_constant(tensor: TensorProto) -> onnx.ModelProto:
    proto = perceptron()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["W0"], value=tensor))
    del proto.graph.initializer[0]
    return proto


def in_a_body(tensor: TensorProto) -> onnx.ModelProto:
    """Added, reshaped to a scalar's shape, where the sum of the inputs is not 0."""
    proto = perceptron()
    proto.graph.node[-1].output[0] = "y0"
    tensor.name = "K"

    def body(name: str, *constants: TensorProto) -> onnx.GraphProto:
        nodes = [helper.make_node("Cast", [name], [f"{name}f"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("ReduceSum", [f"{name}f"], [f"{name}s"], keepdims=0)]
        nodes += [helper.make_node("Add", ["y0", f"{name}s"], [f"o{name}"])]
        made = [helper.make_tensor_value_info(f"o{name}", TensorProto.FLOAT, ["N", 4])]
        return helper.make_graph(nodes, name, [], made, constants)

    proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "Z"))
    proto.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Cast", ["s"], ["cond"], to=TensorProto.BOOL),
            helper.make_node("If", ["cond"], ["y"], then_branch=body("K", tensor), else_branch=body("Z")),
        ]
    )
    return proto


def as_sparse_values(tensor: TensorProto) -> onnx.ModelProto:
    proto = perceptron()
    sparse = onnx.SparseTensorProto(dims=[2**20], values=tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(256)))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], sparse_value=sparse))
    return proto


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    proto = perceptron()
    tensor.name = ""
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    nodes = [constant, helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto.functions.append(helper.make_function("own", "Dense", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(helper.make_node("Dense", ["x"], ["h0"], domain="own", name="a"))
    del proto.graph.initializer[0]
    return proto


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": as_initializer,
    "constant": as_constant,
    "body": in_a_body,
    "sparse": as_sparse_values,
    "function": in_a_function,
}


@pytest.mark.parametrize("place", ["initializer", "constant", "body", "function"])
def test_data_are_read_beside_the_model_wherever_they_are_used(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of bodies were looked for in the current folder, so that a valid model was refused, or read another file."""
    weight = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    path = written(PLACES[place](outside(offset="64")), tmp_path / "model")
    (tmp_path / "model" / "w.bin").write_bytes(bytes(64) + weight.tobytes())
    inside = PLACES[place](numpy_helper.from_array(weight, "W0"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "w.bin").write_bytes(bytes(8192))
    monkeypatch.chdir(tmp_path / "here")
    feed = {"x": np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)}
    loaded = load(path)
    assert loaded.files == (path, tmp_path / "model" / "w.bin")

    def run(given: bytes | str) -> np.ndarray:
        return ort.InferenceSession(given, providers=["CPUExecutionProvider"]).run(None, feed)[0]

    np.testing.assert_array_equal(run(to_proto(loaded).SerializeToString()), run(inside.SerializeToString()))
    prune(loaded, importance="magnitude", repair=False, targets="macs=0.5").save(tmp_path / "out.onnx")
    assert run(str(tmp_path / "out.onnx")).shape == (5, 4)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (TensorProto.INT4, ml_dtypes.int4),
        (TensorProto.UINT4, ml_dtypes.uint4),
        (TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
        (TensorProto.INT8, np.int8),
        (TensorProto.BOOL, np.bool_),
        (TensorProto.INT64, np.int64),
        (TensorProto.COMPLEX128, np.complex128),
    ],
)
@pytest.mark.parametrize("dims", [(3, 5), (7,), (), (0, 4)])
@pytest.mark.parametrize("place", ["initializer", "body"])
def test_elements_of_every_type(kind: int, dtype: type, dims: tuple[int, ...], place: str, tmp_path: Path) -> None:
    """Two elements of 4 bits share a byte: twice the bytes were asked for."""
    values = np.random.default_rng(0).integers(0, 2, dims).astype(dtype)
    stored = numpy_helper.from_array(values, "W0")
    tensor = outside(dims=dims, kind=kind, offset="3", length=str(len(stored.raw_data)))
    path = written(PLACES[place](tensor), tmp_path / "model")
    (tmp_path / "model" / "w.bin").write_bytes(bytes(3) + stored.raw_data)
    folder = external.DataFolder("model", path.parent)
    found = folder.array(tensor)
    assert (found.dtype, found.shape) == (values.dtype, dims)
    np.testing.assert_array_equal(found.astype(complex), values.astype(complex))
    folder.bring_in([tensor])
    assert not external.is_external(tensor)
    assert tensor.raw_data == stored.raw_data
    assert tensor.data_type == kind


def test_one_file_that_thousands_of_tensors_name_is_held_once(tmp_path: Path) -> None:
    proto = perceptron(outside())
    proto.graph.initializer.extend(outside(f"V{n}") for n in range(5000))
    constants = load(written(proto, tmp_path / "model")).constants
    assert all(constants[f"V{n}"] is constants["W0"] for n in range(5000))


def test_bodies_with_more_data_than_a_protobuf_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "_INLINE_BYTES", 10_000)
    proto = as_sparse_values(outside(dims=(256,)))
    load(written(proto, tmp_path / "model"))
    for n in range(10):
        proto.graph.node.insert(0, onnx.NodeProto())
        proto.graph.node[0].CopyFrom(proto.graph.node[1])
        proto.graph.node[0].output[0] = f"unused{n}"
    with pytest.raises(ModelError, match="too much external data"):
        load(written(proto, tmp_path / "model"))


SHORTENED = """
import os, sys
from onnxprune.graph.load import load
model = load(sys.argv[1])
os.truncate(sys.argv[2], 100)
print(sum(float(array.sum()) for array in model.constants.values()))
"""


def test_data_that_are_shortened_while_they_are_used_do_not_end_the_process(tmp_path: Path) -> None:
    """They were mapped: what another program cut off was a bus error."""
    weight = np.ones((8, 32), np.float32)
    path = written(perceptron(outside()), tmp_path / "model")
    (tmp_path / "model" / "w.bin").write_bytes(weight.tobytes() + bytes(100_000))
    command = [sys.executable, "-c", SHORTENED, str(path), str(tmp_path / "model" / "w.bin")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total = sum(float(numpy_helper.to_array(t).sum()) for t in perceptron().graph.initializer[1:])
    assert float(done.stdout) == pytest.approx(256 + total, rel=1e-4)


def test_large_data_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "_READ_BYTES", 1024)
    proto = perceptron(outside())
    proto.graph.initializer.append(outside("V", (16, 32)))
    constants = load(written(proto, tmp_path / "model")).constants
    assert not isinstance(constants["W0"], np.memmap)
    assert isinstance(constants["V"], np.memmap)
    assert constants["V"].tobytes() == DATA[:2048]


def test_a_protobuf_in_memory_has_no_folder() -> None:
    for place in PLACES.values():
        with pytest.raises(ModelError, match="pass the model's path"):
            load(place(outside()))


def test_a_given_protobuf_stays_as_it_is(tmp_path: Path) -> None:
    proto = in_a_body(outside(dims=(4,)))
    before = proto.SerializeToString(deterministic=True)
    load(written(proto, tmp_path / "model"))
    data = external.DataFolder("model", tmp_path / "model")
    from onnxprune.graph.model import brought_together

    assert brought_together(proto, data) is not proto
    assert brought_together(perceptron(), data) is not None
    assert proto.SerializeToString(deterministic=True) == before

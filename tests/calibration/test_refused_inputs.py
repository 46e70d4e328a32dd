"""Data that do not fit: what is said of them."""

import pickle

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import Runner
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def loaded(text, **keywords):
    return load(example(text, **keywords))


@pytest.fixture(scope="module")
def images():
    return loaded("g (float[N,1,4,4] pixels) => (float[N,1,4,4] y) { y = Relu (pixels) }")


@pytest.fixture(scope="module")
def recurrent():
    """A rate without axes, a state whose batch axis is the second one."""
    return loaded(
        "g (float[batch,5] input, float[2,batch,3] state, int64 sr)"
        " => (float[batch,5] y, float[2,batch,3] next, int64 r)"
        "{ y = Relu (input)  next = Relu (state)  r = Identity (sr) }"
    )


def grey(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4), np.uint8)


def test_whole_feeds_of_a_wrong_shape_say_so(recurrent):
    with pytest.raises(
        InputError, match=r"shape \[4, 2, 3\] does not fit.*'state': float32 \[2, batch, 3\].*no batch axis"
    ):
        load_data({"input": np.zeros((4, 5), np.float32), "state": np.zeros((4, 2, 3), np.float32), "sr": 1}, recurrent)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((3, 5, 5), np.float32),
            r"float32 array of shape \[3, 5, 5\] does not fit.*'pixels': float32 \[N, 1, 4, 4\]",
        ),
        (np.zeros((1, 4, 4, 4, 4), np.float32)[0, 0, 0], r"shape \[4, 4\] does not fit"),
        (np.float32(3), r"shape \[\] does not fit"),
        (np.zeros((0, 4, 4), np.uint8), "there are no rows"),
        (np.full((3, 4, 4), "a"), "cannot take str"),
        (np.zeros((3, 4, 4), complex), "cannot take complex128"),
        (np.array([0, 0, np.nan, 0] * 12, np.float32).reshape(3, 4, 4), "NaN or infinity in row 0"),
        (np.array([0] * 47 + [np.inf], np.float32).reshape(3, 4, 4), "NaN or infinity in row 2"),
    ],
)
def test_arrays_that_do_not_fit(images, array, message):
    with pytest.raises(InputError, match=message):
        load_data(array, images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(3), "3 labels for 4 rows"),
        (np.array([0, 1, np.nan, 2]), "finite numbers"),
        (np.array(["a", "b", "c", "d"]), "must be numbers, not text"),
        (np.array([0, 1, -1, 2]), "must not be negative"),
    ],
)
def test_labels_that_do_not_fit(images, labels, message):
    with pytest.raises(InputError, match=message):
        load_data((grey(4), labels), images)


def test_pickled_objects_are_refused(images, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "trap.npz", x=np.array([Trap()], object), allow_pickle=True)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps([1, 2]))
    for name in ("trap.npy", "trap.npz", "raw.npz"):
        with pytest.raises(InputError, match=f"{name}.*pickled objects are not read"):
            load_data(tmp_path / name, images)


@pytest.mark.parametrize("name", ["empty.npz", "short.npz", "short.npy"])
def test_damaged_files(images, tmp_path, name):
    np.savez(tmp_path / "whole.npz", x=grey(50))
    np.save(tmp_path / "whole.npy", grey(50))
    whole = (tmp_path / f"whole{name[-4:]}").read_bytes()
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        load_data(tmp_path / name, images)


def test_paths_that_hold_no_data(images, tmp_path):
    with pytest.raises(InputError, match=r"missing\.npz does not exist; data are an \.npz"):
        load_data(tmp_path / "missing.npz", images)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: data of this kind are not read"):
        load_data(tmp_path / "notes.txt", images)
    with pytest.raises(InputError, match="holds no"):
        load_data(tmp_path, images)


def test_integers_that_the_models_type_cannot_hold():
    model = loaded("g (int8[N,2] x) => (int8[N,2] y) { y = Identity (x) }")
    assert load_data(np.array([[1, -128]]), model).feeds()["x"].dtype == np.int8
    with pytest.raises(InputError, match="values from 1 to 300, beyond what the model's int8 can hold"):
        load_data(np.array([[1, 300]]), model)
    with pytest.raises(InputError, match=r"'x': int8.*cannot take float32 data"):
        load_data(np.zeros((1, 2), np.float32), model)


def test_truth_values_are_zero_or_one():
    model = loaded("g (bool[N,2] x) => (bool[N,2] y) { y = Not (x) }")
    assert load_data(np.array([[1, 0]]), model).feeds()["x"].tolist() == [[True, False]]
    with pytest.raises(InputError, match="values from 0 to 2"):
        load_data(np.array([[0, 2]]), model)


def test_values_beyond_half_precision():
    model = loaded("g (float16[N,2] x) => (float16[N,2] y) { y = Relu (x) }")
    assert load_data(np.ones((3, 2)), model).feeds()["x"].dtype == np.float16
    with pytest.raises(InputError, match="beyond what the model's float16 can hold"):
        load_data(np.full((3, 2), 1e6), model)


def test_models_without_inputs_are_refused():
    model = loaded("g () => (float[1] y) { y = Constant <value = float[1] {1}> () }")
    with pytest.raises(ModelError, match="has no inputs"):
        load_data("random", model)


def test_inputs_that_are_no_tensors_are_refused():
    proto = example("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    proto.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(proto.graph.input[0].type))
    proto.graph.node[0].op_type = "SequenceAt"
    proto.graph.node[0].input.append("i")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0), "i"))
    model = load(proto)
    with pytest.raises(ModelError, match="'x' is a sequence_type"):
        load_data(np.zeros((2, 1), np.float32), model)


def test_limit_below_one_is_refused(images):
    with pytest.raises(InputError, match="at least one row"):
        load_data(grey(3), images, limit=0)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array(["cat", "dog"]), "text such as 'cat'"),
        (np.array([b"cat", b"dog"]), "text such as b'cat'"),
        (np.array(["cat", None], object), "Python objects such as 'cat'"),
        (np.array(["2026-01-01", "2026-01-02"], "M8[D]"), "dates such as"),
    ],
)
def test_labels_that_are_no_numbers(images, labels, told):
    """They were "not str672": the type of the array, which says nothing of what to do."""
    with pytest.raises(InputError, match=f"labels must be numbers, not {told}.*; store each class's number"):
        load_data((grey(2), labels), images)


@pytest.mark.parametrize("largest", [2**31, 2**40, 2**64 - 1])
def test_labels_that_number_no_classes(images, largest):
    """Beyond 2^63 they became negative, and others asked for as many sums."""
    with pytest.raises(InputError, match="labels must be numbers of classes"):
        load_data((grey(2), np.array([0, largest], np.uint64)), images)


@pytest.mark.parametrize("spec", ["a" * 5000, "a/" * 3000, "a\0b", "rows:", ":f", "a..b:f"])
def test_names_that_no_file_can_have(images, spec):
    with pytest.raises(InputError):
        load_data(spec, images)


def test_a_tensor_file_that_points_elsewhere(images, tmp_path, monkeypatch):
    """Its data were looked for in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(4096))
    for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.STRING):
        tensor = onnx.TensorProto(dims=[1, 1, 4, 4], data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="secret")
        (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
        with pytest.raises(InputError, match=r"input_0\.pb does not hold a tensor.*another file"):
            load_data(tmp_path, images)


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-1, 16], [0, 2**62], [16, 2]])
def test_a_tensor_file_of_an_impossible_shape(images, tmp_path, dims):
    tensor = onnx.TensorProto(dims=dims, data_type=onnx.TensorProto.FLOAT, raw_data=bytes(64))
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(InputError, match=r"input_0\.pb does not hold a tensor"):
        load_data(tmp_path, images)


def test_more_random_rows_than_memory(images):
    with pytest.raises(InputError, match=r"1000000000000 random rows for input 'pixels'.*GB are free"):
        load_data("random", images, limit=10**12)


def test_a_few_rows_of_a_mapped_file_are_in_memory(images, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.core.arrays._READ_BYTES", 100)
    np.save(tmp_path / "rows.npy", grey(50))
    data = load_data(tmp_path / "rows.npy", images, limit=7)
    assert not isinstance(data.arrays["pixels"], np.memmap)
    assert len(data.arrays["pixels"]) == len(data) == 7
    monkeypatch.setattr("onnxprune.calibration.inputs._READ_BYTES", 100)
    other = load_data(tmp_path / "rows.npy", images, limit=7)
    assert isinstance(other.arrays["pixels"], np.memmap)
    np.testing.assert_array_equal(data.feeds()["pixels"], other.feeds()["pixels"])


def test_an_integer_beyond_its_table_is_told() -> None:
    """onnxruntime speaks of "indices element out of data bounds", and the model was blamed."""
    model = loaded("g (int64[N,4] ids) => (float[N,4,3] y) { y = Gather (w, ids) }", weights={"w": (5, 3)})
    with pytest.raises(ModelError, match=r"idx=7.*an integer among the inputs has no place in the table"):
        Runner(model, ["y"]).run_feed({"ids": np.full((1, 4), 7)})

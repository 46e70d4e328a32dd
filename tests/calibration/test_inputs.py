"""The forms in which data are given."""

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data, overlap
from onnxprune.calibration.rows import choose
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def loaded(text, **keywords):
    return load(example(text, **keywords))


@pytest.fixture(scope="module")
def images():
    return loaded("g (float[N,1,4,4] pixels) => (float[N,1,4,4] y) { y = Relu (pixels) }")


@pytest.fixture(scope="module")
def pair():
    return loaded(
        "g (float[N,3] a, int64[N,2] b) => (float[N,3] y, int64[N,2] z) { y = Relu (a)  z = Identity (b) }",
    )


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


def test_npz_with_names_labels_and_other_arrays(images, tmp_path):
    x, y = grey(6), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y, classes=np.array(["a", "b", "c"]), index=np.arange(6))
    data = load_data(tmp_path / "a.npz", images, PreprocessConfig())
    assert len(data) == 6
    np.testing.assert_array_equal(data.targets, y)
    assert [note for note in data.notes if "no input is called 'classes', 'index'" in note and "'y'" not in note]
    feed = data.feeds()
    assert feed["pixels"].dtype == np.float32
    np.testing.assert_array_equal(feed["pixels"][:, 0], x)
    assert str(tmp_path / "a.npz") in data.source


def test_labels_of_another_name_are_not_lost_silently(images, tmp_path):
    np.savez(tmp_path / "a.npz", pixels=grey(6), labels=np.arange(6))
    notes = load_data(tmp_path / "a.npz", images, PreprocessConfig()).notes
    assert any("no input is called 'labels', which is not read; labels are called 'y'" in note for note in notes)


def test_npz_by_input_name_and_npz_with_one_unnamed_array(images, tmp_path):
    np.savez(tmp_path / "named.npz", pixels=grey(2))
    np.savez(tmp_path / "positional.npz", grey(2))
    np.save(tmp_path / "plain.npy", grey(2))
    feeds = [load_data(tmp_path / n, images).feeds()["pixels"] for n in ("named.npz", "positional.npz", "plain.npy")]
    np.testing.assert_array_equal(feeds[0], feeds[1])
    np.testing.assert_array_equal(feeds[0], feeds[2])


def test_label_name_that_is_an_input_is_an_input(tmp_path):
    model = loaded("g (float[N,2] x, float[N,2] y) => (float[N,2] z) { z = Add (x, y) }")
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2), np.float32), y=np.ones((3, 2), np.float32))
    data = load_data(tmp_path / "a.npz", model)
    assert data.targets is None
    assert data.feeds()["y"].all()


def test_several_inputs_need_all_names(pair, tmp_path):
    a, b = np.zeros((4, 3), np.float32), np.arange(8).reshape(4, 2)
    np.savez(tmp_path / "both.npz", a=a, b=b)
    np.testing.assert_array_equal(load_data(tmp_path / "both.npz", pair).feeds()["b"], b)
    np.savez(tmp_path / "one.npz", a=a, c=b)
    with pytest.raises(InputError, match=r"one\.npz: no array for input 'b'; it holds 'a', 'c'.*'b': int64 \[N, 2\]"):
        load_data(tmp_path / "one.npz", pair)
    np.savez(tmp_path / "uneven.npz", a=a, b=b[:3])
    with pytest.raises(InputError, match="different numbers of rows: 'a' 4, 'b' 3"):
        load_data(tmp_path / "uneven.npz", pair)


def test_folder_of_files_is_strung_together_in_order_of_names(images, tmp_path):
    parts = [grey(2, seed) for seed in range(3)]
    np.savez(tmp_path / "b.npz", x=parts[1], y=[1, 1])
    np.savez(tmp_path / "a.npz", x=parts[0], y=[0, 0])
    np.savez(tmp_path / "c.npz", x=parts[2], y=[2, 2])
    data = load_data(tmp_path, images)
    np.testing.assert_array_equal(data.feeds()["pixels"][:, 0], np.concatenate(parts))
    np.testing.assert_array_equal(data.targets, [0, 0, 1, 1, 2, 2])


def test_folder_of_single_rows(images, tmp_path):
    for index, image in enumerate(grey(3)):
        np.save(tmp_path / f"{index}.npy", image[None])
    np.testing.assert_array_equal(load_data(tmp_path, images).feeds()["pixels"][:, 0], grey(3))


def test_folder_of_npy_files_named_after_inputs(pair, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 3), np.float32))
    np.save(tmp_path / "b.npy", np.arange(8).reshape(4, 2))
    np.save(tmp_path / "y.npy", np.arange(4))
    data = load_data(tmp_path, pair)
    assert data.feeds()["b"].shape == (4, 2)
    np.testing.assert_array_equal(data.targets, np.arange(4))


def test_folder_whose_files_differ_names_both(images, tmp_path):
    np.savez(tmp_path / "a.npz", x=grey(2), y=[0, 0])
    np.savez(tmp_path / "b.npz", x=grey(2))
    with pytest.raises(InputError, match=r"only one of .*a\.npz and .*b\.npz has labels"):
        load_data(tmp_path, images)


def test_onnx_test_data_sets(pair, tmp_path):
    arrays = [(np.full((2, 3), i, np.float32), np.full((2, 2), i, np.int64)) for i in range(12)]
    for index, feed in enumerate(arrays):
        folder = tmp_path / f"test_data_set_{index:02d}"
        folder.mkdir()
        for position, array in enumerate(feed):
            (folder / f"input_{position}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    data = load_data(tmp_path, pair)
    np.testing.assert_array_equal(data.feeds()["b"][:, 0], np.repeat(np.arange(12), 2))
    assert len(load_data(tmp_path / "test_data_set_03", pair)) == 2
    (tmp_path / "test_data_set_03" / "input_1.pb").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"input_1\.pb does not hold a tensor"):
        load_data(tmp_path, pair)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "rows_for_tests.py").write_text(
        "import numpy as np\n"
        "def endless():\n"
        "    while True:\n"
        "        yield np.ones((1, 4, 4), np.float32)\n"
        "def labelled():\n"
        "    for i in range(3):\n"
        "        yield np.full((2, 1, 4, 4), i, np.float32), np.array([i, i])\n"
        "def mapping():\n"
        "    return {'pixels': np.zeros((5, 1, 4, 4), np.float32), 'y': np.arange(5)}\n"
        "def nonsense():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "rows_for_tests"
    sys.modules.pop("rows_for_tests", None)


def test_function_that_yields_without_end_is_stopped(images, module):
    assert len(load_data(f"{module}:endless", images, limit=7)) == 7


def test_function_forms(images, module):
    data = load_data(f"{module}:labelled", images)
    np.testing.assert_array_equal(data.targets, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(data.feeds()["pixels"][:, 0, 0, 0], [0, 0, 1, 1, 2, 2])
    assert len(load_data(f"{module}:mapping", images)) == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rows_for_tests:absent", "has no function 'absent'"),
        ("no_such_module_here:f", "module 'no_such_module_here' cannot be imported"),
        ("rows_for_tests:nonsense", "gave a int; it must return or yield arrays"),
    ],
)
def test_function_that_cannot_be_used(images, module, spec, message):
    with pytest.raises(InputError, match=message):
        load_data(spec, images)


def test_random_is_seeded_and_says_what_it_is(pair):
    first, again, other = (load_data("random", pair, limit=9, seed=seed) for seed in (1, 1, 2))
    assert first.source == "random"
    assert "noise" in first.warnings[0]
    assert len(first) == 9
    np.testing.assert_array_equal(first.feeds()["a"], again.feeds()["a"])
    assert not np.array_equal(first.feeds()["a"], other.feeds()["a"])
    assert first.feeds()["b"].dtype == np.int64


def test_arrays_in_memory(images, pair):
    x = grey(4)
    by_array = load_data(x, images)
    by_pair = load_data((x, np.arange(4)), images)
    by_name = load_data({"pixels": x}, images)
    for data in (by_array, by_pair, by_name):
        np.testing.assert_array_equal(data.feeds()["pixels"][:, 0], x)
    np.testing.assert_array_equal(by_pair.targets, np.arange(4))
    assert load_data(by_array, images) is by_array
    assert len(load_data(by_array, images, limit=2)) == 2
    with pytest.raises(InputError, match="no array for inputs 'a', 'b'; it holds 'x'"):
        load_data(np.zeros((2, 3), np.float32), pair)


def test_whole_feeds_for_inputs_without_a_batch_axis(recurrent):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    state = rng.standard_normal((4, 2, 1, 3)).astype(np.float32)
    data = load_data({"input": x, "state": state, "sr": np.int64(16000)}, recurrent)
    assert data.whole
    feeds = list(data.batches(3))
    assert [feed["input"].shape for feed in feeds] == [(1, 5)] * 4
    assert all(feed["sr"].shape == () and feed["sr"] == 16000 for feed in feeds)
    np.testing.assert_array_equal(np.stack([feed["state"] for feed in feeds]), state)
    with pytest.raises(InputError, match="complete feed"):
        data.feeds()
    # One state for all rows.
    shared = load_data({"input": x, "state": state[0], "sr": np.int64(16000)}, recurrent)
    assert len(shared) == 4
    np.testing.assert_array_equal(list(shared.batches(1))[3]["state"], state[0])


def test_a_batch_with_its_states_is_as_many_rows(recurrent):
    """500 rows with their states, `(1, 500, 48)`, were one row: "accuracy hardly measured"."""
    rng = np.random.default_rng(0)
    x, state = rng.standard_normal((4, 5)).astype(np.float32), rng.standard_normal((2, 4, 3)).astype(np.float32)
    batch = load_data({"input": x, "state": state, "sr": np.int64(1)}, recurrent)
    feeds = list(batch.batches(3))
    assert len(batch) == 4
    assert [feed["input"].shape for feed in feeds] == [(1, 5)] * 4
    np.testing.assert_array_equal(np.concatenate([feed["input"] for feed in feeds]), x)
    np.testing.assert_array_equal(np.concatenate([feed["state"] for feed in feeds], axis=1), state)
    single = load_data({"input": x[:1], "state": state[:, :1], "sr": np.int64(1)}, recurrent)
    assert len(single) == 1
    np.testing.assert_array_equal(next(single.batches(1))["state"], state[:, :1])


@pytest.mark.parametrize("inputs", ["{0}, {1}, {2}", "{2}, {1}, {0}", "{1}, {0}, {2}"])
def test_batch_is_found_whatever_the_order_of_inputs(inputs):
    declared = inputs.format("float[batch,5] input", "float[2,batch,3] state", "int64 sr")
    model = loaded(
        f"g ({declared}) => (float[batch,5] y, float[2,batch,3] next, int64 r)"
        "{ y = Relu (input)  next = Relu (state)  r = Identity (sr) }"
    )
    held = {"input": np.zeros((4, 5), np.float32), "state": np.zeros((2, 1, 3), np.float32), "sr": np.int64(1)}
    data = load_data(held, model)
    assert len(data) == 4
    assert next(data.batches(2))["input"].shape == (1, 5)


def test_label_column_is_taken(images):
    np.testing.assert_array_equal(load_data((grey(3), np.array([[2], [0], [1]], np.uint8)), images).targets, [2, 0, 1])


def test_double_precision_is_kept():
    model = loaded("g (double[N,1] x) => (double[N,1] y) { y = Relu (x) }")
    value = 1 + 1e-12
    assert load_data(np.array([[value]]), model).feeds()["x"][0, 0] == value


def test_text_inputs(tmp_path):
    model = loaded("g (string[N] x) => (string[N] y) { y = Identity (x) }")
    np.savez(tmp_path / "a.npz", x=np.array(["one", "three"]))
    assert load_data(tmp_path / "a.npz", model).feeds()["x"].tolist() == ["one", "three"]


@given(count=st.integers(1, 500), limit=st.integers(1, 500), seed=st.integers(0, 99))
def test_chosen_rows_are_ascending_distinct_and_spread(count, limit, seed):
    rows = choose(count, limit, seed)
    assert len(rows) == min(count, limit)
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] <= rows[-1] < count
    if limit < count:
        assert np.diff(rows).max(initial=1) <= 2 * -(-count // limit)
    np.testing.assert_array_equal(rows, choose(count, limit, seed))


def test_limit_takes_every_class_of_sorted_rows(images):
    y = np.repeat(np.arange(10), 100)
    data = load_data((grey(1000), y), images, limit=50, seed=3)
    np.testing.assert_array_equal(np.bincount(data.targets), [5] * 10)
    np.testing.assert_array_equal(data.feeds()["pixels"][:, 0], grey(1000)[data.rows])
    assert not np.array_equal(data.rows, load_data((grey(1000), y), images, limit=50, seed=4).rows)


def test_overlap_counts_rows_of_the_same_content(images, tmp_path):
    x = grey(20)
    np.save(tmp_path / "floats.npy", x[5:15].astype(np.float64)[:, None])
    first = load_data(x[:10], images)
    second = load_data(tmp_path / "floats.npy", images)
    assert overlap(first, second) == 5
    assert overlap(first, load_data(x[10:], images)) == 0
    assert overlap(first, first.take([0, 1, 1])) == 2


def test_datasets_can_be_sent_to_other_processes(images):
    data = load_data(grey(5), images, PreprocessConfig(mean=(0.5,), std=(0.25,)), limit=3)
    copy = pickle.loads(pickle.dumps(data))
    assert isinstance(copy, Dataset)
    np.testing.assert_array_equal(copy.feeds()["pixels"], data.feeds()["pixels"])


def test_given_arrays_are_not_changed(images):
    x = grey(3).astype(np.float32)
    before = x.copy()
    load_data(x, images, PreprocessConfig(mean=(1.0,), std=(2.0,))).feeds()
    np.testing.assert_array_equal(x, before)

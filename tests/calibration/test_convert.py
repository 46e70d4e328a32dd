"""How stored rows become the model's: layout, scaling, type."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.arrange import arrange
from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def taking(dims, kind="float"):
    return load(example(f"g ({kind}[{dims}] x) => ({kind}[{dims}] y) {{ y = Identity (x) }}"))


def stored(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("dims", ["N,1,28,28", "1,1,28,28", "N,28,28,1", "N,784", "1,784,1", "N,28,28"])
@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 28, 28, 1), (3, 1, 28, 28), (3, 784), (3, 784, 1), (3, 1, 784)])
def test_grey_images_reach_every_form_of_input(dims, shape):
    x = stored(*shape)
    feed = load_data(x, taking(dims)).feeds()["x"]
    expected = tuple(3 if axis == 0 else int(d) for axis, d in enumerate(dims.split(",")))
    assert feed.shape == expected
    np.testing.assert_array_equal(feed.reshape(3, 784), x.reshape(3, 784))


@pytest.mark.parametrize(
    ("dims", "shape", "axes"),
    [
        ("N,3,6,5", (2, 6, 5, 3), (0, 3, 1, 2)),
        ("N,6,5,3", (2, 3, 6, 5), (0, 2, 3, 1)),
        ("N,3,6,5", (2, 3, 6, 5), (0, 1, 2, 3)),
        ("N,3,h,w", (2, 6, 5, 3), (0, 3, 1, 2)),
        ("N,h,w,3", (2, 3, 6, 5), (0, 2, 3, 1)),
    ],
)
def test_channels_move_to_where_the_model_has_them(dims, shape, axes):
    x = stored(*shape)
    np.testing.assert_array_equal(load_data(x, taking(dims)).feeds()["x"], x.transpose(axes))


def test_layout_option_decides_where_shapes_do_not():
    x = stored(2, 6, 5, 3)
    np.testing.assert_array_equal(load_data(x, taking("N,c,h,w")).feeds()["x"], x)
    moved = load_data(x, taking("N,c,h,w"), PreprocessConfig(layout="nchw")).feeds()["x"]
    np.testing.assert_array_equal(moved, x.transpose(0, 3, 1, 2))
    flat = load_data(x, taking("N,90"), PreprocessConfig(layout="nchw")).feeds()["x"]
    np.testing.assert_array_equal(flat, x.transpose(0, 3, 1, 2).reshape(2, 90))
    with pytest.raises(InputError, match="does not fit"):
        load_data(x, taking("N,3,6,5"), PreprocessConfig(layout="nhwc"))


def test_rows_of_another_size_are_never_reshaped_into_place():
    for shape in ((2, 6, 10, 3), (2, 5, 6, 3), (2, 45, 2), (2, 89)):
        with pytest.raises(InputError, match="does not fit"):
            load_data(stored(*shape), taking("N,3,6,5"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(["auto", "nchw", "nhwc"]))
def test_an_arrangement_keeps_every_value_once(row, layout):
    for wanted in (tuple(row), tuple(row[::-1]), (int(np.prod(row)),), (1, *row), (*row[1:], row[0])):
        found = arrange(row, wanted, layout)
        if found is None:
            continue
        values = np.arange(np.prod(row)).reshape(row)
        if found.move is not None:
            values = np.moveaxis(values, *found.move)
        if found.shape is not None:
            values = values.reshape(found.shape)
        assert values.shape == wanted
        assert sorted(values.ravel()) == list(range(values.size))


MEAN, STD = (0.5, 0.25, 0.125), (0.5, 2.0, 4.0)


@pytest.mark.parametrize("dims", ["N,3,6,5", "N,6,5,3", "N,90"])
@pytest.mark.parametrize("first", [True, False])
def test_mean_and_std_go_to_the_stored_channels(dims, first):
    x = stored(2, 6, 5, 3)
    expected = (x / 255 - np.array(MEAN)) / np.array(STD)
    given_rows = x.transpose(0, 3, 1, 2) if first else x
    feed = load_data(given_rows, taking(dims), PreprocessConfig(mean=MEAN, std=STD)).feeds()["x"]
    if dims == "N,90":
        feed = feed.reshape(given_rows.shape)
    if (feed.shape[1] == 3) != (expected.shape[1] == 3):
        expected = expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(feed, expected, rtol=0, atol=1e-6)
    assert feed.dtype == np.float32


@pytest.mark.parametrize(("dims", "axes"), [("N,3,3,5", (0, 3, 1, 2)), ("N,45", None)])
def test_channels_are_the_axis_that_moves_where_another_has_their_number(dims, axes):
    x = np.zeros((2, 3, 5, 3), np.uint8)
    feed = load_data(x, taking(dims), PreprocessConfig(mean=MEAN, layout="auto" if axes else "nhwc")).feeds()["x"]
    expected = np.broadcast_to(-np.array(MEAN), x.shape)
    np.testing.assert_allclose(feed, expected.transpose(axes) if axes else expected.reshape(2, 45))


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({}, lambda x: x),
        ({"scale": 0.5}, lambda x: x * 0.5),
        ({"mean": (0.5,)}, lambda x: x / 255 - 0.5),
        ({"std": (0.5,)}, lambda x: x / 255 / 0.5),
        ({"scale": 1.0, "mean": (127.0,), "std": (128.0,)}, lambda x: (x - 127) / 128),
    ],
)
@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_scaling_of_integers(options, formula, kind):
    x = stored(4, 7)
    feed = load_data(x, taking("N,7", kind), PreprocessConfig(**options)).feeds()["x"]
    assert feed.dtype == {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    tolerance = {"float": 1e-6, "float16": 1e-3, "double": 1e-14}[kind]
    np.testing.assert_allclose(feed.astype(float), formula(x.astype(float)), rtol=tolerance, atol=tolerance)


def test_floats_are_only_cast_unless_the_user_says_otherwise():
    x = stored(4, 7).astype(np.float64)
    np.testing.assert_array_equal(load_data(x, taking("N,7")).feeds()["x"], x)
    shifted = load_data(x, taking("N,7"), PreprocessConfig(mean=(1.0,), std=(2.0,))).feeds()["x"]
    np.testing.assert_allclose(shifted, (x - 1) / 2)


def test_unscaled_images_are_noted():
    model = taking("N,7")
    assert "0 to 255" in load_data(stored(4, 7), model).notes[0]
    assert not load_data(stored(4, 7), model, PreprocessConfig(scale=1.0)).notes
    assert not load_data(stored(4, 7), model, PreprocessConfig(mean=(0.5,))).notes
    assert not load_data(stored(4, 7).astype(np.float32), model).notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (1.0, 2.0)}, r"mean has 2 values, but no outer axis of rows \[3, 6, 5\]"),
        ({"std": (0.0,)}, "std .* other than 0"),
        ({"mean": (127.5,), "std": (128.0,)}, "divided by 255.* before the mean 127.5 is subtracted; give --scale 1"),
    ],
)
def test_scaling_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        load_data(stored(2, 3, 6, 5), taking("N,3,6,5"), PreprocessConfig(**options))


def test_scaling_an_integer_input_is_refused():
    with pytest.raises(InputError, match="takes no scaled values"):
        load_data(stored(2, 7), taking("N,7", "uint8"), PreprocessConfig(mean=(0.5,)))


def test_scaling_concerns_only_the_images_among_several_inputs():
    model = load(
        example(
            "g (float[N,3,4,4] image, float[N,3] box) => (float[N,3,4,4] y, float[N,3] z)"
            "{ y = Identity (image)  z = Identity (box) }"
        )
    )
    held = {"image": np.full((2, 3, 4, 4), 255, np.uint8), "box": np.full((2, 3), 7, np.uint8)}
    feed = load_data(held, model, PreprocessConfig(mean=(1.0, 1.0, 1.0))).feeds()
    assert not feed["image"].any()
    assert (feed["box"] == 7).all()

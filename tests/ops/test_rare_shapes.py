"""Forms of operators on axes that exporters write seldom: omitted axes, computed limits, reversed rows."""

import numpy as np
import pytest
from oracle import analysed, prunable

from onnxprune.ops.examples import example

CHANNELS = np.array([1])


def test_squeeze_without_axes_drops_those_of_size_1() -> None:
    model = example(
        """g (float[2,6] x) => (float[2,3] y) {
        h = MatMul (x, w1)
        u = Unsqueeze (h, axis)
        s = Squeeze (u)
        y = MatMul (s, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"axis": CHANNELS},
    )
    assert prunable(model) == 8


def test_an_input_that_is_unsqueezed_and_added_keeps_the_channels() -> None:
    model = example(
        """g (float[N,8] x) => (float[N,1,3] y) {
        h = MatMul (x, w1)
        u = Unsqueeze (x, axis)
        v = Unsqueeze (h, axis)
        a = Add (u, v)
        y = MatMul (a, w2) }""",
        {"w1": (8, 8), "w2": (8, 3)},
        {"axis": CHANNELS},
    )
    assert prunable(model) == 0


def test_three_heads_are_no_packed_attention() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,2] y) {
        h = MatMul (x, w1)
        r = Reshape (h, heads)
        m = ReduceMean <axes = [2], keepdims = 0> (r)
        y = MatMul (m, w2) }""",
        {"w1": (6, 12), "w2": (3, 2)},
        {"heads": np.array([0, 3, 4])},
    )
    assert prunable(model) == 3


def test_a_channel_shuffle_prunes_offsets_within_groups() -> None:
    model = example(
        """g (float[N,3,4,4] x) => (float[N,2,A,B] y) {
        h = Conv (x, w1)
        s = Reshape (h, split)
        t = Transpose <perm = [0, 2, 1, 3, 4]> (s)
        m = Reshape (t, merge)
        y = Conv (m, w2) }""",
        {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1)},
        {"split": np.array([0, 2, 4, 4, 4]), "merge": np.array([0, 8, 4, 4])},
    )
    assert prunable(model) == 4


def test_an_unused_output_of_split_keeps_the_channels() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w1)
        a, b = Split <axis = 1> (h, sizes)
        y = MatMul (b, w2) }""",
        {"w1": (6, 8), "w2": (5, 3)},
        {"sizes": np.array([3, 5])},
    )
    assert prunable(model) > 0
    model.graph.node[1].output[0] = ""
    assert analysed(model).prunable == 0


def test_splits_by_the_size_of_an_input_keep_the_channels() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w1)
        s = Shape (x)
        n = Gather (s, first)
        sizes = Concat <axis = 0> (n, rest)
        a, b = Split <axis = 1> (h, sizes)
        y = MatMul (b, w2) }""",
        {"w1": (6, 8), "w2": (7, 3)},
        {"first": np.array([0]), "rest": np.array([7])},
    )
    assert analysed(model).prunable == 0


@pytest.mark.parametrize("computed", [None, "starts", "ends", "axes", "steps"])
def test_slices_by_the_size_of_an_input_keep_the_channels(computed: str | None) -> None:
    names = ["starts", "ends", "axes", "steps"]
    model = example(
        f"""g (float[N,5,6] x) => (float[A,B,3] y) {{
        h = MatMul (x, w1)
        s = Shape (x)
        n = Gather (s, first)
        k = Slice (h, {", ".join("n" if name == computed else name for name in names)})
        y = MatMul (k, w2) }}""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"first": np.array([0])} | dict(zip(names, (np.array([v]) for v in (0, 3, 1, 1)), strict=True)),
    )
    found = analysed(model)
    assert found.prunable == (0 if computed else 8)
    assert ("limits of Slice are computed" in {item.reason for item in found.not_pruned}) == (computed is not None)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_slice_of_channels_that_also_reverses_rows(kind: type[np.signedinteger]) -> None:
    model = example(
        """g (float[2,3,4,4] x) => (float[2,4,4,4] y) {
        h = Conv (x, w1)
        s = Slice (h, starts, ends, axes, steps)
        y = Conv (s, w2) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 5, 1, 1)},
        {
            "starts": np.array([2, -1], kind),
            "ends": np.array([7, np.iinfo(kind).min], kind),
            "axes": np.array([1, -1], kind),
            "steps": np.array([1, -1], kind),
        },
    )
    assert prunable(model) == 8


@pytest.mark.parametrize("target", [(8,), (1, 8), (5, 8), (4, 1, 8)])
def test_channels_expanded_to_a_shape_of_any_rank(target: tuple[int, ...]) -> None:
    model = example(
        """g (float[5,6] x) => (float[A,B,3] y) {
        h = MatMul (x, w1)
        e = Expand (h, shape)
        f = Expand (e, three)
        y = MatMul (f, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"shape": np.array(target), "three": np.array([1, 1, 1])},
    )
    assert prunable(model) == 8


def test_channels_on_the_first_axis_are_expanded() -> None:
    model = example(
        """g (float[5,6] x) => (float[4,3] y) {
        h = MatMul (x, w1)
        m = ReduceMean <axes = [0]> (h)
        t = Transpose (m)
        e = Expand (t, shape)
        u = Transpose (e)
        y = MatMul (u, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"shape": np.array([8, 4])},
    )
    assert prunable(model) == 8


def test_a_filled_tensor_that_is_tiled_along_another_axis_takes_channels() -> None:
    model = example(
        """g (float[N,5,6] x) => (float[N,A,3] y) {
        h = MatMul (x, w1)
        s = Shape (x)
        n = Slice (s, zero, one)
        t = Concat <axis = 0> (n, rest)
        z = ConstantOfShape <value = float[1] {0.5}> (t)
        r = Tile (z, repeats)
        c = Concat <axis = 1> (r, h)
        y = MatMul (c, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {
            "zero": np.array([0]),
            "one": np.array([1]),
            "rest": np.array([1, 8]),
            "repeats": np.array([1, 2, 1]),
        },
    )
    assert prunable(model) == 8


@pytest.mark.parametrize("axis", ["", "<axis = -2> "])
def test_channels_split_along_the_first_axis(axis: str) -> None:
    model = example(
        f"""g (float[5,6] x) => (float[3,5] y) {{
        h = MatMul (x, w1)
        t = Transpose (h)
        a, b = Split {axis}(t, sizes)
        p = MatMul (w2, a)
        q = MatMul (w3, b)
        y = Add (p, q) }}""",
        {"w1": (6, 8), "w2": (3, 5), "w3": (3, 3)},
        {"sizes": np.array([5, 3])},
    )
    assert prunable(model) == 8


def test_a_constant_that_is_added_and_appended() -> None:
    model = example(
        """g (float[2,6] x) => (float[2,3] y, float[2,3] z) {
        h = MatMul (x, w1)
        k = Concat <axis = 1> (h, c)
        y = MatMul (k, w2)
        a = Add (h, c)
        z = MatMul (a, w3) }""",
        {"w1": (6, 8), "c": (2, 8), "w2": (16, 3), "w3": (8, 3)},
    )
    assert prunable(model) == 0


def test_two_weights_split_from_one_constant() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        w1, w2, rest = Split <axis = 0> (w, sizes)
        a = MatMul (x, w1)
        b = MatMul (x, w2)
        c = Add (a, b)
        d = Add (c, rest)
        y = MatMul (d, w3) }""",
        {"w": (13, 8), "w3": (8, 3)},
        {"sizes": np.array([6, 6, 1])},
    )
    assert prunable(model) == 8


def test_a_shape_that_is_an_output_still_tells_the_width_before() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y, int64[2] s) {
        h = MatMul (x, w1)
        s = Shape (h)
        y = MatMul (h, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
    )
    assert prunable(model) == 8


@pytest.mark.parametrize(("pads", "units"), [([0, 0, 1, 1, 0, 0, 1, 1], 8), ([0, 1, 0, 0, 0, 1, 0, 0], 0)])
def test_reflection_of_rows_passes_channels_and_of_channels_keeps_them(pads: list[int], units: int) -> None:
    model = example(
        """g (float[N,3,6,6] x) => (float[N,A,B,C] y) {
        h = Conv (x, w1)
        y0 = Pad <mode = "reflect"> (h, pads)
        y = Conv (y0, w2) }""",
        {"w1": (8, 3, 1, 1), "w2": (2, 8 if units else 10, 1, 1)},
        {"pads": np.array(pads)},
    )
    assert prunable(model) == units


def test_a_filled_tensor_that_is_unsqueezed_takes_channels() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,1,3] y) {
        h = MatMul (x, w1)
        s = Shape (x)
        n = Slice (s, zero, one)
        t = Concat <axis = 0> (n, rest)
        z = ConstantOfShape <value = float[1] {0.5}> (t)
        u = Unsqueeze (z, one)
        v = Unsqueeze (h, one)
        a = Add (u, v)
        y = MatMul (a, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([8])},
    )
    assert prunable(model) == 8

"""Forms of operators that exporters write seldom: omitted inputs, computed limits, reversed axes, older versions."""

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune.ops.examples import example

CHANNELS = np.array([1])


def prunable(model: onnx.ModelProto) -> int:
    """Prunable units, after removal at two widths agreed with the oracle."""
    a = analysed(model)
    rng = np.random.default_rng(0)
    if a.space.groups:
        for share in (0.3, 0.6):
            check_removal(a, random_removal(a.space, share, rng))
    return a.space.prunable


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
    assert analysed(model).space.prunable == 0


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
    assert analysed(model).space.prunable == 0


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
    found = analysed(model).space
    assert found.prunable == (0 if computed else 8)
    assert ("limits of Slice are computed" in {item.reason for item in found.not_pruned}) == (computed is not None)


def test_a_slice_of_channels_that_also_reverses_rows() -> None:
    model = example(
        """g (float[2,3,4,4] x) => (float[2,4,4,4] y) {
        h = Conv (x, w1)
        s = Slice (h, starts, ends, axes, steps)
        y = Conv (s, w2) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 5, 1, 1)},
        {
            "starts": np.array([2, -1]),
            "ends": np.array([7, np.iinfo(np.int64).min]),
            "axes": np.array([1, -1]),
            "steps": np.array([1, -1]),
        },
    )
    assert prunable(model) == 8


def test_a_constant_start_of_a_recurrence_goes_with_its_units() -> None:
    model = example(
        """g (float[7,1,6] x) => (float[7,1,1,3] y) {
        e = MatMul (x, w0)
        h = GRU <hidden_size = 5> (e, w, r, b, , start)
        y = MatMul (h, w1) }""",
        {"w0": (6, 8), "w": (1, 15, 8), "r": (1, 15, 5), "b": (1, 30), "start": (1, 1, 5), "w1": (5, 3)},
    )
    assert prunable(model) == 13


def test_gemm_adds_computed_channels() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = Gemm (x, w1)
        c = Gemm (x, w2)
        p = Gemm (h, w3, c)
        y = Gemm (p, w4) }""",
        {"w1": (6, 8), "w2": (6, 5), "w3": (8, 5), "w4": (5, 3)},
    )
    assert prunable(model) == 13


def test_what_is_said_of_a_dense_layer() -> None:
    layer = analysed(
        example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm (x, w1, b1)
            y = Gemm <transB = 1> (h, w2) }""",
            {"w1": (6, 8), "b1": (8,), "w2": (3, 8)},
        )
    ).space.layers
    assert [(item.weight, item.bias, item.input_axis, item.output_axis) for item in layer] == [
        ("w1", "b1", 1, 1),
        ("w2", None, 1, 1),
    ]
    assert [(item.in_axis, item.out_axis) for item in layer] == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ("pads = [1, 0, 0, 1], ", (1, 0, 0, 1)),
        ('auto_pad = "VALID", ', (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
        ('auto_pad = "SAME_UPPER", ', (1, 1, 2, 2)),
        ('auto_pad = "SAME_LOWER", ', (2, 2, 1, 1)),
        ("output_shape = [10, 9], ", (1, 1, 0, 1)),
    ],
)
def test_what_a_transposed_convolution_cuts(attributes: str, pads: tuple[int, ...]) -> None:
    model = example(
        f"""g (float[N,3,4,4] x) => (float[N,2,A,B] y) {{
        h = ConvTranspose <{attributes}strides = [2, 2]> (x, w1)
        y = Conv (h, w2) }}""",
        {"w1": (3, 8, 5, 5), "w2": (2, 8, 1, 1)},
    )
    layer = analysed(model).space.layers[0]
    assert layer.transposed
    assert layer.window is not None
    assert layer.window.pads == pads
    assert prunable(model) == 8


def test_a_transposed_convolution_along_one_axis_cuts_nothing() -> None:
    model = example(
        """g (float[N,3,4] x) => (float[N,2,A] y) {
        h = ConvTranspose (x, w1)
        y = Conv (h, w2) }""",
        {"w1": (3, 8, 5), "w2": (2, 8, 1)},
    )
    window = analysed(model).space.layers[0].window
    assert window is not None
    assert window.pads == (0, 0)
    assert prunable(model) == 8


def test_sampling_across_channels_keeps_them() -> None:
    model = example(
        """g (float[1,3,6,6] x) => (float[1,6,2,2] y) {
        h = Conv (x, w1)
        t = Transpose <perm = [0, 2, 1, 3]> (h)
        y = GridSample (t, grid) }""",
        {"w1": (8, 3, 1, 1), "grid": (1, 2, 2, 2)},
    )
    assert prunable(model) == 0


def test_resizing_channels_keeps_them() -> None:
    model = example(
        """g (float[1,3,6,6] x) => (float[1,6,16,6] y) {
        h = Conv (x, w1)
        t = Transpose <perm = [0, 2, 1, 3]> (h)
        y = Resize (t, , scales) }""",
        {"w1": (8, 3, 1, 1)},
        {"scales": np.array([1, 1, 2, 1], np.float32)},
    )
    assert prunable(model) == 0


def test_local_response_normalisation_keeps_channels() -> None:
    model = example(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        h = Conv (x, w1)
        n = LRN <size = 3> (h)
        y = Conv (n, w2) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1)},
    )
    assert prunable(model) == 0


@pytest.mark.parametrize(("opset", "units"), [(11, 0), (17, 8)])
def test_softmax_over_positions_mixes_what_follows_only_in_old_versions(opset: int, units: int) -> None:
    model = example(
        """g (float[N,5,6] x) => (float[N,5,3] y) {
        h = MatMul (x, w1)
        s = Softmax <axis = 1> (h)
        y = MatMul (s, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        opset=opset,
    )
    assert prunable(model) == units


def test_weights_quantised_in_blocks_stay() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        w = DequantizeLinear <axis = 0, block_size = 3> (codes, scale)
        h = MatMul (x, w)
        y = MatMul (h, w2) }""",
        {"scale": (2, 8), "w2": (8, 3)},
        {"codes": np.random.default_rng(0).integers(-9, 9, (6, 8)).astype(np.int8)},
        opset=21,
    )
    assert prunable(model) == 0


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


@pytest.mark.parametrize("operator", ["GroupNormalization <num_groups = 2>", "InstanceNormalization"])
def test_computed_parameters_of_a_normalisation_keep_the_channels(operator: str) -> None:
    model = example(
        f"""g (float[N,3,4,4] x, float[8] scale) => (float[N,2,4,4] y) {{
        h = Conv (x, w1)
        n = {operator} (h, scale, bias)
        y = Conv (n, w2) }}""",
        {"w1": (8, 3, 1, 1), "bias": (8,), "w2": (2, 8, 1, 1)},
        opset=21,
    )
    assert prunable(model) == 0


def test_channels_split_along_the_first_axis() -> None:
    model = example(
        """g (float[5,6] x) => (float[3,5] y) {
        h = MatMul (x, w1)
        t = Transpose (h)
        a, b = Split (t, sizes)
        p = MatMul (w2, a)
        q = MatMul (w3, b)
        y = Add (p, q) }""",
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


def test_the_largest_row_of_each_channel() -> None:
    model = example(
        """g (float[5,6] x) => (float[1,3] y) {
        h = MatMul (x, w1)
        a = ArgMax (h)
        f = Cast <to = 1> (a)
        y = MatMul (f, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
    )
    assert analysed(model).space.prunable == 8


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

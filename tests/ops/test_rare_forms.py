"""Forms of layers that exporters write seldom: computed parameters, given output sizes, older versions."""

import numpy as np
import onnx
import pytest
from oracle import analysed, prunable

from onnxprune.core.errors import ModelError
from onnxprune.ops.examples import example
from onnxprune.structure.refusals import require_understood


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


def test_what_is_said_of_a_weight_on_the_left() -> None:
    (layer,) = analysed(
        example("g (float[N,6,7] x) => (float[N,3,7] y) { h = Relu (x) y = MatMul (w, h) }", {"w": (3, 6)})
    ).layers
    assert (layer.in_axis, layer.out_axis, layer.input_axis, layer.output_axis) == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("opset", "across", "kept"),
    [(17, "", 0), (13, "", 0), (12, "", 0), (17, "turned", 8), (13, "turned", 8), (12, "turned", 0)],
)
def test_softmax_without_an_axis(opset: int, across: str, kept: int) -> None:
    """The last axis alone since opset 13, all from the second on before."""
    steps = "s = Softmax (h)"
    if across:
        steps = "t = Transpose <perm = [0, 2, 1]> (h) u = Softmax (t) s = Transpose <perm = [0, 2, 1]> (u)"
    model = example(
        f"g (float[N,5,6] x) => (float[N,5,3] y) {{ h = MatMul (x, w1) {steps} y = MatMul (s, w2) }}",
        {"w1": (6, 8), "w2": (8, 3)},
        opset=opset,
    )
    assert prunable(model) == kept


def test_a_maximum_over_channels_says_why_they_stay() -> None:
    model = example(
        "g (float[N,6] x) => (float[N,1] y) { h = MatMul (x, w1) y = ReduceMax <axes = [1]> (h) }", {"w1": (6, 8)}
    )
    assert [entry.reason for entry in analysed(model).not_pruned if entry.node] == ["ReduceMax mixes these channels"]


def test_what_is_said_of_a_dense_layer() -> None:
    layer = analysed(
        example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm (x, w1, b1)
            y = Gemm <transB = 1> (h, w2) }""",
            {"w1": (6, 8), "b1": (8,), "w2": (3, 8)},
        )
    ).layers
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
    layer = analysed(model).layers[0]
    assert layer.transposed
    assert (layer.input_axis, layer.output_axis, layer.group) == (1, 1, 1)
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
    window = analysed(model).layers[0].window
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


def test_the_largest_row_of_each_channel() -> None:
    model = example(
        """g (float[5,6] x) => (float[1,3] y) {
        h = MatMul (x, w1)
        a = ArgMax (h)
        f = Cast <to = 1> (a)
        y = MatMul (f, w2) }""",
        {"w1": (6, 8), "w2": (8, 3)},
    )
    assert analysed(model).prunable == 8


def test_an_einsum_that_sums_a_tensor_by_itself() -> None:
    """The oracle silenced the tensor where it is read first only, so that a right result was refused."""
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w1)
        s = Einsum <equation = "bi,bj->b"> (h, h)
        u = Unsqueeze (s, one)
        m = MatMul (h, w2)
        y = Mul (m, u) }""",
        {"w1": (6, 8), "w2": (8, 3)},
        {"one": np.array([1])},
    )
    assert prunable(model) == 8


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("...i,ij->...j", "...j, jk -> ...k"),
        ("b...i,ij->b...j", "...j,jk->...k"),
        ("...i,ij", "...a,ab"),
    ],
)
def test_einsum_with_an_ellipsis(first: str, second: str) -> None:
    """Such nodes were left out of multiply-adds and reasons, with all that they make."""
    model = example(
        f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
        h = Einsum <equation = "{first}"> (x, w1)
        r = Relu (h)
        y = Einsum <equation = "{second}"> (r, w2) }}""",
        {"w1": (6, 8), "w2": (8, 3)},
    )
    assert prunable(model) == 8
    assert analysed(model).costs().macs == 5 * 8 * (6 + 3)


def test_an_einsum_that_broadcasts_a_single_channel() -> None:
    """Such a model was refused: 8 channels meet 1."""
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w1)
        g = MatMul (x, w2)
        m = Einsum <equation = "bi,bi->bi"> (h, g)
        y = MatMul (m, w3) }""",
        {"w1": (6, 8), "w2": (6, 1), "w3": (8, 3)},
    )
    assert prunable(model) == 8


@pytest.mark.parametrize("simplified", ["", "Simplified"])
def test_means_that_a_skip_normalisation_hands_out_have_no_channels(simplified: str) -> None:
    """A file that names these outputs, which nobody reads, was refused."""
    shift = "" if simplified else ", shift"
    model = example(
        f"""g (float[2,5,6] x) => (float[2,5,3] y) {{
        h = MatMul (x, w1)
        r = Relu (h)
        i = MatMul (r, w2)
        n, mean, spread, sum = com.microsoft.Skip{simplified}LayerNormalization (i, x, scale{shift})
        a = Add (n, sum)
        y = MatMul (a, w3) }}""",
        {"w1": (6, 8), "w2": (8, 6), "scale": (6,), "w3": (6, 3)} | ({"shift": (6,)} if shift else {}),
        domain="com.microsoft",
        full_check=False,
    )
    assert prunable(model) == 8


FIRST = (
    "com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 8]> (x, w, b)",
    'Einsum <equation = "bii,io->bo"> (x, w)',
    "my.Linear (x, w)",
)


@pytest.mark.parametrize("layer", FIRST)
def test_a_first_layer_that_is_not_followed_is_named(layer: str) -> None:
    """What it reads has no channels, so that nothing that stays had it as reason, and --strict passed."""
    model = example(
        f"""g (float[2,6,6] x) => (float y) {{
        h = {layer}
        r = Relu (h)
        m = MatMul (r, w2)
        y = ReduceMax <keepdims = 0> (m) }}""",
        {"w": (6, 16), "b": (16,), "w2": (8, 3)} if "Attention" in layer else {"w": (6, 8), "w2": (8, 3)},
        domain="my" if "my" in layer else "com.microsoft",
        full_check=False,
    )
    if "my" in layer:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, [2, 6, 8]))
    analysis = analysed(model)
    assert [(item.node, item.limitation) for item in analysis.not_pruned if item.tensor == "h"] == [("h", True)]
    with pytest.raises(ModelError, match=r"not followed|not supported"):
        require_understood(analysis)


def test_a_letter_that_an_einsum_keeps_is_not_summed_over() -> None:
    """Heads, or experts: weight, source and result all have them."""
    model = example(
        """g (float[2,5,6] x) => (float[2,4,3] y) {
        h = Einsum <equation = "bsi,ihd->bhd"> (x, w1)
        y = Einsum <equation = "bhd,hdo->bho"> (h, w2) }""",
        {"w1": (6, 4, 8), "w2": (4, 8, 3)},
    )
    products = {product.node: (product.contracted, product.made) for product in analysed(model).products}
    assert products == {"h": (((0, 2),), (1, 2)), "y": (((1, 2),), (0, 2))}
    assert prunable(model) == 8

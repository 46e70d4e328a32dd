"""Attention as exporters and hand-written models spell it: packed projections, shared keys and values, rotations."""

import io
import warnings

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune.ops.examples import example

WEIGHTS = {
    "wi": (16, 48),
    "wo": (16, 5),
    "wq": (16, 32),
    "wk": (16, 8),
    "wv": (16, 8),
    "w1": (16, 4),
    "w2": (16, 4),
    "wr": (32, 5),
}
CONSTANTS = {
    **{f"i{n}": np.array(n) for n in range(3)},
    "packed": np.array([0, 0, 3, 16]),
    "pairs": np.array([0, 0, 3, 4, 4]),
    "heads": np.array([0, 0, 4, 4]),
    "merged": np.array([0, 0, 16]),
    "queries": np.array([0, 0, 8, 4]),
    "keys": np.array([0, 0, 2, 4]),
    "one": np.array([1]),
    "two": np.array([2]),
    "eight": np.array([1, 8, 1, 1]),
    "single": np.array([0, 0, 1, 4]),
    "wide": np.array([1, 1, 4, 1, 1]),
    "shared": np.array([0, 8, -1, 4]),
    "flat": np.array([0, 0, 32]),
    "repeats": np.array([1, 8, 1, 1]),
    "start": np.array([0]),
    "half": np.array([2]),
    "end": np.array([4]),
    "last": np.array([3]),
}
ATTEND = """
        kt = Transpose <perm = [0, 1, 3, 2]> (kh)
        s = MatMul (qh, kt)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, vh)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)"""
TURN = """
        a{0} = Slice ({0}, start, half, last)
        b{0} = Slice ({0}, half, end, last)
        n{0} = Neg (b{0})
        c{0} = Concat <axis = -1> (n{0}, a{0})
        m{0} = Mul (c{0}, sine)
        l{0} = Mul ({0}, cosine)
        {1} = Add (m{0}, l{0})"""
HEADS = "".join(
    f"""
        {x}r = Reshape ({x}, heads)
        {x}h = Transpose <perm = [0, 2, 1, 3]> ({x}r)"""
    for x in "qkv"
)
END = """
        om = Reshape (ot, merged)
        y = MatMul (om, wo) }"""
GROUPED = """
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        qr = Reshape (q, queries)
        kr = Reshape (k, keys)
        vr = Reshape (v, keys)
        qt = Transpose <perm = [0, 2, 1, 3]> (qr)
        ks = Transpose <perm = [0, 2, 1, 3]> (kr)
        vt = Transpose <perm = [0, 2, 1, 3]> (vr)"""


def graph(body: str, *, batch: str = "N") -> onnx.ModelProto:
    used = {name: shape for name, shape in {**WEIGHTS, "cosine": (6, 4), "sine": (6, 4)}.items() if name in body}
    constants = {name: value for name, value in CONSTANTS.items() if name in body}
    return example(f"g (float[{batch},6,16] x) => (float[{batch},6,5] y) {{{body}", used, constants)


def packed(way: str) -> onnx.ModelProto:
    ways = {
        "gather": """
        r = Reshape (p0, packed)
        t = Transpose <perm = [2, 0, 1, 3]> (r)
        q = Gather <axis = 0> (t, i0)
        k = Gather <axis = 0> (t, i1)
        v = Gather <axis = 0> (t, i2)""",
        "split": """
        r = Reshape (p0, packed)
        q3, k3, v3 = Split <axis = 2> (r)
        q = Squeeze (q3, two)
        k = Squeeze (k3, two)
        v = Squeeze (v3, two)""",
    }
    return graph(f"p0 = MatMul (x, wi){ways[way]}{HEADS}{ATTEND}{END}")


def grouped(*, turned: bool = False) -> onnx.ModelProto:
    """Eight query heads on two heads of keys and values, with rotary positions if asked for."""
    keys = "ku" if turned else "ks"
    rotation = TURN.format("qt", "qh") + TURN.format("ks", "ku") if turned else ""
    spread = "".join(
        f"""
        e{x} = Unsqueeze ({x}, two)
        w{x} = Expand (e{x}, wide)
        {y} = Reshape (w{x}, shared)"""
        for x, y in ((keys, "kh"), ("vt", "vh"))
    )
    attend = ATTEND if turned else ATTEND.replace("(qh", "(qt")
    return graph(
        f"{GROUPED}{rotation}{spread}{attend}{END}".replace("(ot, merged)", "(ot, flat)").replace(
            "(om, wo)", "(om, wr)"
        )
    )


def multi_query(way: str) -> onnx.ModelProto:
    """Eight query heads on one head of keys and values."""
    ways = {"broadcast": "Identity ({})", "expand": "Expand ({}, eight)", "tile": "Tile ({}, repeats)"}
    spread = "".join(f"\n        {y} = {ways[way].format(x)}" for x, y in (("ks", "kh"), ("vt", "vh")))
    body = (
        f"{GROUPED}{spread}{ATTEND}{END}".replace("(qh", "(qt")
        .replace("keys", "single")
        .replace("wk)", "w1)")
        .replace("wv)", "w2)")
    )
    return graph(body.replace("(ot, merged)", "(ot, flat)").replace("(om, wo)", "(om, wr)"))


def sound(model: onnx.ModelProto) -> list[int]:
    """Sizes of the groups, once removal agreed with the oracle for several batches."""
    analysis = analysed(model)
    for seed, share in enumerate((0.3, 0.6, 0.9)):
        check_removal(analysis, random_removal(analysis, share, np.random.default_rng(seed)), seed, batch=1 + seed)
    return sorted(len(group) for group in analysis.groups)


@pytest.mark.parametrize("way", ["gather", "split"])
def test_packed_queries_keys_and_values_lose_heads(way: str) -> None:
    assert sound(packed(way)) == [4]


@pytest.mark.parametrize("turned", [False, True])
def test_grouped_queries_lose_their_keys_too(turned: bool) -> None:
    assert sound(grouped(turned=turned)) == [2]


@pytest.mark.parametrize(("way", "groups"), [("broadcast", [8]), ("expand", [8]), ("tile", [4, 4])])
def test_queries_that_share_one_head(way: str, groups: list[int]) -> None:
    assert sound(multi_query(way)) == groups


def exported(layer, shape: tuple[int, ...], axes: dict[int, str]) -> onnx.ModelProto:
    """A layer of torch and a last one, as the tracing exporter writes them."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = layer, torch.nn.Linear(16, 5)

        def forward(self, x):
            attends = isinstance(self.first, torch.nn.MultiheadAttention)
            return self.last(self.first(x, x, x, need_weights=False)[0] if attends else self.first(x))

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network().eval(), (torch.zeros(shape),), file, dynamo=False, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": axes, "y": axes},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_of_torch_with_any_batch(batch_first: bool, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first)
    axis, shape = (0, (2, 6, 16)) if batch_first else (1, (6, 2, 16))
    analysis = analysed(exported(layer, shape, {axis: "N"}))
    least = analysis.removal({group.name: range(len(group) - 1) for group in analysis.groups})
    assert analysis.costs(least).macs < 0.6 * analysis.costs().macs
    check_removal(analysis, random_removal(analysis, 0.5, np.random.default_rng(0)), 0, batch=3)


def test_sizes_that_an_exporter_wrote_into_the_graph_are_found() -> None:
    # Both axes are declared free, but the length of the traced run stands in a Reshape.
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model = exported(layer, (2, 7, 16), {0: "N", 1: "T"})
    assert sound(model) == [4, 24]
    assert analysed(model).facts.shapes["x"] == (1, 7, 16)

"""Models in which nothing can be pruned: the reasons, and no copy that looks like a result."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.errors import ModelError
from onnxprune.ops.examples import example

BLOCKS = {
    "w": np.ones((8, 4), np.int8),
    "s": np.full((2, 4), 0.1, np.float32),
    "v": np.ones((4, 8), np.int8),
    "t": np.full((1, 8), 0.1, np.float32),
}


def integers() -> onnx.ModelProto:
    return example(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        q, s, z = DynamicQuantizeLinear (x)
        h = ConvInteger (q, w, z)
        f = Cast <to = 1> (h)
        r = Relu (f)
        p, t, u = DynamicQuantizeLinear (r)
        i = ConvInteger (p, v, u)
        y = Cast <to = 1> (i) }""",
        constants={"w": np.ones((8, 3, 1, 1), np.uint8), "v": np.ones((4, 8, 1, 1), np.uint8)},
    )


def products() -> onnx.ModelProto:
    return example(
        """g (uint8[N,6] x) => (int32[N,4] y) { y = MatMulInteger (x, w) }""",
        constants={"w": np.ones((6, 4), np.uint8)},
    )


def blocks() -> onnx.ModelProto:
    return example(
        """g (float[N,8] x) => (float[N,8] y) {
        a = DequantizeLinear <axis = 0, block_size = 4> (w, s)
        h = MatMul (x, a)
        r = Relu (h)
        b = DequantizeLinear <axis = 0, block_size = 4> (v, t)
        y = MatMul (r, b) }""",
        constants=BLOCKS,
        opset=21,
    )


def contrib_blocks() -> onnx.ModelProto:
    return example(
        """g (float[N,32] x) => (float[N,8] y) {
        y = com.microsoft.MatMulNBits <K = 32, N = 8, bits = 4, block_size = 32> (x, w, s) }""",
        constants={"w": np.ones((8, 1, 16), np.uint8), "s": np.ones(8, np.float32)},
        domain="com.microsoft",
        full_check=False,
    )


CASES = {
    "integers": (integers, "ConvInteger computes with integer weights", (3 * 8 + 8 * 4) * 36),
    "products": (products, "MatMulInteger computes with integer weights", 24),
    "blocks": (blocks, "it is quantised in blocks", 64),
    "contrib_blocks": (contrib_blocks, "MatMulNBits computes with integer weights", 256),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_told_and_the_layers_are_counted(name: str) -> None:
    make, reason, macs = CASES[name]
    analysis = onnxprune.analyze(make())
    assert analysis.groups == ()
    assert any(reason in item.reason for item in analysis.not_pruned)
    assert analysis.costs().macs == macs
    assert analysis.incomplete == ()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{"targets": "macs=0.9"}, {"lossless": True}, {"threshold": "mean"}])
def test_prune_says_that_nothing_can_be_pruned(name: str, options: dict[str, object], tmp_path: Path) -> None:
    make, reason, _ = CASES[name]
    with pytest.raises(ModelError, match="nothing can be pruned: ") as raised:
        onnxprune.prune(make(), importance="magnitude", **options)
    assert reason in str(raised.value)
    assert raised.value.exit_code == 3


def test_without_layers_that_is_the_reason() -> None:
    proto = example("g (float[N,6] x) => (float[N,6] y) { y = Relu (x) }")
    with pytest.raises(ModelError, match="nothing can be pruned: "):
        onnxprune.prune(proto, targets="params=0.5", importance="magnitude")


def test_a_network_inside_a_body_is_said_to_be_there() -> None:
    """A model with one branch a sample rate was said to have no layers."""
    body = """{ then_branch = a () => (float[N,2] u) { h = MatMul (x, w)  r = Relu (h)  u = MatMul (r, v) },
        else_branch = b () => (float[N,2] z) { z = MatMul (x, q) } }"""
    text = f"g (float[N,4] x, bool c) => (float[N,2] y) {{ y = If (c) <{body[1:-1]}> }}"
    weights = {"w": (4, 6), "v": (6, 2), "q": (4, 2)}
    with pytest.raises(ModelError, match=r"nothing can be pruned: .*If '.*computes is not followed: a body is pruned"):
        onnxprune.prune(example(text, weights), targets=0.5, importance="magnitude")

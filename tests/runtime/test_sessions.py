"""Sessions on models whose large weights are handed over as they lie in memory."""

import gc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.lean import without_weights
from onnxprune.graph.load import load
from onnxprune.graph.model import Model, to_proto
from onnxprune.runtime.session import load_session, open_session

RNG = np.random.default_rng(0)


def made(text: str, constants: dict[str, np.ndarray], ir_version: int = 8) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : 17]> g {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return proto


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


BYTES = RNG.integers(0, 255, (32, 32)).astype(np.uint8)
EXAMPLES = {
    "two layers": made(
        "(float[N,32] x) => (float[N,32] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }",
        {"w": normal(32, 32), "v": normal(32, 32)},
    ),
    "half precision": made(
        "(float16[N,32] x) => (float16[N,32] y) { y = MatMul (x, w) }", {"w": normal(32, 32).astype(np.float16)}
    ),
    "double": made("(double[N,32] x) => (double[N,32] y) { y = MatMul (x, w) }", {"w": RNG.standard_normal((32, 32))}),
    "bytes behind DequantizeLinear": made(
        "(float[N,32] x) => (float[N,32] y) { w = DequantizeLinear (q, s, z)  y = MatMul (x, w) }",
        {"q": BYTES, "s": np.float32(0.01).reshape(()), "z": np.uint8(128).reshape(())},
    ),
    "unread": made(
        "(float[N,32] x) => (float[N,32] y) { y = MatMul (x, w) }", {"w": normal(32, 32), "u": normal(64, 64)}
    ),
    "an output too": made(
        "(float[N,32] x) => (float[N,32] y, float[32,32] w) { y = MatMul (x, w) }", {"w": normal(32, 32)}
    ),
    "an input too": made(
        "(float[N,32] x, float[32,32] w) => (float[N,32] y) { y = MatMul (x, w) }", {"w": normal(32, 32)}, ir_version=3
    ),
    "read by what nobody reads": made(
        "(float[N,32] x) => (float[N,32] y) { y = Relu (x)  h = MatMul (x, w) }", {"w": normal(32, 32)}
    ),
    "read in a body only": made(
        """(float[N,32] x, bool c) => (float[N,32] y) {
            y = If (c) <then_branch = a () => (float[N,32] t) { t = MatMul (x, w) },
                        else_branch = b () => (float[N,32] e) { e = Relu (x) }> }""",
        {"w": normal(32, 32)},
    ),
    "made by a Constant node": made(
        """(float[N,4] x) => (float[N,2] y) {
            w = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()  y = MatMul (x, w) }""",
        {},
    ),
    "positions": made(
        "(float[N,300] x) => (float[N,300] y) { y = Gather <axis = 1> (x, i) }",
        {"i": RNG.permutation(300).astype(np.int64)},
    ),
}


def whole(model: Model) -> object:
    """A session on the model with everything inside the protobuf."""
    return load_session(to_proto(model).SerializeToString(), "whole", engine=ONE_CORE)


def outputs(session: object, model: Model) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    feed = {}
    for value in session.get_inputs():  # type: ignore[attr-defined]
        kind = onnx.helper.tensor_dtype_to_np_dtype(
            next(i for i in model.proto.graph.input if i.name == value.name).type.tensor_type.elem_type
        )
        shape = [size if isinstance(size, int) else 3 for size in value.shape]
        feed[value.name] = np.asarray(rng.standard_normal(shape) * 2).astype(kind)
    return session.run(None, feed)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_session_computes_what_one_on_the_whole_file_does(name: str) -> None:
    model = load(EXAMPLES[name])
    found, wanted = outputs(open_session(model, engine=ONE_CORE), model), outputs(whole(model), model)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_large_weights_leave_the_protobuf() -> None:
    model = load(EXAMPLES["two layers"])
    proto, weights = without_weights(model)
    assert set(weights) == {"w", "v"}
    assert all(weights[name] is model.constants[name] for name in weights)
    assert proto.ByteSize() < 1000
    assert [tuple(tensor.dims) for tensor in proto.graph.initializer] == [(32, 32), (32, 32)]


def test_a_session_outlives_its_model_and_sees_changed_weights_of_any_layout() -> None:
    model = load(EXAMPLES["two layers"])
    turned = np.asfortranarray(normal(32, 16))
    changed = model.with_constants({"w": turned, "v": normal(16, 32)})
    wanted = outputs(whole(changed), changed)
    session = open_session(changed, engine=ONE_CORE)
    kept = replace(model)
    del changed, model, turned
    gc.collect()
    filler = [np.full((32, 32), 7, np.float32) for _ in range(100)]
    np.testing.assert_array_equal(outputs(session, kept)[0], wanted[0])
    assert filler


def test_constants_can_be_outputs() -> None:
    model = load(EXAMPLES["two layers"])
    session = open_session(model, ["w", "h"], engine=ONE_CORE)
    _, w, h = outputs(session, model)
    np.testing.assert_array_equal(w, model.constants["w"])
    assert h.shape == (3, 32)

"""Running models on datasets: batches, fixed batches, taps."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import Runner, collect
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

NETWORK = """g (float[{batch},3] x) => (float[{batch},2] y) {{
    h = Gemm (x, w, b)
    r = Relu (h)
    y = Gemm (r, v) }}"""
WEIGHTS = {"w": (3, 4), "b": (4,), "v": (4, 2)}


def network(batch="N"):
    proto = example(NETWORK.format(batch="N"), WEIGHTS)
    if batch != "N":
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return load(proto)


def rows(count, width=3):
    return np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)


def dataset(model, arrays):
    return load_data(arrays, model)


def expected(model, x):
    w, b, v = (model.constants[name] for name in "wbv")
    hidden = x @ w + b
    return hidden, np.maximum(hidden, 0) @ v


@given(batch=st.sampled_from(["N", 1, 3, 4]), count=st.integers(1, 11), size=st.sampled_from([None, 1, 2, 3, 5, 100]))
@settings(max_examples=40)
def test_results_do_not_depend_on_how_rows_are_cut(batch, count, size):
    model, x = network(batch), rows(count)
    hidden, y = expected(model, x)
    batches = list(Runner(model, ["y", "h"], engine=ONE_CORE).run(dataset(model, x), size))
    assert all(list(batch) == ["y", "h"] for batch in batches)
    np.testing.assert_allclose(np.concatenate([b["y"] for b in batches]), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([b["h"] for b in batches]), hidden, rtol=1e-5, atol=1e-6)
    if size is not None and batch in ("N", 1):
        assert all(len(b["y"]) <= size for b in batches)


def test_outputs_come_by_default_and_inputs_on_request():
    model, x = network(), rows(5)
    assert list(collect(model, dataset(model, x))) == ["y"]
    both = collect(model, dataset(model, x), ["x", "r"])
    np.testing.assert_array_equal(both["x"], x)
    np.testing.assert_allclose(both["r"], np.maximum(expected(model, x)[0], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(collect(model, dataset(model, x), ["x"])["x"], x)


def test_taps_do_not_change_the_model():
    model = network()
    before = model.proto.SerializeToString(deterministic=True)
    collect(model, dataset(model, rows(3)), ["h"])
    assert model.proto.SerializeToString(deterministic=True) == before


def test_new_constants_are_run():
    model, x = network(), rows(4)
    halved = model.with_constants({"v": model.constants["v"] / 2})
    whole, half = (collect(m, dataset(m, x))["y"] for m in (model, halved))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-6)


def test_unknown_tensor_is_refused():
    for name in ("nothing", "w"):
        with pytest.raises(ModelError, match=f"no computed tensor '{name}'"):
            Runner(network(), [name])


def counted(model, monkeypatch):
    """A runner and the list of the batch sizes that it gives to onnxruntime."""
    sizes = []
    runner = Runner(model, engine=ONE_CORE)
    run = runner._run

    def counting(feed, names):
        sizes.append(len(next(iter(feed.values()))))
        return run(feed, names)

    monkeypatch.setattr(runner, "_run", counting)
    return runner, sizes


def test_batch_written_into_a_reshape_falls_back_to_single_rows_once(monkeypatch):
    model = load(
        example(
            "g (float[N,2,3] x) => (float[N,4] y) { f = Reshape (x, s)  y = Gemm (f, w) }",
            {"w": (6, 4)},
            {"s": np.array([1, 6])},
        )
    )
    runner, sizes = counted(model, monkeypatch)
    x = rows(9, 6).reshape(9, 2, 3)
    y = runner.collect(dataset(model, x), 4)["y"]
    np.testing.assert_allclose(y, x.reshape(9, 6) @ model.constants["w"], rtol=1e-5, atol=1e-6)
    assert [size for size in sizes if size > 1] == [4]


def test_batch_that_is_swallowed_silently_is_noticed(monkeypatch):
    model = load(
        example("g (float[N,3] x) => (float[1,M] y) { y = Reshape (x, s) }", constants={"s": np.array([1, -1])})
    )
    runner, sizes = counted(model, monkeypatch)
    x = rows(5)
    np.testing.assert_array_equal(runner.collect(dataset(model, x))["y"], x)
    assert [size for size in sizes if size > 1] == [5]


def test_outputs_without_rows_are_stacked_row_by_row():
    model = load(
        example(
            "g (float[N,3] x) => (float s, float[3] c)"
            "{ s = ReduceSum <keepdims = 0> (x)  c = ReduceMax <axes = [0], keepdims = 0> (x) }"
        )
    )
    x = rows(5)
    outputs = collect(model, dataset(model, x))
    np.testing.assert_allclose(outputs["s"], x.sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(outputs["c"], x)


def test_tensors_with_several_entries_a_row_are_strung_together_alike():
    text = "g (float[{0},2,3] x) => (float[{0},2,3] y) {{ t = Reshape (x, s)  r = Relu (t)  y = Add (x, x) }}"
    x = rows(7, 6).reshape(7, 2, 3)
    for batch in ("N", "1", "2"):
        model = load(example(text.format(batch), constants={"s": np.array([-1, 3])}))
        np.testing.assert_array_equal(collect(model, dataset(model, x), ["t"], batch_size=4)["t"], x.reshape(14, 3))


def test_whole_feeds():
    model = load(
        example(
            "g (float[batch,3] x, float[2,batch,3] state, float f) => (float[batch,3] y, float[2,batch,3] next)"
            "{ y = Mul (x, f)  next = Add (state, x) }"
        )
    )
    x, state = rows(4), np.random.default_rng(1).standard_normal((4, 2, 1, 3)).astype(np.float32)
    outputs = collect(model, dataset(model, {"x": x, "state": state, "f": np.float32(2)}))
    np.testing.assert_allclose(outputs["y"], 2 * x)
    np.testing.assert_allclose(outputs["next"], state + x[:, None, None], rtol=1e-6)


def test_errors_of_onnxruntime_are_one_line_that_names_the_model():
    model = network()
    with pytest.raises(ModelError) as caught:
        Runner(model).run_feed({"x": rows(2, 5)})
    assert str(caught.value).startswith("model: onnxruntime cannot run the model: ")
    assert "\n" not in str(caught.value)
    broken = load(
        example("g (float[N,3] x) => (float[5,5] y) { y = Reshape (x, s) }", constants={"s": np.array([5, 5])})
    )
    with pytest.raises(ModelError, match=r"cannot run the model.*Reshape"):
        collect(broken, dataset(broken, rows(4)))


def test_operator_without_implementation_is_reported():
    proto = example("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    proto.opset_import.append(onnx.helper.make_opsetid("somewhere.else", 1))
    proto.graph.node[0].domain = "somewhere.else"
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Runner(load(proto))


def test_batch_size_below_one_is_refused():
    model = network()
    with pytest.raises(InputError, match="at least 1"):
        list(Runner(model).run(dataset(model, rows(2)), 0))


@pytest.mark.parametrize("limit", [1_800_000_000, 8])
def test_models_too_large_for_one_message_go_through_a_folder(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("onnxprune.runtime.session.INLINE_LIMIT", limit)
    proto = example(
        "g (float[N,300] x) => (float[N,4] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }",
        {"w": (300, 8), "v": (8, 4)},
    )
    w, v = (numpy_helper.to_array(t) for t in proto.graph.initializer)
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = load(tmp_path / "m.onnx")
    assert model.external
    x = rows(5, 300)
    outputs = collect(model, dataset(model, x), ["r", "y"])
    np.testing.assert_allclose(outputs["y"], np.maximum(x @ w, 0) @ v, rtol=1e-4, atol=1e-4)


def test_default_batch_shrinks_with_the_tensors():
    def batch(size):
        model = load(example(f"g (float[N,1,{size},{size}] x) => (float[N,1,{size},{size}] y) {{ y = Relu (x) }}"))
        array = np.broadcast_to(np.float32(0), (100, 1, size, size))
        return Runner(model).default_batch(Dataset({"x": array}, None, "test", np.arange(100)))

    assert batch(8) == 64
    assert 1 < batch(1500) < 8
    assert batch(6000) == 1


def test_free_spatial_sizes_take_those_of_the_data():
    model = load(example("g (float[N,1,h,w] x) => (float[N,1,h,w] y) { y = Relu (x) }"))
    x = np.random.default_rng(0).standard_normal((3, 1, 5, 9)).astype(np.float32)
    np.testing.assert_array_equal(collect(model, dataset(model, x))["y"], np.maximum(x, 0))


REAL = [
    "cifar10_resnet_akamaster/resnet20_cifar10_bn.onnx",
    "silero_vad/silero_vad_16k_op15.onnx",
    "yunet/yunet_n_dynamic.onnx",
    "rapidocr_onnxruntime/ch_PP-OCRv4_det_infer.onnx",
    "vnncomp2023/ibp_3_3_8.onnx",
    "magika/model.onnx",
    "basic_pitch/nmp.onnx",
]


@pytest.mark.parametrize("name", REAL)
def test_real_models_give_the_same_in_batches_and_alone(corpus_path, name):
    model = load(corpus_path(f"models/{name}"))
    data = load_data("random", model, limit=3)
    runner = Runner(model, engine=ONE_CORE)
    together, alone = runner.collect(data, 2), Runner(model, engine=ONE_CORE).collect(data, 1)
    assert together.keys() == alone.keys()
    for output, values in together.items():
        assert len(values) == 3
        np.testing.assert_allclose(values, alone[output], rtol=1e-3, atol=1e-4)

"""Normalisation of folded convolutions while they are trained."""

import numpy as np
import pytest

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import collect
from onnxprune.config import FinetuneConfig
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.ops.examples import example
from onnxprune.repair.finetune import finetune

torch = pytest.importorskip("torch", reason="fine-tuning needs torch")

from onnxprune.repair.finetune.network import Network  # noqa: E402 (needs torch)
from onnxprune.repair.finetune.unfold import unfold  # noqa: E402


def folded() -> Model:
    return load(
        example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Relu (h)
            d = Conv <group = 8> (r, w2, b2)
            p = GlobalAveragePool (d)
            f = Flatten (p)
            y = Gemm (f, w3) }""",
            {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (8, 4)},
        )
    )


def rows() -> Dataset:
    x = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)
    return Dataset({"x": x}, None, "test rows", np.arange(64))


def test_an_unfolded_network_computes_the_same_and_folds_to_the_same_weights() -> None:
    model, data = folded(), rows()
    network = Network(model)
    chosen = unfold(network, [network.inputs(data.feeds())])
    assert [one.weight for one in chosen] == ["w1", "w2"]
    assert not {"b1", "b2"} & network.parameters.keys()
    with torch.no_grad():
        own = network(network.inputs(data.feeds()))["y"].numpy()
    np.testing.assert_allclose(own, collect(model, data, threads=1)["y"], atol=1e-5)
    for one in chosen:
        for name, value in one.folded(network.state()).items():
            np.testing.assert_allclose(value, model.constants[name], atol=1e-5)


def test_a_trained_unfolded_network_is_what_the_file_computes() -> None:
    model, data = folded(), rows()
    network = Network(model)
    chosen = unfold(network, [network.inputs(data.feeds())])
    optimizer = torch.optim.SGD(network.parameters.values(), lr=0.05)
    network.training = True
    for _ in range(5):
        optimizer.zero_grad()
        network(network.inputs(data.feeds()))["y"].square().mean().backward()
        optimizer.step()
    network.training = False
    with torch.no_grad():
        own = network(network.inputs(data.feeds()))["y"].numpy()
    state = network.state()
    written = network.written_back(model, {k: v for one in chosen for k, v in one.folded(state).items()})
    assert not np.allclose(written.constants["w1"], model.constants["w1"], atol=1e-4)
    np.testing.assert_allclose(collect(written, data, threads=1)["y"], own, atol=1e-5)


def test_convolutions_with_normalisation_behind_or_shared_weights_are_left_alone() -> None:
    model = load(
        example(
            """g (float[N,3,6,6] x) => (float[N,8,6,6] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            n = BatchNormalization (h, scale, bias, mean, var)
            i = Conv <pads = [1, 1, 1, 1]> (n, w2, b2)
            y = Conv <pads = [1, 1, 1, 1]> (i, w2, b2) }""",
            {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,)}
            | dict.fromkeys(("scale", "bias", "mean", "var"), (8,)),
        )
    )
    network = Network(model)
    assert unfold(network, [network.inputs(rows().feeds())]) == []


@pytest.mark.parametrize("unfolded", [True, False])
def test_distillation_works_either_way(unfolded: bool) -> None:
    teacher = folded()
    rng = np.random.default_rng(1)
    student = teacher.with_constants(
        {k: (a * (1 + 0.3 * rng.standard_normal(a.shape))).astype(a.dtype) for k, a in teacher.constants.items()}
    )
    config = FinetuneConfig(epochs=15, lr=3e-3, batch=16, threads=1, unfold=unfolded)
    result = finetune(student, rows(), teacher=teacher, config=config)
    assert result.history[result.best].held_out_loss < 0.7 * result.history[0].held_out_loss
    assert set(result.model.constants) == set(student.constants)

"""Fine-tuning and distillation on small graphs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnxprune import prune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import collect
from onnxprune.config import FinetuneConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model, to_proto
from onnxprune.ops.examples import example
from onnxprune.training import Epoch, finetune

torch = pytest.importorskip("torch", reason="fine-tuning needs torch")

from onnxprune.torchnet.network import Network  # noqa: E402
from onnxprune.training.train import split  # noqa: E402 (needs torch)

ROWS = 96
FAST = FinetuneConfig(epochs=4, lr=3e-3, batch=16, threads=1)


def classifier() -> Model:
    return load(
        example(
            """g (float[N,5] x) => (float[N,3] y) {
            h = Gemm (x, w1, b1)
            r = Relu (h)
            y = Gemm (r, w2, b2) }""",
            {"w1": (5, 16), "b1": (16,), "w2": (16, 3), "b2": (3,)},
        )
    )


def convolutional() -> Model:
    return load(
        example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1)
            n = BatchNormalization (h, scale, bias, mean, var)
            r = Relu (n)
            p = GlobalAveragePool (r)
            f = Flatten (p)
            y = Gemm (f, w2) }""",
            {"w1": (8, 3, 3, 3), "scale": (8,), "bias": (8,), "mean": (8,), "var": (8,), "w2": (8, 4)},
        )
    )


def rows(*shape: int, labels: np.ndarray | None = None, seed: int = 0) -> Dataset:
    x = np.random.default_rng(seed).standard_normal((ROWS, *shape)).astype(np.float32)
    return Dataset({"x": x}, labels, "test rows", np.arange(ROWS))


def disturbed(model: Model, amount: float = 0.3) -> Model:
    rng = np.random.default_rng(3)
    return model.with_constants(
        {
            name: (a * (1 + amount * rng.standard_normal(a.shape))).astype(a.dtype)
            for name, a in model.constants.items()
            if a.dtype.kind == "f" and name not in ("mean", "var")
        }
    )


def weights(model: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.constants.items()}


def test_labels_are_learned() -> None:
    model, data = classifier(), rows(5)
    wanted = collect(classifier(), data, engine=ONE_CORE)["y"].argmax(1)
    start = disturbed(model, 1.0)
    labelled = rows(5, labels=wanted)
    result = finetune(start, labelled, config=FinetuneConfig(epochs=30, lr=0.01, batch=16, threads=1))
    assert result.loss == "cross-entropy"
    hits = [(collect(m, data, engine=ONE_CORE)["y"].argmax(1) == wanted).mean() for m in (start, result.model)]
    assert hits[1] > max(hits[0] + 0.1, 0.9)


def test_labels_stored_as_floats_are_learned_alike() -> None:
    """Class numbers 0. and 1., as spreadsheets hold them, were refused as being none."""
    numbers = np.arange(ROWS) % 3
    whole, floats = (
        finetune(classifier(), rows(5, labels=labels), validation=rows(5, labels=labels, seed=1), config=FAST)
        for labels in (numbers, numbers.astype(np.float32))
    )
    assert floats.loss == "cross-entropy"
    assert to_proto(floats.model) == to_proto(whole.model)


def test_distillation_brings_a_disturbed_model_back_without_labels() -> None:
    teacher = convolutional()
    student = disturbed(teacher)
    before = weights(student)
    result = finetune(
        student, rows(3, 6, 6), teacher=teacher, config=FinetuneConfig(epochs=20, lr=3e-3, batch=16, threads=1)
    )
    assert result.loss == "distillation"
    assert result.history[result.best].held_out_loss < 0.5 * result.history[0].held_out_loss
    assert weights(student) == before, "the input was changed"


def test_only_values_of_weights_change_in_the_file() -> None:
    teacher = convolutional()
    result = finetune(disturbed(teacher), rows(3, 6, 6), teacher=teacher, config=FAST)
    assert result.best > 0
    changed, original = to_proto(result.model), to_proto(disturbed(teacher))
    touched = {t.name for t, o in zip(changed.graph.initializer, original.graph.initializer, strict=True) if t != o}
    assert touched == {"w1", "w2", "scale", "bias"}
    for proto in (changed, original):
        del proto.graph.initializer[:]
    assert changed == original


def test_trained_normalisation_computes_the_same_in_onnxruntime() -> None:
    teacher, data = convolutional(), rows(3, 6, 6)
    model = finetune(disturbed(teacher), data, teacher=teacher, config=FAST).model
    network = Network(model)
    with torch.no_grad():
        own = network(network.inputs(data.feeds()))["y"].numpy()
    np.testing.assert_allclose(own, collect(model, data, engine=ONE_CORE)["y"], atol=1e-4)


def test_distillation_does_not_move_the_stored_statistics() -> None:
    """Statistics of batches undid what repair had fitted to the stored ones."""
    teacher = convolutional()
    data = rows(3, 6, 6, labels=collect(teacher, rows(3, 6, 6), engine=ONE_CORE)["y"].argmax(1))
    start = disturbed(teacher)
    for guide, moved in ((None, True), (teacher, False)):
        trained = finetune(start, data, teacher=guide, config=FAST).model
        assert not np.array_equal(trained.constants["scale"], start.constants["scale"])
        for name in ("mean", "var"):
            assert np.array_equal(trained.constants[name], start.constants[name]) != moved


def test_outputs_that_are_not_class_scores_are_matched_by_their_squared_error() -> None:
    teacher = load(
        example(
            """g (float[N,5] x) => (float[N,2,3] y) {
            h = MatMul (x, w1)
            r = Relu (h)
            s = MatMul (r, w2)
            y = Reshape (s, t) }""",
            {"w1": (5, 16), "w2": (16, 6)},
            {"t": np.array([0, 2, 3])},
        )
    )
    result = finetune(disturbed(teacher), rows(5), teacher=teacher, config=FAST)
    assert result.loss == "regression"
    assert np.isnan(result.history[0].held_out_agreement)
    assert result.history[result.best].held_out_loss < result.history[0].held_out_loss


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    teacher, data = classifier(), rows(5)
    results = [
        weights(
            finetune(
                disturbed(teacher), data, teacher=teacher, config=FinetuneConfig(epochs=2, threads=1, seed=seed)
            ).model
        )
        for seed in (1, 1, 2)
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


class InterruptedTrainingError(Exception):
    pass


def stop_at(number: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == number:
            raise InterruptedTrainingError

    return on_epoch


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    teacher, data, file = convolutional(), rows(3, 6, 6), tmp_path / "state.pt"
    config = FinetuneConfig(epochs=4, batch=16, threads=1, flip=True, shift=1, mixup=0.4, weight_decay=0.01)
    whole = finetune(disturbed(teacher), data, teacher=teacher, config=config)
    with pytest.raises(InterruptedTrainingError):
        finetune(disturbed(teacher), data, teacher=teacher, config=config, checkpoint=file, on_epoch=stop_at(3))
    resumed = finetune(disturbed(teacher), data, teacher=teacher, config=config, checkpoint=file)
    assert weights(resumed.model) == weights(whole.model)
    assert [e.held_out_loss for e in resumed.history] == [e.held_out_loss for e in whole.history]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    teacher, data, file = classifier(), rows(5), tmp_path / "state.pt"
    finetune(disturbed(teacher), data, teacher=teacher, config=FAST, checkpoint=file)
    with pytest.raises(InputError, match="another training"):
        finetune(disturbed(teacher, 0.1), data, teacher=teacher, config=FAST, checkpoint=file)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        finetune(disturbed(teacher), data, teacher=teacher, config=FAST, checkpoint=file)


def test_a_model_that_training_makes_worse_comes_back_as_it_was() -> None:
    teacher = classifier()
    result = finetune(teacher, rows(5), teacher=teacher, config=FinetuneConfig(epochs=2, lr=0.5, batch=16, threads=1))
    assert result.best == 0
    assert weights(result.model) == weights(teacher)


def test_patience_stops_early() -> None:
    teacher = classifier()
    config = FinetuneConfig(epochs=50, lr=0.5, batch=16, threads=1, patience=2)
    assert len(finetune(teacher, rows(5), teacher=teacher, config=config).history) == 3


def test_held_out_rows_are_not_trained_on() -> None:
    train, held_out = split(rows(5), None, FinetuneConfig(holdout=0.25))
    assert len(held_out) == ROWS // 4
    assert sorted([*train.rows, *held_out.rows]) == list(range(ROWS))
    assert len(split(rows(5), None, FinetuneConfig(holdout=0.0))[0]) == ROWS


def test_progress_reaches_the_last_step() -> None:
    seen: list[tuple[str, int, int]] = []
    teacher = classifier()
    finetune(disturbed(teacher), rows(5), teacher=teacher, config=FAST, progress=lambda *step: seen.append(step))
    steps = FAST.epochs * -(-(ROWS - 10) // FAST.batch)
    assert seen == [("finetune", number + 1, steps) for number in range(steps)]


def test_an_operator_without_a_rule_is_refused_before_any_work() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,3] x) => (float[N] y) { d = Relu (x) y = Det (d) }'
    )
    started: list[object] = []
    with pytest.raises(ModelError, match="node 'y': Det"):
        finetune(load(proto), rows(3, 3), teacher=load(proto), config=FAST, progress=lambda *step: started.append(step))
    assert not started


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_a_fixed_batch_that_the_graph_spells_out_is_kept_to(batch: int) -> None:
    """Also where the first feed has just as many rows."""
    text = f"g (float[{batch},3,4] x) => (float[{batch},2] y) {{ r = Reshape (x, s) y = Gemm (r, w) }}"
    spelled_out = load(example(text, {"w": (12, 2)}, {"s": np.array([batch, -1])}))
    network = Network(spelled_out)
    feed = network.inputs({"x": rows(3, 4).arrays["x"][:5]})
    network.free_batch(feed)
    assert network.step == batch
    expected = feed["x"].reshape(5, 12).numpy() @ spelled_out.constants["w"]
    np.testing.assert_allclose(network(feed)["y"].detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    result = finetune(disturbed(spelled_out), rows(3, 4), teacher=spelled_out, config=FAST)
    assert result.history[result.best].held_out_loss < result.history[0].held_out_loss


def test_a_fixed_batch_that_is_only_declared_does_not_bind() -> None:
    declared = load(example("g (float[2,5] x) => (float[2,3] y) { y = Gemm (x, w) }", {"w": (5, 3)}))
    network = Network(declared)
    feed = network.inputs({"x": rows(5).arrays["x"][:5]})
    assert network(feed)["y"].shape == (5, 3)  # two, two and one row
    network.free_batch(feed)
    assert network.step is None


def test_half_precision_weights_keep_their_type() -> None:
    proto = example(
        "g (float16[N,5] x) => (float16[N,3] y) { y = Gemm (x, w) }".replace("float16", "float"), {"w": (5, 3)}
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    array = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    teacher = load(proto)
    data = Dataset({"x": rows(5).arrays["x"].astype(np.float16)}, None, "test rows", np.arange(ROWS))
    result = finetune(disturbed(teacher), data, teacher=teacher, config=FAST)
    assert result.best > 0
    assert result.model.constants["w"].dtype == np.float16


def test_weights_behind_a_transpose_are_trained_and_numbers_of_a_formula_are_not() -> None:
    model = load(
        example(
            """g (float[N,5] x) => (float[N,3] y) {
            t = Transpose (w)
            m = MatMul (x, t)
            a = Add (m, bias)
            y = Mul (a, half) }""",
            {"w": (3, 5), "bias": (3,)},
            {"half": np.array(0.5, np.float32)},
        )
    )
    assert set(Network(model).parameters) == {"w", "bias"}


@pytest.mark.parametrize(
    ("labels", "options", "taught", "message"),
    [
        (None, {}, False, "no labels"),
        (np.full(ROWS, 3), {}, False, "3 class scores"),
        (None, {"flip": True}, True, "for images"),
        (np.zeros(ROWS, int), {"mixup": 0.2}, False, "needs a teacher"),
        (np.linspace(0, 1, ROWS, dtype=np.float32), {}, False, "its labels are no class numbers"),
        (None, {"label_weight": 0.5}, True, "no labels"),
        (None, {"temperature": 0.0}, True, "temperature"),
        (None, {"holdout": 1.0}, True, "below 1"),
        (None, {"epochs": 0}, True, "epochs"),
    ],
)
def test_wrong_usage_is_explained(
    labels: np.ndarray | None, options: dict[str, float], taught: bool, message: str
) -> None:
    teacher = classifier() if taught else None
    with pytest.raises(InputError, match=message):
        finetune(classifier(), rows(5, labels=labels), teacher=teacher, config=FinetuneConfig(**options))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"extra finetune\): pip install torch"):
        finetune(classifier(), rows(5), teacher=classifier())


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, onnxprune.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prune_distils_in_one_go() -> None:
    model, data = convolutional(), rows(3, 6, 6)
    options = {"targets": "macs=0.6", "importance": "magnitude", "repair": False, "threads": 1, "evaluation": data}
    plain = prune(model, data, **options)
    distilled = prune(model, data, distill=15, flip=True, shift=1, **options)
    assert distilled.after == plain.after
    assert distilled.plan.removed == plain.plan.removed
    assert "distill" in distilled.timings
    assert distilled.metrics["relative_error"].after < plain.metrics["relative_error"].after
    assert not any("brought nothing" in note for note in distilled.notes)


def test_distillation_that_brings_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty epochs whose best was the start left no word."""
    monkeypatch.setattr("onnxprune.training.finetune", lambda model, *_, **__: SimpleNamespace(model=model, best=0))
    result = prune(convolutional(), rows(3, 6, 6), targets="macs=0.6", importance="magnitude", threads=1, distill=1)
    assert any("brought nothing" in note for note in result.notes)


def test_rows_that_choose_the_epoch_are_not_those_that_repair_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repaired models looked so good on them that training could hardly improve on the start."""
    seen = []
    monkeypatch.setattr("onnxprune.repair.repair", lambda *given: seen.append(given[3].fit) or given[1])
    monkeypatch.setattr(
        "onnxprune.training.finetune",
        lambda model, data, *, validation, **_: seen.extend([data, validation]) or SimpleNamespace(model=model, best=1),
    )
    prune(convolutional(), rows(3, 6, 6), targets="macs=0.6", importance="magnitude", threads=1, distill=1)
    repaired, trained, chosen_on = (set(one.feeds()["x"][:, 0, 0, 0].tolist()) for one in seen)
    assert repaired == trained
    assert len(repaired) + len(chosen_on) == ROWS
    assert not repaired & chosen_on


def test_prune_refuses_to_distil_what_has_no_rule_before_it_scores() -> None:
    proto = example(
        "g (float[N,3,3] x) => (float[N] y) { h = MatMul (x, w1) d = MatMul (h, w2) y = Det (d) }",
        {"w1": (3, 4), "w2": (4, 3)},
    )
    stages: list[str] = []
    with pytest.raises(ModelError, match="node 'y': Det"):
        prune(proto, rows(3, 3), targets="macs=0.5", distill=1, progress=lambda stage, *_: stages.append(stage))
    assert "score" not in stages

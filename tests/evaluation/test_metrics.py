"""Metrics of models, and of pairs of models."""

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.evaluation.metrics import compare, evaluate
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


def linear(weight, text="g (float[N,{0}] x) => (float[N,{1}] y) {{ y = MatMul (x, w) }}"):
    weight = np.asarray(weight, np.float32)
    return load(example(text.format(*weight.shape), constants={"w": weight}))


def dataset(model, arrays):
    return load_data(arrays, model, PreprocessConfig())


def one_hot(classes, count):
    return np.eye(count, dtype=np.float32)[classes]


def test_accuracy_is_the_share_of_right_rows():
    model = linear(np.eye(4))
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 0])
    wrong = (labels + np.array([0] * 7 + [1] * 3)) % 4
    assert evaluate(model, dataset(model, (one_hot(labels, 4), wrong))) == {"top1": 0.7}


def test_top_five_comes_with_more_than_twenty_classes():
    model = linear(np.eye(21))
    # Scores fall from class 20 to 0: the best is class 20, the best five are 16 to 20.
    x = np.tile(np.arange(21, dtype=np.float32), (4, 1))
    assert evaluate(model, dataset(model, (x, np.array([20, 16, 15, 0])))) == {"top1": 0.25, "top5": 0.5}
    smaller = linear(np.eye(20))
    assert list(evaluate(smaller, dataset(smaller, (x[:, :20], np.array([0, 1, 2, 3]))))) == ["top1"]


def test_nothing_can_be_said_of_one_model_without_labels():
    model = linear(np.eye(4))
    assert evaluate(model, dataset(model, one_hot([0, 1], 4))) == {}


def test_selected_rows_keep_their_labels():
    model = linear(np.eye(4))
    data = dataset(model, (one_hot([0, 1, 2, 3], 4), np.array([0, 0, 2, 0])))
    assert evaluate(model, data.take([0, 2])) == {"top1": 1.0}
    assert evaluate(model, data.take([3, 1, 1])) == {"top1": 0.0}


def test_comparison_without_labels():
    weight = np.eye(5, 4)
    model, other = linear(weight), linear(weight * [1, 1, 1, -1])
    changes = compare(model, other, dataset(model, one_hot([0, 1, 2, 3], 5)))
    assert list(changes) == ["agreement", "relative_error"]
    assert (changes["agreement"].before, changes["agreement"].after) == (1.0, 0.75)
    # One of four rows of unit length moves by 2.
    assert changes["relative_error"].before == 0
    assert changes["relative_error"].after == pytest.approx(1.0)


def test_comparison_with_labels():
    model, other = linear(np.eye(4)), linear(np.eye(4)[[1, 0, 2, 3]])
    changes = compare(model, other, dataset(model, (one_hot([0, 1, 2, 3], 4), np.array([0, 1, 2, 0]))))
    assert (changes["top1"].before, changes["top1"].after) == (0.75, 0.25)
    assert changes["agreement"].after == 0.5


def test_a_model_compared_with_itself():
    model = linear(np.random.default_rng(0).standard_normal((4, 3)))
    changes = compare(model, model, dataset(model, np.random.default_rng(1).standard_normal((99, 4))))
    assert changes["agreement"].after == 1
    assert changes["relative_error"].after == 0


def test_error_is_measured_over_all_floating_point_outputs():
    text = "g (float[N,2] x) => (int64[N] k, float[N] y, float[N] z) {{ k = ArgMax <axis = 1, keepdims = 0> (x) {0} }}"
    first = text.format("y = ReduceSum <keepdims = 0> (x, a) z = ReduceSum <keepdims = 0> (x, a)")
    second = text.format("y = ReduceSum <keepdims = 0> (x, a) n = ReduceSum <keepdims = 0> (x, a) z = Neg (n)")
    model, other = (load(example(t, constants={"a": np.array([1])})) for t in (first, second))
    changes = compare(model, other, dataset(model, np.ones((3, 2), np.float32)))
    assert list(changes) == ["relative_error"]
    # y agrees, z = -z: sqrt((0 + 4 e) / (e + e)).
    assert changes["relative_error"].after == pytest.approx(np.sqrt(2))


def test_outputs_are_matched_by_place_where_names_differ():
    renamed = "g (float[N,{0}] x) => (float[N,{1}] other) {{ other = MatMul (x, w) }}"
    model, other = linear(np.eye(3)), linear(np.eye(3), renamed)
    assert compare(model, other, dataset(model, one_hot([0, 1], 3)))["relative_error"].after == 0


def test_models_of_different_fixed_batches_are_compared_row_by_row():
    models = []
    for batch in (3, 4):
        text = f"g (float[{batch},{{0}}] x) => (float[{batch},{{1}}] y) {{{{ y = MatMul (x, w) }}}}"
        models.append(linear(np.random.default_rng(0).standard_normal((4, 3)), text))
    changes = compare(*models, dataset(models[0], np.random.default_rng(1).standard_normal((101, 4))))
    assert changes["agreement"].after == 1
    assert changes["relative_error"].after < 1e-6


def test_broken_model_agrees_with_nothing():
    model, other = linear(np.eye(3)), linear(np.full((3, 3), np.nan))
    changes = compare(model, other, dataset(model, (one_hot([0, 1], 3), np.array([0, 1]))))
    assert changes["top1"].after == 0
    assert changes["agreement"].after == 0
    assert changes["relative_error"].after == np.inf


def test_models_that_cannot_be_compared():
    model = linear(np.eye(3))
    with pytest.raises(InputError, match=r"output 'y' has shape \[2, 3\] in model and \[2, 2\] in model"):
        compare(model, linear(np.ones((3, 2))), dataset(model, one_hot([0, 1], 3)))
    two = load(example("g (float[N,3] x) => (float[N,3] a, float[N,3] b) { a = Relu (x)  b = Neg (x) }"))
    with pytest.raises(InputError, match="has 1 outputs and model 2"):
        compare(model, two, dataset(model, one_hot([0, 1], 3)))


def test_labels_beyond_the_classes():
    model = linear(np.eye(3))
    with pytest.raises(InputError, match="a label is 3, but model has 3 classes, counted from 0"):
        evaluate(model, dataset(model, (one_hot([0, 1], 3), np.array([0, 3]))))


def test_labels_for_a_model_without_class_scores():
    model = load(example("g (float[N,3,2,2] x) => (float[N,3,2,2] y) { y = Relu (x) }"))
    data = dataset(model, (np.zeros((2, 3, 2, 2), np.float32), np.array([0, 1])))
    for call in (lambda: evaluate(model, data), lambda: compare(model, model, data)):
        with pytest.raises(InputError, match="no output of model holds class scores; leave the labels out"):
            call()


def test_single_sigmoid_column_is_the_probability_of_class_one():
    model = linear([[1.0]], "g (float[N,{0}] x) => (float[N,{1}] y) {{ h = MatMul (x, w)  y = Sigmoid (h) }}")
    data = dataset(model, (np.array([[-2], [-1], [1], [2]], np.float32), np.array([0, 1, 1, 1])))
    assert evaluate(model, data) == {"top1": 0.75}


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("name", "rows", "options", "hits"),
    [
        ("vnncomp2022/mnist-net_256x2.onnx", 10_000, {"scale": 1 / 255}, 9808),
        ("omlt/gemm.onnx", 10_000, {"scale": 1 / 255}, 9781),
        ("gurobi_ml/mnist_model.onnx", 10_000, {"scale": 1 / 255}, 8750),
        ("marabou/cnn_max_mninst2.onnx", 10_000, {"scale": 1 / 255}, 9823),
        ("vnncomp2021/Convnet_maxpool.onnx", 10_000, {"scale": 1 / 255}, 9792),
    ],
)
def test_published_accuracy_on_mnist(corpus_path, mnist_test, name, rows, options, hits):
    model = load(corpus_path(f"models/{name}"))
    data = load_data(mnist_test, model, PreprocessConfig(**options))
    assert len(data) == rows
    assert round(evaluate(model, data)["top1"] * rows) == hits


@pytest.mark.parametrize(
    ("name", "options", "hits"),
    [
        ("vnncomp2021/cifar10_small.onnx", {"scale": 1 / 255}, 6314),
        ("vnncomp2022/cifar_deep_kw.onnx", {"mean": IMAGENET["mean"], "std": (0.225,)}, 5531),
    ],
)
def test_published_accuracy_on_cifar10(corpus_path, cifar10_test, name, options, hits):
    model = load(corpus_path(f"models/{name}"))
    data = load_data(cifar10_test, model, PreprocessConfig(**options))
    assert round(evaluate(model, data)["top1"] * 10_000) == hits


@pytest.mark.parametrize(
    ("name", "options", "accuracy"),
    [
        ("cifar10_resnet_akamaster/resnet20_cifar10.onnx", IMAGENET, 0.9173),
        ("mlperf_tiny/resnet8_cifar10.onnx", {}, 0.8719),
    ],
)
def test_accuracy_on_a_part_of_cifar10(corpus_path, name, options, accuracy):
    model = load(corpus_path(f"models/{name}"))
    spec = corpus_path("data/cifar10_test.npz")
    data = load_data(spec, model, PreprocessConfig(**options), limit=1000)
    # The standard error of 1,000 rows is about a hundredth.
    assert evaluate(model, data)["top1"] == pytest.approx(accuracy, abs=0.03)

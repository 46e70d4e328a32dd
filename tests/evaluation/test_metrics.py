"""Metrics of models, and of pairs of models."""

import numpy as np
import pytest
from classifiers import both, dataset, linear, one_hot

from onnxprune.calibration.inputs import load_data
from onnxprune.config import OutputConfig, PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.core.text import main_metric
from onnxprune.evaluation.metrics import compare, evaluate
from onnxprune.evaluation.warnings import heavy_losses
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


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
    changes = compare(model, other, dataset(model, np.arange(6, dtype=np.float32).reshape(3, 2)))
    assert list(changes) == ["explained[y]", "explained[z]", "relative_error"]
    assert (changes["explained[y]"].after, changes["explained[z]"].after) == (1, 0)
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


def test_class_numbers_may_be_stored_as_floats():
    """They were said to fit no output."""
    model, scores = linear(np.eye(3)), one_hot([0, 1, 2], 3)
    metrics = evaluate(model, dataset(model, (scores, np.array([0.0, 1.0, 1.0], np.float32))))
    assert metrics["top1"] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match=r"whole numbers of classes; one is 0\.5"):
        evaluate(model, dataset(model, (scores, np.array([0, 0.5, 1]))))


def test_labels_for_a_model_without_class_scores():
    model = load(example("g (float[N,3,2,2] x) => (float[N,3,2,2] y) { y = Relu (x) }"))
    data = dataset(model, (np.zeros((2, 3, 2, 2), np.float32), np.array([0, 1])))
    for call in (lambda: evaluate(model, data), lambda: compare(model, model, data)):
        with pytest.raises(
            InputError, match=r"labels of shape \[rows\] fit no output of model: 'y' has \[rows, 3, 2, 2\]"
        ):
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


def test_no_class_is_the_worst_where_nothing_is_lost() -> None:
    """ "Agreement in the worst class 100 %, class 0" named a class of which nothing was lost."""
    model = linear(np.eye(5, 4))
    rows = dataset(model, one_hot([0, 1, 2, 3] * 6, 5))
    same, changed = compare(model, model, rows), compare(model, linear(np.eye(5, 4)[[0, 0, 2, 3, 4]]), rows)
    assert same["worst_class"].detail == ""
    assert changed["worst_class"].detail == "class 1, 6 of 24"


def test_tokens_are_judged_one_by_one() -> None:
    """Labels of a tagger were refused: one class number a row was all there could be."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3)).astype(np.float32)
    weight -= weight.mean(1, keepdims=True)
    x = rng.standard_normal((8, 5, 6)).astype(np.float32)
    labels = (x @ weight).argmax(2)
    text = "g (float[N,5,6] x) => (float[N,5,3] y) { y = MatMul (x, w) }"
    changes = both(text, {"w": weight}, {"w": weight[:, [1, 0, 2]]}, x, labels)
    swapped = np.mean(labels == 2)
    assert changes["accuracy"].before == 1
    assert changes["accuracy"].after == changes["agreement"].after == pytest.approx(swapped)
    ignored = np.where(labels == 2, labels, -1)
    assert both(text, {"w": weight}, {"w": weight[:, [1, 0, 2]]}, x, ignored)["accuracy"].after == 1
    with pytest.raises(InputError, match=r"labels of shape \[rows, 4\] fit no output of model: 'y' has \[rows, 5, 3\]"):
        both(text, {"w": weight}, {"w": weight}, x, labels[:, :4])


def test_labels_of_an_outputs_own_shape() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
    text = "g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w)  y = Sigmoid (h) }"
    changes = both(text, {"w": weight}, {"w": -weight}, x, (x @ weight > 0).astype(int))
    assert (changes["label_iou"].before, changes["label_iou"].after) == (1, 0)
    text = "g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w)  y = Tanh (h) }"
    changes = both(text, {"w": weight}, {"w": 0 * weight}, x, np.tanh(x @ weight))
    assert changes["label_fit"].before == pytest.approx(1)
    assert changes["label_fit"].after < 0.1
    with pytest.raises(InputError, match=r"fit no output of model.*give y\.argmax"):
        both(
            "g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w)  y = Softmax (h) }",
            {"w": weight},
            {"w": weight},
            x,
            np.eye(3, dtype=int)[np.arange(40) % 3],
        )


DETECTOR = """g (float[N,6,5] x) => (float[N,6,5] y) {
    b, c = Split <axis = 1> (x, sizes)  d = Add (b, shift)  s = Sigmoid (c)  y = Concat <axis = 1> (d, s) }"""


def detector(shift, sizes=(4, 2)):
    constants = {"shift": np.array(shift, np.float32).reshape(1, -1, 1), "sizes": np.array(sizes)}
    return load(example(DETECTOR, constants=constants))


def test_detections_are_found_again_where_boxes_overlap() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(20, 40, (7, 4, 5)), np.full((7, 2, 5), -9.0)], axis=1).astype(np.float32)
    x[:, 2:4] = 10  # centres and sizes
    x[:, 4, 1], x[:, 5, 3] = 2, 3
    near, far = (compare(detector([0] * 4), detector([by, 0, 0, 0]), dataset(detector([0] * 4), x)) for by in (2, 6))
    assert near["found_again"].after == 1
    assert near["found_again"].detail == "of 14 detections"
    assert far["found_again"].after == 0
    assert near["found_again"].rules
    assert near["new_detections"].after == 0
    assert "explained" not in near  # boxes do not count beside what is made of them


def test_offsets_from_anchors_are_no_boxes() -> None:
    """Sizes below 0 overlap with nothing: half of a detector's boxes counted as lost that were as good as before."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, (7, 4, 5)), np.full((7, 2, 5), -9.0)], axis=1).astype(np.float32)
    x[:, 4, :3] = 3
    near, far = (compare(detector([0] * 4), detector([by] * 4), dataset(detector([0] * 4), x)) for by in (0.02, 2))
    for changes in (near, far):
        assert changes["found_again"].after == 1
        assert changes["found_again"].detail == "of 21 detections"
    assert near["explained"].after > 0.99
    assert far["explained"].after == 0
    assert far["explained"].rules


def test_the_form_of_boxes_does_not_depend_on_which_are_found() -> None:
    """40 rows on which all that was found had positive offsets took these for sizes: 76 % found again, then 92 %."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, (7, 4, 5)), np.full((7, 2, 5), -9.0)], axis=1).astype(np.float32)
    x[:, :4, 0], x[:, 4, 0] = rng.uniform(0, 1, (7, 4)), 3
    changes = compare(detector([0] * 4), detector([0.3] * 4), dataset(detector([0] * 4), x))
    assert changes["found_again"].after == 1
    assert changes["explained"].detail


def test_boxes_found_again_that_lie_worse_are_told() -> None:
    """The mean average precision at an overlap of 0.75 fell by 13 points with 95 % of the detections found again."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(20, 40, (7, 4, 5)), np.full((7, 2, 5), -9.0)], axis=1).astype(np.float32)
    x[:, 2:4] = 10
    x[:, 4, 1] = 2
    changes = compare(detector([0] * 4), detector([2.5, 0, 0, 0]), dataset(detector([0] * 4), x))
    assert changes["found_again"].after == 1
    assert changes["box_overlap"].after == pytest.approx(0.6)
    assert not changes["box_overlap"].rules
    assert any("overlap of boxes" in warning for warning in heavy_losses(changes))


def test_a_detector_that_finds_nothing_any_more_is_loud() -> None:
    """A detector that lost all its objects was reported with "relative output error 0.23 %" and exit code 0."""
    x = np.full((7, 6, 5), -9, np.float32)
    x[:, :4] = np.random.default_rng(0).uniform(20, 40, (7, 4, 5))
    x[:, 4, 1] = 4
    blind = "g (float[N,6,5] x) => (float[N,6,5] y) { b, c = Split <axis = 1> (x, sizes)  s = Sigmoid (c)  e = Mul (s, small)  y = Concat <axis = 1> (b, e) }"  # noqa: E501
    other = load(example(blind, constants={"sizes": np.array([4, 2]), "small": np.array([0.01], np.float32)}))
    changes = compare(detector([0] * 4), other, dataset(other, x))
    assert changes["relative_error"].after < 0.03
    assert changes["found_again"].after == 0
    assert main_metric(changes) == "found_again"
    assert heavy_losses(changes) == ("heavy loss: detections found again falls to 0.0 % (of 7 detections)",)


def test_keypoints_stay_or_move() -> None:
    x = np.random.default_rng(0).uniform(0.2, 0.8, (9, 4, 5)).astype(np.float32)
    x[:, 3] = 2
    text = """g (float[N,4,5] x) => (float[N,3,5] y) {
        a, b = Split <axis = 1> (x, sizes)  n = Neg (a)  c, d = Split <axis = 1> (n, two)  k = Mul (c, w)
        e = ReduceMax <axes = [1], keepdims = 1> (d)  s = Sigmoid (b)  y = Concat <axis = 1> (k, s) }"""

    def model(by):
        return load(
            example(
                text, constants={"sizes": np.array([3, 1]), "two": np.array([2, 1]), "w": np.array([by], np.float32)}
            )
        )

    data = dataset(model(1), x)
    assert compare(model(1), model(1.01), data)["keypoints_kept"].after == 1
    assert compare(model(1), model(1.5), data)["keypoints_kept"].after < 0.2


def test_masks_overlap() -> None:
    text = "g (float[N,1,4,4] x) => (float[N,1,4,4] y) { h = Add (x, w)  y = Sigmoid (h) }"
    x = np.tile(np.linspace(-1, 1, 16).reshape(1, 1, 4, 4), (3, 1, 1, 1)).astype(np.float32)
    changes = both(text, {"w": [0.0]}, {"w": [0.7]}, x)
    assert changes["mask_iou"].after == pytest.approx(8 / 13)


def test_embeddings_keep_their_neighbours() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { h = MatMul (x, w)  y = LpNormalization <axis = 1> (h) }"
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    turned = both(text, {"w": np.eye(4)}, {"w": np.eye(4)[[1, 0, 3, 2]]}, x)
    assert turned["same_nearest"].after == 1
    assert turned["cosine"].after < 0.9
    squeezed = both(text, {"w": np.eye(4)}, {"w": np.diag([1, 1, 0.1, 0.1])}, x)
    assert squeezed["same_nearest"].after < 1


def test_quantities_keep_their_variance_column_by_column() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) { h = MatMul (x, w)  b = Clip (h, low)  y = Add (b, x) }"
    x = np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)
    low = {"low": np.float32(-1e9)}
    changes = both(text, {"w": np.diag([0.0, 999.0]), **low}, {"w": np.diag([-0.5, 999.0]), **low}, x)
    assert changes["relative_error"].after < 1e-3
    assert changes["explained"].after == pytest.approx(1 - 0.25 / 2, rel=0.1)


def test_the_worst_class_is_told() -> None:
    weight = np.eye(4, 3)
    other = weight.copy()
    other[2] = [0, 2, 1]
    x = one_hot([0] * 50 + [1] * 40 + [2] * 10, 4)
    changes = compare(linear(weight), linear(other), dataset(linear(weight), x))
    assert changes["agreement"].after == 0.9
    assert (changes["worst_class"].after, changes["worst_class"].detail) == (0, "class 2, 10 of 100")
    assert any("worst class" in warning for warning in heavy_losses(changes))
    labelled = compare(linear(weight), linear(other), dataset(linear(weight), (x, x.argmax(1))))
    assert labelled["top1"].after == 0.9
    assert heavy_losses(labelled) == ("heavy loss: agreement in the worst class falls to 0.0 % (class 2, 10 of 100)",)


def test_a_heavy_loss_of_one_output_is_loud() -> None:
    text = "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Tanh (x)  h = MatMul (x, w)  z = Tanh (h) }"
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    changes = both(text, {"w": np.eye(4)}, {"w": 0.3 * np.eye(4)}, x)
    assert main_metric(changes) == "explained[z]"
    (warning,) = heavy_losses(changes)
    assert "variance explained of 'z'" in warning
    assert heavy_losses(both(text, {"w": np.eye(4)}, {"w": np.eye(4)}, x)) == ()


def test_what_the_user_says_of_outputs_counts() -> None:
    text = "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Tanh (x)  z = MatMul (x, w) }"
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    weights = {"w": np.eye(4)}, {"w": 2 * np.eye(4)}
    said = both(text, *weights, x, config=OutputConfig(kinds=("z=embedding",)))
    assert said["cosine"].after == pytest.approx(1)
    assert "cosine" not in both(text, *weights, x)
    ignored = both(text, *weights, x, config=OutputConfig(kinds=("z=ignored",)))
    assert ignored["relative_error"].after == 0
    for kinds, message in (
        (("q=classes",), "no output 'q'"),
        (("z=words",), "unknown kind"),
        (("z",), "NAME=VALUE"),
        (("y=ignored", "z=ignored"), "nothing to compare"),
    ):
        with pytest.raises(InputError, match=message):
            both(text, *weights, x, config=OutputConfig(kinds=kinds))

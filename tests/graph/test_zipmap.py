"""Classifiers as skl2onnx writes them: scaled features, classes, by default a list of maps for probabilities."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.core.errors import InputError, ModelError

ROWS = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)


def classifier(classes: list[int] | list[str]) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weights = {"w1": rng.standard_normal((4, 16)), "w2": rng.standard_normal((16, 3))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    text = isinstance(classes[0], str)
    kind, attribute = (TensorProto.STRING, "strings") if text else (TensorProto.INT64, "int64s")
    tensors.append(numpy_helper.from_array(np.array([classes], object if text else np.int64), "classes"))
    nodes = [
        helper.make_node("MatMul", ["X", "w1"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["a"], axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["classes", "a"], ["picked"], domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["picked", "flat"], ["output_label"]),
        helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", **{f"classlabels_{attribute}": classes}),
    ]
    tensors.append(numpy_helper.from_array(np.array([-1]), "flat"))
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("output_label", kind, [None]), helper.make_value_info("maps", maps)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_list_of_maps_is_told_and_the_classes_count() -> None:
    result = onnxprune.prune(classifier([0, 1, 2]), ROWS, targets=0.5, threads=1, time=False)
    assert any("zipmap=False" in note for note in result.notes)
    assert "same_labels" in result.metrics
    assert result.after.macs <= result.before.macs / 2


def test_labels_judge_classes_that_are_put_out_as_numbers() -> None:
    """They were said to fit no output, with the output's own shape beside them."""
    model = classifier([0, 1, 2])
    right = onnxruntime.InferenceSession(model.SerializeToString()).run(["output_label"], {"X": ROWS})[0]
    wrong = np.where(np.arange(len(right)) % 4 == 0, (right + 1) % 3, right)
    found = onnxprune.validate(model, model, (ROWS, wrong), time=False)
    assert found.metrics["top1"].before == 0.75
    assert found.metrics["top1"].rules


def test_where_no_output_holds_numbers_the_error_says_how_to_export() -> None:
    """Text was taken for numbers, which ended in an internal error."""
    with pytest.raises(ModelError, match="zipmap=False"):
        onnxprune.prune(classifier(["a", "b", "c"]), ROWS, targets=0.5)


@pytest.mark.parametrize("kind", ["Scaler", "Imputer", "Normalizer"])
def test_layers_behind_scaled_features_are_pruned(kind: str) -> None:
    """onnx infers no shape of these operators, so that nothing behind a StandardScaler could be pruned."""
    model = classifier([0, 1, 2])
    attributes = {
        "Scaler": {"offset": [0.5] * 4, "scale": [2.0] * 4},
        "Imputer": {"imputed_value_floats": [0.0], "replaced_value_float": float("nan")},
        "Normalizer": {"norm": "L2"},
    }
    model.graph.node[0].input[0] = "scaled"
    model.graph.node.insert(0, helper.make_node(kind, ["X"], ["scaled"], domain="ai.onnx.ml", **attributes[kind]))
    result = onnxprune.prune(model, ROWS, targets=0.5, threads=1, time=False)
    assert result.after.macs <= result.before.macs / 2


def test_an_export_with_maps_beside_one_without_is_an_error_of_the_input() -> None:
    """It ended in an internal error."""
    model = classifier([0, 1, 2])
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[-1], plain.graph.output[:]
    plain.graph.output.extend(
        [
            helper.make_tensor_value_info("output_label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 3]),
        ]
    )
    with pytest.raises(InputError, match="of one export"):
        onnxprune.validate(plain, model, ROWS, time=False)

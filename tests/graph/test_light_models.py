"""The network graphs that ship with onnx, whose weights are filled in here: the oracle, and how much is prunable."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracle import analysed, check_removal, random_removal

from onnxprune.graph.model import to_proto

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx"))
# Hundreds of megabytes of weights.
LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")
GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "light.json").read_text())


def filled(name: str) -> onnx.ModelProto:
    """The graph with seeded weights instead of ConstantOfShape, at an eighth of the image size where it allows that."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    rng = np.random.default_rng(0)
    nodes = [node for node in proto.graph.node if node.op_type != "ConstantOfShape"]
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(size) for size in shapes[node.input[0]])
            spread = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
            value = rng.standard_normal(shape, np.float32)
            value *= np.float32(spread)
            # What is not a matrix or a kernel may be a variance.
            value = value if len(shape) > 1 else np.abs(value) + np.float32(0.5)
            weight = proto.graph.initializer.add(name=node.output[0], data_type=onnx.TensorProto.FLOAT, dims=shape)
            weight.raw_data = value.tobytes()  # hundreds of megabytes, of which helpers make copies
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.ir_version = 4  # before, every initializer would have to be an input as well
    read = {name for node in nodes for name in node.input}
    for field in (proto.graph.initializer, proto.graph.input):
        for index in reversed(range(len(field))):
            if field[index].name not in read:
                del field[index]
    return proto


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NAMES])
def test_pruned_equals_masked(name: str) -> None:
    a = analysed(filled(name))
    check_removal(a, random_removal(a, 0.3, np.random.default_rng(0)))


def test_weights_made_by_nodes_become_initializers_of_a_valid_file() -> None:
    proto = onnx.load(LIGHT / "light_squeezenet.onnx")
    assert proto.ir_version == 3
    a = analysed(proto)
    smaller = to_proto(check_removal(a, random_removal(a, 0.3, np.random.default_rng(0))))
    assert not {node.op_type for node in smaller.graph.node} & {"ConstantOfShape"}


@pytest.mark.parametrize("name", NAMES)
def test_prunable_share(name: str) -> None:
    analysis = analysed(onnx.load(LIGHT / f"light_{name}.onnx"))
    assert analysis.prunable >= GOLDEN[name]["prunable"]
    # All that stays, stays for its own reason: an output, or a normalisation across channels.
    excused = {
        n
        for n in analysis.not_pruned
        if "output of the model" in n.reason or "LRN" in n.reason or "Softmax" in n.reason
    }
    assert set(analysis.not_pruned) == excused


def test_resnet50_prunes_the_classifiers_input() -> None:
    analysis = analysed(onnx.load(LIGHT / "light_resnet50.onnx"))
    assert analysis.prunable >= 9400
    classifier = next(layer for layer in analysis.layers if layer.op_type == "Gemm")
    assert (analysis.labels[classifier.weight][classifier.in_axis] != 0).all()

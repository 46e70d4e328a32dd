"""What removal keeps of a file, and what it refuses."""

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import to_proto
from onnxprune.ops.examples import example
from onnxprune.structure.removal import remove


def model() -> onnx.ModelProto:
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        h = Conv (x, w1)
        r = Relu (h)
        m = ReduceMean <axes = [1]> (x)
        i = Conv (r, w2)
        y = Add (i, b) }""",
        {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1), "b": (1,)},
    )
    proto = onnx.shape_inference.infer_shapes(proto)
    proto.doc_string, proto.producer_name, proto.model_version = "about", "someone", 7
    proto.metadata_props.add(key="licence", value="MIT")
    proto.graph.doc_string = "graph"
    proto.graph.node[0].doc_string = "node"
    proto.graph.initializer[0].doc_string = "weight"
    return proto


def shapes(proto: onnx.ModelProto) -> dict[str, list[int | str]]:
    """The shapes that a file declares of inner tensors."""
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.value_info
    }


def test_declared_shapes_of_narrowed_tensors_are_updated_and_all_else_stays() -> None:
    """A file lost the shapes of its inner tensors wherever channels went."""
    proto = model()
    a = analysed(proto)
    removed = a.none_removed()
    removed[a.groups[0].units[:3]] = True
    smaller = to_proto(check_removal(a, removed))
    before, after = shapes(proto), shapes(smaller)
    assert before.keys() == after.keys() == {"h", "r", "m", "i"}
    assert (before["h"][1], after["h"][1], after["r"][1]) == (8, 5, 5)
    del smaller.graph.value_info[:]
    assert shapes(onnx.shape_inference.infer_shapes(smaller, strict_mode=True)) == after
    for part in ("doc_string", "producer_name", "model_version", "ir_version"):
        assert getattr(smaller, part) == getattr(proto, part)
    assert [(p.key, p.value) for p in smaller.metadata_props] == [("licence", "MIT")]
    assert smaller.opset_import == proto.opset_import
    assert smaller.graph.doc_string == "graph"
    assert smaller.graph.node[0].doc_string == "node"
    assert smaller.graph.initializer[0].doc_string == "weight"
    assert list(smaller.graph.initializer[0].dims) == [5, 3, 1, 1]


def test_removal_refuses_what_would_empty_an_axis_or_is_fixed() -> None:
    a = analysed(model())
    everything = a.none_removed()
    everything[a.groups[0].units] = True
    with pytest.raises(ModelError, match="without channels; keep at least one"):
        remove(a, everything)
    fixed = a.none_removed()
    fixed[0] = True
    with pytest.raises(ModelError, match="unit 0 stands for all fixed channels"):
        remove(a, fixed)
    with pytest.raises(ModelError, match="the removal mask has shape"):
        remove(a, np.zeros(3, bool))


def test_limits_of_int32_stay_int32_where_one_is_shared():
    """Two Slices share their ends; only one of them needs others."""
    a = analysed(
        example(
            """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            h = Conv (x, w1)
            a = Slice (h, first, end, axis)
            b = Slice (h, second, end, axis)
            p = Conv (a, w2)
            q = Conv (b, w3)
            y = Add (p, q) }""",
            {"w1": (8, 3, 1, 1), "w2": (4, 6, 1, 1), "w3": (4, 4, 1, 1)},
            {name: np.array([n], np.int32) for name, n in (("first", 0), ("second", 2), ("end", 6), ("axis", 1))},
        )
    )
    for seed in range(4):
        check_removal(a, random_removal(a, 0.5, np.random.default_rng(seed)))

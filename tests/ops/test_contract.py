"""Every handler's examples against the oracle."""

import onnx
import onnxruntime
import pytest
from oracle import analysed

from onnxprune.structure.analysis import Analysis
from onnxprune.testing.contract import check_shares, check_single_units, followed

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in followed()
    for number, example in enumerate(handler.examples())
]
# Handlers whose operators others' examples go through, or that only freeze.
WITHOUT = {"Dropout", "LayerNormalization", "LocalResponse"}


def known(example: onnx.ModelProto) -> Analysis:
    """The example analysed; operators that are newer than the installed onnxruntime are left out."""
    try:
        onnxruntime.InferenceSession(example.SerializeToString())
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        if "Current official support" in str(error):
            pytest.skip(
                f"onnxruntime {onnxruntime.__version__} does not have operator set {example.opset_import[0].version}"
            )
    return analysed(example)


@pytest.mark.parametrize("example", EXAMPLES)
def test_pruned_equals_masked(example: onnx.ModelProto) -> None:
    a = known(example)
    assert a.groups, "an example has something to prune"
    check_shares(a)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_unit_alone(example: onnx.ModelProto) -> None:
    check_single_units(known(example))


def test_every_handler_has_examples() -> None:
    assert {type(handler).__name__ for handler in followed() if next(handler.examples(), None) is None} == WITHOUT

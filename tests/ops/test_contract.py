"""Every handler's examples against the oracle."""

import onnx
import pytest
from oracle import analysed

from onnxprune.testing.contract import check_shares, check_single_units, followed

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in followed()
    for number, example in enumerate(handler.examples())
]
# Handlers whose operators others' examples go through, or that only freeze.
WITHOUT = {"Dropout", "LayerNormalization", "LocalResponse"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_pruned_equals_masked(example: onnx.ModelProto) -> None:
    a = analysed(example)
    assert a.groups, "an example has something to prune"
    check_shares(a)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_unit_alone(example: onnx.ModelProto) -> None:
    check_single_units(analysed(example))


def test_every_handler_has_examples() -> None:
    assert {type(handler).__name__ for handler in followed() if next(handler.examples(), None) is None} == WITHOUT

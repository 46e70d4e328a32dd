"""Every handler's examples against the oracle."""

from itertools import islice

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune.ops import handlers

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in dict.fromkeys(handlers().values())
    for number, example in enumerate(handler.examples())
]
# Handlers whose operators others' examples go through, or that only freeze.
WITHOUT = {"Dropout", "LayerNormalization", "LocalResponse"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_pruned_equals_masked(example: onnx.ModelProto) -> None:
    a = analysed(example)
    assert a.groups, "an example has something to prune"
    rng = np.random.default_rng(0)
    for round_number, share in enumerate((0.3, 0.6, 0.9)):
        check_removal(a, random_removal(a, share, rng), seed=round_number, batch=1 + round_number)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_unit_alone(example: onnx.ModelProto) -> None:
    a = analysed(example)
    for group in a.groups:
        if len(group) < 2:
            continue
        for unit in islice(group.units, 3):
            removed = a.none_removed()
            removed[unit] = True
            check_removal(a, removed)


def test_every_handler_has_examples() -> None:
    found = {
        type(handler).__name__
        for handler in handlers().values()
        if handler.follows and next(handler.examples(), None) is None
    }
    assert found == WITHOUT

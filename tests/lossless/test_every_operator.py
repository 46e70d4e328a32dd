"""Every handler's examples, with some units made constant and others alike: what is found changes no output."""

import numpy as np
import onnx
import pytest
from oracle import analysed, assert_close, random_feed, run

from onnxprune.graph.model import to_proto
from onnxprune.lossless import lossless
from onnxprune.ops import handlers
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.removal import masked, remove

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in dict.fromkeys(handlers().values())
    for number, example in enumerate(handler.examples())
]


def redundant(a: Analysis, rng: np.random.Generator) -> Analysis:
    """In each group a unit whose weights are zero, and one with another's weights, wherever they are stored."""
    constants = {name: np.array(value) for name, value in a.model.constants.items() if value.dtype.kind == "f"}
    for group in a.groups:
        if len(group) < 3:
            continue
        silent, first, second = rng.choice(group.units, 3, replace=False)
        for name, axes in a.labels.items():
            if name not in constants:
                continue
            for axis, ids in enumerate(axes):
                if ids is None or not np.isin(group.units, ids).any():
                    continue
                moved = np.moveaxis(constants[name], axis, 0)
                moved[ids == silent] = 0.0
                moved[ids == second] = moved[ids == first]
    return analysed(to_proto(a.model.with_constants(constants)))


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_found_changes_no_output(example: onnx.ModelProto) -> None:
    rng = np.random.default_rng(0)
    a = redundant(analysed(example), rng)
    found = lossless(a)
    feed = random_feed(a, rng, batch=3)
    wanted = run(a.model, feed)
    if not all(np.isfinite(each).all() for each in wanted if each.dtype.kind == "f"):
        pytest.skip("a division by zero: no values to compare")
    smaller = remove(found.analysis, found.removed)
    for other in (found.model, masked(found.analysis, found.removed), smaller):
        assert_close(run(other, feed), wanted, wanted)

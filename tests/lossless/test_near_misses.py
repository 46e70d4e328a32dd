"""Units that are alike in all constants but one are no copies: every handler's examples, constant by constant."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from oracle import analysed, assert_close, random_feed, run

import onnxprune
from onnxprune.graph.load import load
from onnxprune.graph.model import to_proto
from onnxprune.lossless import lossless
from onnxprune.lossless.numbering import Numbering
from onnxprune.ops import handlers
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.removal import remove

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in dict.fromkeys(handlers().values())
    for number, example in enumerate(handler.examples())
]


def places(a: Analysis, unit: int) -> Iterator[tuple[str, int]]:
    """Axes of stored constants on which a unit lies."""
    for name, axes in a.labels.items():
        if name in a.model.constants:
            yield from ((name, axis) for axis, ids in enumerate(axes) if ids is not None and unit in ids)


def alike(a: Analysis, first: int, second: int) -> Analysis:
    """The same where the second unit has the first one's constants."""
    constants = {name: np.array(a.model.constants[name]) for name, _ in places(a, first)}
    for name, axis in places(a, first):
        ids, moved = a.labels[name][axis], np.moveaxis(constants[name], axis, 0)
        moved[ids == second] = moved[ids == first]
    return analysed(to_proto(a.model.with_constants(constants)))


def changed(a: Analysis, unit: int, name: str, axis: int) -> Analysis:
    """The same where one of a unit's constants differs."""
    value = np.array(a.model.constants[name])
    moved = np.moveaxis(value, axis, 0)
    here = a.labels[name][axis] == unit
    moved[here] = moved[here] * 2 + 3 if value.dtype.kind == "f" else moved[here] ^ 5
    return analysed(to_proto(a.model.with_constants({name: value})))


def check(a: Analysis) -> int:
    """Remove what goes without loss and compare outputs; how many units that were."""
    found = lossless(a)
    if found.found:
        feed = random_feed(a, np.random.default_rng(0), batch=3)
        wanted = run(a.model, feed)
        assert_close(run(remove(found.analysis, found.removed), feed), wanted, wanted)
    return found.found


def pairs(a: Analysis) -> Iterator[tuple[int, int]]:
    """The first two units of each group, and the outermost ones."""
    for group in a.groups:
        yield from {(int(group.units[0]), int(group.units[i])) for i in (1, -1)} if len(group) > 1 else ()


@pytest.mark.parametrize("example", EXAMPLES)
def test_units_alike_in_all_but_one_constant_are_no_copies(example: onnx.ModelProto) -> None:
    a = analysed(example)
    for first, second in pairs(a):
        same = alike(a, first, second)
        check(same)
        for name, axis in places(a, second):
            check(changed(same, second, name, axis))


def test_units_alike_in_all_constants_are_found() -> None:
    """The test above has something to compare: in many examples copies are found where no constant differs."""
    found = {}
    for one in EXAMPLES:
        a = analysed(one.values[0])
        found[one.id] = sum(check(alike(a, *pair)) for pair in pairs(a))
    without = sorted(name for name, count in found.items() if not count)
    assert len(found) - len(without) >= 25, without


def test_a_bias_for_rows_is_none_for_channels() -> None:
    # As many rows as channels: a column of numbers is added to the rows.
    rng = np.random.default_rng(0)
    column = rng.standard_normal((6, 1)).astype(np.float32)
    model = example(
        """g (float[5,6] x) => (float[6,3] y) {
        t = Transpose (x)
        h = Gemm (t, w1, c)
        r = Relu (h)
        y = MatMul (r, w2) }""",
        {"w1": (5, 6), "w2": (6, 3)},
        {"c": column},
    )
    a = analysed(model)
    weight = np.array(a.model.constants["w1"])
    weight[:, 1] = weight[:, 0]
    column[1] = column[0]
    a = analysed(to_proto(a.model.with_constants({"w1": weight, "c": column})))
    numbers = Numbering(a).channels.get("h")
    assert numbers is None
    check(a)


def test_a_normalisation_of_rows_is_none_of_channels() -> None:
    """A BatchNormalization whose second axis is not that of the channels tells nothing of them."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 8)).astype(np.float32)
    weight[:, 3] = weight[:, 5]
    moments = {name: rng.uniform(0.5, 2.0, 5).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    proto = example(
        """g (float[N,5,6] x) => (float[N,5,3] y) {
        h = MatMul (x, w) r = Relu (h) b = BatchNormalization (r, scale, shift, mean, var)
        s = Relu (b) y = MatMul (s, v) }""",
        {"v": (8, 3)},
        {"w": weight} | moments,
    )
    result = onnxprune.prune(proto, lossless=True, time=False)
    feed = {"x": rng.standard_normal((4, 5, 6)).astype(np.float32)}
    original = load(proto)
    assert_close(run(result.model, feed), run(original, feed), run(original, feed))

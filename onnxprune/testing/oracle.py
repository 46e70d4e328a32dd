"""The oracle: a pruned model must do what the original does when consumers of removed units see zero."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.graph.model import Model, to_proto
from onnxprune.runtime.feeds import random_array
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse
from onnxprune.structure.cut import find_cut
from onnxprune.structure.removal import masked, remove
from onnxprune.structure.units import Ids

# What float32 leaves of numbers of order one, which sigmoids and softmaxes go through: no scale is smaller.
RESOLUTION = 5e-7
TOLERANCE = 1e-5

Run = Callable[[Model, Mapping[str, np.ndarray]], list[np.ndarray]]
"""From a model and an array for each input to its outputs."""


def analysed(source: object, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Analysis:
    """Load and analyse."""
    return analyse(load(source), input_shapes)  # type: ignore[arg-type]


def random_removal(analysis: Analysis, share: float, rng: np.random.Generator) -> Ids:
    """A mask that removes about `share` of each group, at least one unit where the group has two or more."""
    removed = analysis.none_removed()
    for group in analysis.groups:
        count = min(max(1, round(share * len(group))), len(group) - 1) if share else 0
        removed[rng.choice(group.units, count, replace=False)] = True
    return removed


def random_feed(a: Analysis, rng: np.random.Generator, batch: int = 1) -> dict[str, np.ndarray]:
    """Normal numbers; small non-negative integers for integer inputs; symbolic batches have `batch` rows."""
    feed = {}
    declared = {value.name: value.type.tensor_type for value in a.model.proto.graph.input}
    for name in a.graph.inputs:
        shape = list(a.facts.shapes[name])
        if shape and not declared[name].shape.dim[0].HasField("dim_value"):
            shape[0] *= batch
        dtype = onnx.helper.tensor_dtype_to_np_dtype(declared[name].elem_type)
        feed[name] = random_array(rng, dtype, tuple(shape), integers=5)
    return feed


def run(model: Model, feed: Mapping[str, np.ndarray], *, optimise: bool = False) -> list[np.ndarray]:
    """Outputs in onnxruntime.

    Raises:
        ModelError: it cannot load or run the model.
    """
    session = open_session(model, engine=ONE_CORE, optimise=optimise)
    with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
        return list(session.run(None, dict(feed)))


def assert_close(actual: list[np.ndarray], wanted: list[np.ndarray], scales: list[np.ndarray]) -> None:
    """Equal shapes, equal integers, and numbers within `TOLERANCE` of the scale of the wanted (and original) output."""
    for a, b, c in zip(actual, wanted, scales, strict=True):
        assert a.shape == b.shape == c.shape
        assert a.dtype == b.dtype
        if a.dtype.kind != "f":
            assert np.array_equal(a, b)
            continue
        if not a.size:
            continue
        assert np.isfinite(a).all() == np.isfinite(b).all()
        scale = max(float(np.abs(b).max()), float(np.abs(c).max()))
        # Half precision carries ten bits.
        tolerance = (TOLERANCE * scale + RESOLUTION) * (1 if a.dtype.itemsize > 2 else 1000)
        assert float(np.abs(a.astype(float) - b).max()) <= tolerance


def check_removal(a: Analysis, removed: Ids, seed: int = 0, batch: int = 1, run: Run | None = run) -> Model:
    """Remove units and compare with the oracle, also the predicted costs; returns the smaller model.

    Args:
        a: analysis of the model.
        removed: `(units,)` True where a unit goes.
        seed: of the random inputs.
        batch: rows, where the model leaves their number open.
        run: gives a model's outputs; None where nothing here can run it, then only forms and costs are compared.

    Raises:
        AssertionError: something differs.
    """
    smaller = remove(a, removed)
    oracle = masked(a, removed)
    onnx.checker.check_model(to_proto(smaller), full_check=True)
    feed = random_feed(a, np.random.default_rng(seed), batch)
    if run is not None:
        assert_close(run(smaller, feed), run(oracle, feed), run(a.model, feed))
    sizes = {name: a.facts.shapes[name] for name in a.graph.inputs}
    counted, predicted, cut = analysed(smaller, sizes).costs(), a.costs(removed), find_cut(a, removed)
    if not cut.gone:
        assert predicted == counted
    else:  # what a branch gives without its channels may be folded away, or stay as a number where there was no bias
        assert predicted.macs >= counted.macs
        assert predicted.params + len(cut.losses) >= counted.params
    return smaller


def prunable(source: object) -> int:
    """Prunable units, once removal at two widths agreed with the oracle."""
    a = analysed(source)
    rng = np.random.default_rng(0)
    if a.groups:
        for share in (0.3, 0.6):
            check_removal(a, random_removal(a, share, rng))
    return a.prunable

"""Rows as a model takes them, for onnxruntime and its tools."""

from collections.abc import Iterator

import numpy as np

from onnxprune.api.arguments import speaks_of_arguments
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import first_feed
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.graph.load import load
from onnxprune.graph.sizes import Given, fitting, given_sizes
from onnxprune.pipeline.prepare import DataSource, Source


@speaks_of_arguments
def feeds(
    model: Source,
    data: DataSource,
    *,
    preprocess: PreprocessConfig | None = None,
    batch: int = 1,
    images: int | None = None,
    seed: int = 0,
    shapes: Given = (),
) -> Iterator[dict[str, np.ndarray]]:
    """Read rows as a model takes them: what `InferenceSession.run` and calibration readers of quantisers are fed with.

    Args:
        model: a path, the bytes of a file, a protobuf or a loaded model.
        data: rows; see `prune`. Their labels are left out.
        preprocess: how integer images become the model's input.
        batch: rows a feed, the last may have fewer; a fixed batch of the model holds, and the last feed is filled up.
        images: rows used at most; all by default.
        seed: seed of the choice of rows.
        shapes: sizes that the file leaves open, by input name, for made-up rows.

    Returns:
        One array an input name, `(batch, ...)`, feed after feed.

    Raises:
        InputError: a file cannot be read, or the data do not fit the model.
        ModelError: the model has no inputs, or an input is not a tensor.

    Example:
        ```python
        import onnxruntime

        session = onnxruntime.InferenceSession("model.onnx")
        outputs = [session.run(None, feed) for feed in onnxprune.feeds("model.onnx", "rows.npz", batch=16)]
        ```
    """
    if batch < 1:
        raise InputError(f"batch: {batch} is too small; use 1 or more")
    loaded = load(model)
    with fitting(shapes):
        known = given_sizes(loaded, shapes)
        rows = load_data(data, loaded, preprocess, limit=images, seed=seed, known=known)
    fixed = None if rows.whole else fixed_batch(input_specs(loaded))
    if fixed is None:
        return rows.batches(batch)
    starts = range(0, len(rows), fixed)
    return (dict(first_feed(loaded, rows.take(np.arange(start, min(start + fixed, len(rows)))))) for start in starts)

"""Batches of rows that fit and of rows that choose never mix."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.replay import Feeds, batch_feeds
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse


def dataset(count: int) -> Dataset:
    return Dataset({"x": np.arange(3 * count, dtype=np.float32).reshape(count, 3)}, None, "rows", np.arange(count))


def rows_of(feeds: Feeds) -> list[list[int]]:
    return [(feed["x"][:, 0] / 3).astype(int).tolist() for feed in feeds]


@given(st.integers(1, 90), st.integers(0, 90), st.integers(1, 40))
def test_batches_are_even_and_of_one_kind(first: int, others: int, size: int) -> None:
    feeds = Feeds(dataset(first + others), size, first)
    batches = rows_of(feeds)
    assert len(batches) == len(feeds)
    assert [row for batch in batches for row in batch] == [*range(first + others)]
    assert [row for batch in batches[: feeds.first] for row in batch] == [*range(first)]
    for part in (batches[: feeds.first], batches[feeds.first :]):
        lengths = {len(batch) for batch in part}
        assert not lengths or (max(lengths) <= size and max(lengths) - min(lengths) <= 1)
    assert sum(map(feeds.share, range(len(feeds)))) == pytest.approx(1)
    assert rows_of(pickle.loads(pickle.dumps(feeds))) == batches


@pytest.mark.parametrize(("fitted", "chosen"), [(12, 3), (8, 8), (5, 1), (13, 9)])
def test_whole_batches_are_filled_up_with_rows_of_their_own_kind(fitted: int, chosen: int) -> None:
    """A fixed batch was filled up with its last row again and again, which then counted most."""
    text = "g (float[8,3] x) => (float[8,2] y) { r = Reshape (x, s) h = MatMul (r, w) y = Reshape (h, t) }"
    model = load(example(text, {"w": (3, 2)}, {"s": np.array([8, 3]), "t": np.array([8, 2])}))
    analysis, data = analyse(model), dataset(fitted + chosen)
    apart = data.take(range(fitted, fitted + chosen))
    feeds = batch_feeds(model, analysis.graph, data.take(range(fitted)), 1 << 10, apart)
    batches = rows_of(feeds)
    assert {len(batch) for batch in batches} == {8}
    for part, expected in (
        (batches[: feeds.first], range(fitted)),
        (batches[feeds.first :], range(fitted, fitted + chosen)),
    ):
        times = np.bincount(np.concatenate(part), minlength=fitted + chosen)[[*expected]]
        assert sum(map(len, part)) == times.sum()
        assert times.max() - times.min() <= 1
        assert times.min() >= 1

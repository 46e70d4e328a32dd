"""Rows of embeddings that calibration never reads are told with what they hold, and stay."""

import numpy as np
import pytest

import onnxprune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.tables import UnusedRows, unused_rows
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

ENCODER = """g (int64[N,6] ids) => (float[N,3] y) {
    PICK
    e = Gather (words, i)
    p = Gather (places, two)
    s = Add (e, p)
    m = ReduceMean <axes = [1], keepdims = 0> (s)
    h = MatMul (m, w1)  r = Relu (h)  y = MatMul (r, w2) }"""
WEIGHTS = {"words": (50, 8), "places": (6, 8), "w1": (8, 16), "w2": (16, 3)}
PICKS = {
    "as they come": "i = Identity (ids)",
    "from the end": "i = Sub (ids, size)",
    "of a smaller type": "i = Cast <to = 6> (ids)",
}


def encoder(pick: str):
    text = ENCODER.replace("PICK", PICKS[pick])
    constants = {"size": np.array(50), "two": np.array([0, 1, 2, 3, 4, 4])}
    return example(text, WEIGHTS, {name: value for name, value in constants.items() if name in text})


def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 20, (130, 6)) * 2


@pytest.mark.parametrize("pick", PICKS)
def test_rows_that_are_never_read_are_counted(pick: str) -> None:
    ids = rows()
    unused = 50 - len(np.unique(ids))
    data = Dataset({"ids": ids}, None, "rows", np.arange(len(ids)))
    found = unused_rows(analyse(load(encoder(pick))), data, ONE_CORE)
    assert found == [UnusedRows("words", 50, unused, 8 * unused)]  # no input picks places
    every = Dataset({"ids": np.arange(60).reshape(10, 6) % 50}, None, "rows", np.arange(10))
    assert unused_rows(analyse(load(encoder(pick))), every, ONE_CORE) == []


def test_a_table_that_a_layer_picks_from_is_left_out() -> None:
    text = """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul (x, w1)  k = ArgMax <axis = 1, keepdims = 0> (h)  e = Gather (words, k)  y = MatMul (e, w2) }"""
    model = load(example(text, {"w1": (8, 16), "words": (16, 8), "w2": (8, 8)}))
    data = Dataset({"x": np.ones((4, 8), np.float32)}, None, "rows", np.arange(4))
    assert unused_rows(analyse(model), data, ONE_CORE) == []


def test_the_report_tells_them_and_they_stay() -> None:
    ids = rows()
    result = onnxprune.prune(encoder("as they come"), ids, targets="macs=0.6", importance="magnitude", time=False)
    unused = 50 - len(np.unique(ids))
    (note,) = [note for note in result.notes if "table" in note]
    assert note.startswith(f"{unused} of the 50 rows of table 'words' are read by none of 130 calibration rows; they")
    assert result.model.constants["words"].shape == (50, 8)


@pytest.mark.parametrize("source", ["random", "synthetic"])
def test_made_up_numbers_fit_the_smallest_table_that_they_pick_from(source: str) -> None:
    """Of types of tokens there are two; numbers up to nine ended the run. Tables may be quantised."""
    proto = example(
        """g (int32[N,6] tokens, int64[N,6] types) => (float[N,6,3] y) {
        t = Cast <to = 7> (tokens) a = Gather (words, t)
        k = DequantizeLinear (kinds, scale) u = Reshape (types, same) b = Gather (k, u)
        s = Add (a, b) h = MatMul (s, w1) r = Relu (h) y = MatMul (r, w2) }""",
        {"words": (30, 8), "w1": (8, 16), "w2": (16, 3)},
        {"kinds": np.ones((2, 8), np.int8), "scale": np.float32(0.1), "same": np.array([0, 6])},
    )
    rows = load_data(source, load(proto), limit=100).arrays
    assert {*np.unique(rows["types"])} == {0, 1}
    assert {*np.unique(rows["tokens"])} == {*range(30)}
    result = onnxprune.prune(proto, source, targets="macs=0.7", images=70, time=False)
    assert result.after.macs <= 0.7 * result.before.macs
    (timed,) = onnxprune.bench([proto], seconds=0.1, memory=False)
    assert timed.p10_ms > 0

"""Of more rows than are used, those with rare finds are taken; the others stay spread evenly."""

import numpy as np
import pytest
from blobs import detector, images

import onnxprune
from onnxprune.calibration.dataset import Dataset
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.telling import finds_things, telling_rows
from onnxprune.structure.coupling import analyse

SCORES = "g (float[N,2,6] x) => (float[N,2,6] y) { y = Sigmoid (x) }"


def chosen(scores: np.ndarray, count: int) -> tuple[list[int], tuple[str, ...]]:
    """The rows chosen where the highest score of each of two classes is given, `(rows, 2)`; and what is said."""
    x = np.full((len(scores), 2, 6), -9, np.float32)
    x[:, :, 3] = np.log(scores / (1 - scores))
    model = load(example(SCORES))
    data = Dataset({"x": x}, None, "rows", np.arange(len(x)))
    rows = telling_rows(model, read_meaning(analyse(model)), data, count, ONE_CORE)
    return ([], ()) if rows is None else (rows.rows.tolist(), rows.notes)


def test_the_surest_rows_of_each_class_come_first() -> None:
    scores = np.full((100, 2), 0.01)
    scores[[7, 8, 9, 10], 0] = [0.9, 0.5, 0.95, 0.3]
    scores[50, 1], scores[60, 1] = 0.4, 0.26
    rows, notes = chosen(scores, 8)
    assert len(set(rows)) == 8
    assert rows == sorted(rows)
    assert {9, 50, 7, 60} <= {*rows}
    assert notes[0].startswith("4 of the 8 calibration rows are those, of 100, in which the original is surest")
    every, _ = chosen(scores, 40)
    assert {7, 8, 9, 10, 50, 60} <= {*every}


@pytest.mark.parametrize("often", [0.0, 0.5])
def test_nothing_is_chosen_where_nothing_is_rare(often: float) -> None:
    scores = np.full((100, 2), 0.01)
    scores[: int(100 * often)] = 0.9
    assert chosen(scores, 20) == ([], ())


def test_class_scores_find_nothing() -> None:
    model = load(example("g (float[N,8] x) => (float[N,3] y) { h = MatMul (x, w)  y = Softmax (h) }", {"w": (8, 3)}))
    assert not finds_things(read_meaning(analyse(model)))


def test_a_run_on_few_of_many_images_sees_what_is_rare() -> None:
    rng = np.random.default_rng(0)
    rows = (0.1 * rng.standard_normal((400, 3, 32, 32))).astype(np.float32)
    at = rng.permutation(400)[:20]
    rows[at] = images(20, seed=5)[0]
    result = onnxprune.prune(detector(), rows, targets="macs=0.6", images=100, importance="magnitude", time=False)
    (note,) = [note for note in result.notes if "surest" in note]
    count = int(note.split()[0])
    assert 15 <= count <= 50
    whole = onnxprune.prune(detector(), rows, targets="macs=0.6", images=400, importance="magnitude", time=False)
    assert not any("surest" in note for note in whole.notes)
    random = onnxprune.prune(detector(), "random", targets="macs=0.6", importance="magnitude", time=False)
    assert not any("surest" in note for note in random.notes)

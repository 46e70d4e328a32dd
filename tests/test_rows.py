"""No row that was fitted judges: what every stage of a run gets, and what its report says of the rows."""

import json
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration.dataset import Dataset
from onnxprune.ops.examples import example
from onnxprune.repair.ridge import fit_correction
from onnxprune.report.json_report import plain, prune_report

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "report-schema.json").read_text())
SHAPES = {"w1": (24, 6, 3, 3), "b1": (24,), "w2": (24, 24, 3, 3), "b2": (24,), "w3": (24, 5)}


def network(batch: int | str = "N") -> onnx.ModelProto:
    return example(
        f"""g (float[{batch},6,6,6] x) => (float[{batch},5] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        t = Relu (c)
        p = GlobalAveragePool (t)
        f = Flatten (p)
        y = Gemm (f, w3) }}""",
        SHAPES,
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6, 6, 6)).astype(np.float32)


class Seen:
    """Row numbers by what was done with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, list[set[int]]] = defaultdict(list)
        self._patch = monkeypatch
        self._spy("onnxprune.importance.reconstruction.score.batch_feeds", self._scored)
        self._spy("onnxprune.repair.repair", lambda given: self._add(fit=given[3].fit, choose=given[3].choose))
        self._spy("onnxprune.pipeline.trials.collect", lambda given: self._add(judge=given[1]))
        self._spy("onnxprune.evaluation.metrics.compare", lambda given: self._add(report=given[2]))

    def all(self, *names: str) -> set[int]:
        return set().union(*(rows for name in names for rows in self.rows[name]))

    def _spy(self, where: str, told: Callable[[tuple[Any, ...]], None]) -> None:
        path, _, name = where.rpartition(".")
        module = import_module(path)
        whole = getattr(module, name)

        def spy(*given: Any, **options: Any) -> Any:
            told(given)
            return whole(*given, **options)

        self._patch.setattr(module, name, spy)

    def _scored(self, given: tuple[Any, ...]) -> None:
        self._add(**{"curves" if self.rows["moments"] else "moments": given[2]})

    def _add(self, **sets: Dataset) -> None:
        for name, data in sets.items():
            self.rows[name].append({*data.rows.tolist()})


@pytest.mark.parametrize("count", [16, 28, 64, 100, 340])
def test_no_row_that_was_fitted_judges(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials were judged on rows that curves were measured on, and few rows were fitted to and reported."""
    powers = (0.1, 8.0)  # far from each other, so that there are several allocations to try
    monkeypatch.setattr(import_module("onnxprune.importance.reconstruction.score"), "_OTHER_JOINT", powers)
    seen = Seen(monkeypatch)
    given: dict[str, Any] = {"targets": "macs=0.5", "round_to": 1, "time": False, "executor": "serial"}
    result = onnxprune.prune(network(), images(count), **given)
    assert not seen.all("moments") & seen.all("curves")
    for fitted, chooses in zip(seen.rows["fit"], seen.rows["choose"], strict=True):
        assert not fitted & chooses
    (report,) = seen.rows["report"][-1:]
    assert not report & seen.all("moments")
    assert not report & seen.rows["fit"][-1]
    if count >= 64:
        first, trials = seen.rows["judge"][0], seen.rows["fit"][:-1]
        assert trials
        assert not first & seen.all("moments", "curves")
        assert all(any(not judge & fitted for judge in seen.rows["judge"]) for fitted in trials)
    if count >= 320:
        assert not report & seen.all("moments", "curves", "fit", "choose", "judge")
    assert result.rows is not None
    assert result.rows.used == ("unused" if count >= 320 else "chosen")


def test_the_last_repair_fits_rows_of_the_curves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    onnxprune.prune(network(), images(100), targets="macs=0.6", time=False, executor="serial")
    assert seen.rows["fit"][-1] == seen.all("moments", "curves")
    assert len(seen.rows["fit"][-1]) == 80


@pytest.mark.parametrize("batch", ["N", 1, 8, 32])
@pytest.mark.parametrize("count", [5, 20, 41])
def test_fits_and_their_choice_see_different_rows_whatever_the_batch(
    batch: int | str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer than five batches positions of the same rows fitted and chose: 6 % were reported, 27 % were true."""
    proto = example(
        f"""g (float[{batch},7] x) => (float[{batch},4] y) {{
        h = Gemm (x, w1, b1)
        r = Relu (h)
        q = Concat <axis = 1> (r, x)
        y = Gemm (q, w2, b2) }}""",
        {"w1": (7, 20), "b1": (20,), "w2": (27, 4), "b2": (4,)},
    )
    rows = np.random.default_rng(0).standard_normal((count, 7)).astype(np.float32)
    rows[:, -1] = np.arange(count) / count
    compared = []
    whole = fit_correction

    def spy(fit: Any, held_out: Any, *given: Any) -> Any:
        compared.append([{*np.round(some.columns[0, :, -1] * count).astype(int).tolist()} for some in (fit, held_out)])
        return whole(fit, held_out, *given)

    monkeypatch.setattr("onnxprune.repair.layer_fit.fit_correction", spy)
    onnxprune.prune(proto, rows, targets="macs=0.6", importance="magnitude", time=False)
    ((fitted, chooses),) = compared
    assert not fitted & chooses
    assert fitted | chooses == {*range(count)}


def test_the_report_says_what_else_its_rows_were_used_for() -> None:
    given: dict[str, Any] = {"targets": "macs=0.7", "importance": "activation", "time": False}
    few, some, many = (onnxprune.prune(network(), images(count), **given) for count in (4, 40, 320))
    apart = onnxprune.prune(network(), images(40), evaluation=images(9, seed=1), **given)
    entries = [plain(prune_report(result))["rows"] for result in (few, some, many, apart)]
    assert entries == [
        {"fit": 4, "curves": 4, "choose": 4, "report": 4, "used": "fitted", "made_up": False},
        {"fit": 32, "curves": 8, "choose": 8, "report": 8, "used": "chosen", "made_up": False},
        {"fit": 192, "curves": 48, "choose": 48, "report": 32, "used": "unused", "made_up": False},
        {"fit": 32, "curves": 8, "choose": 8, "report": 9, "used": "unused", "made_up": False},
    ]
    told = ["measured on the calibration rows", "on 8 calibration rows that nothing was fitted to, but"]
    told += ["32 calibration rows kept apart, which nothing was fitted to"]
    for result, words in zip((few, some, many), told, strict=True):
        assert any(words in note for note in result.notes)
    assert not any("metrics were measured" in note for note in apart.notes)
    for result in (few, some, many, apart):
        jsonschema.validate(plain(prune_report(result)), SCHEMA)


def test_rows_that_choose_a_size_are_not_unused() -> None:
    given: dict[str, Any] = {"importance": "magnitude", "repair": False, "time": False, "max_drop": 60.0}
    given["outputs"] = onnxprune.OutputConfig(kinds=("y=classes",))
    chosen = onnxprune.prune(network(), images(40), evaluation=images(9, seed=1), **given)
    assert chosen.rows is not None
    assert (chosen.rows.report, chosen.rows.used) == (9, "chosen")


def test_where_nothing_is_fitted_all_rows_report() -> None:
    given: dict[str, Any] = {"targets": "macs=0.7", "repair": False, "time": False}
    result = onnxprune.prune(network(), images(40), importance="magnitude", **given)
    assert result.rows is not None
    assert (result.rows.fit, result.rows.report, result.rows.used) == (0, 40, "unused")
    assert onnxprune.prune(network(), importance="magnitude", **given).rows is None


@pytest.mark.parametrize("count", [1, 9, 10])
def test_a_handful_of_rows_is_noted(count: int) -> None:
    """One image without its batch axis was taken for all there is, and nothing was said."""
    made = onnxprune.prune(network(), images(count), targets="macs=0.5", importance="activation", time=False)
    told = [note for note in made.notes if note.startswith(f"only {count} calibration row")]
    assert len(told) == (count < 10)


def test_calibration_rows_may_have_labels_of_another_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of classes beside a segmenter ended in "leave the labels out", after all the work."""
    data = (images(40), np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32))
    said = onnxprune.OutputConfig(kinds=("y=classes",))
    options: dict[str, Any] = {"targets": 0.6, "threads": 1, "time": False, "outputs": said}
    result = onnxprune.prune(network(), data, **options)
    assert any("figures are without labels" in note and "fit no output" in note for note in result.notes)
    assert "agreement" in result.metrics
    monkeypatch.setattr("onnxprune.pipeline.prune.score", lambda *_: pytest.fail("the work began"))
    with pytest.raises(onnxprune.InputError, match="fit no output"):
        onnxprune.prune(network(), images(40), evaluation=data, **options)


def test_a_class_that_the_model_does_not_have_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class numbers from 1 to 5 of five classes ended in an error once all was pruned and repaired."""
    labels = np.arange(40) % 3
    labels[17] = 5
    monkeypatch.setattr("onnxprune.pipeline.prune.score", lambda *_: pytest.fail("the work began"))
    with pytest.raises(onnxprune.InputError, match=r"a label is 5, but .* has 5 classes, counted from 0"):
        onnxprune.prune(network(), images(40), evaluation=(images(40, 1), labels), targets=0.6, time=False)


def test_a_measure_of_the_user_takes_labels_of_any_form() -> None:
    """Labels that fit no output were refused although only the user's own measure read them."""
    labels = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    seen = []

    def measure(original: Any, candidate: Any, y: np.ndarray) -> dict[str, float]:
        seen.append(y.shape)
        return {"close": float(np.isclose(original["y"], candidate["y"]).mean())}

    result = onnxprune.prune(
        network(),
        images(40),
        evaluation=(images(40, 1), labels),
        targets=0.6,
        threads=1,
        time=False,
        outputs=onnxprune.OutputConfig(metric=measure),
    )
    assert seen[-1] == (40, 2)
    assert "close" in result.metrics

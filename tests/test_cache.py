"""Results on disk: what an interrupted run leaves behind is not computed again, and nothing else is taken for it."""

import signal
import subprocess
import sys
from importlib import import_module

import numpy as np
import onnx
import pytest
from residual import NETWORK, WEIGHTS

import onnxprune
from onnxprune.core.cache import Cache
from onnxprune.core.clock import no_progress
from onnxprune.core.errors import InputError
from onnxprune.core.execution import SerialExecutor
from onnxprune.ops.examples import example


def rows(seed=0, count=48):
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def outcome(data, progress=no_progress, **options):
    options = {"executor": SerialExecutor(), "targets": "macs=0.5", "progress": progress, **options}
    result = onnxprune.prune(example(NETWORK, WEIGHTS), data, **options)
    return result.plan.to_json(), {name: a.tobytes() for name, a in result.model.constants.items()}


@pytest.fixture
def counts(monkeypatch):
    """How often each kind of task is computed."""
    module = import_module("onnxprune.importance.reconstruction.score")
    found = dict.fromkeys(("collect", "eliminate", "curve"), 0)

    def counted(name, function):
        def run(*args):
            found[name] += name != "collect" or len(args) < 6  # a sixth one is the known moments
            return function(*args)

        return run

    for name in found:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return found


class StoppedError(Exception):
    """Stands for a signal."""


@pytest.mark.parametrize(
    ("stage", "left"), [("statistics", (2, 2, 2)), ("elimination", (0, 0, 2)), ("damage", (0, 0, 1))]
)
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, counts, stage, left):
    expected = outcome(rows())
    whole = tuple(counts.values())

    def progress(name, done, total):
        if name == stage and done == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        outcome(rows(), progress, cache=str(tmp_path))
    counts.update(dict.fromkeys(counts, 0))
    assert outcome(rows(), cache=str(tmp_path)) == expected
    assert tuple(counts.values()) == left
    assert sum(left) < sum(whole)


def test_a_finished_run_computes_nothing_again(tmp_path, counts):
    first = outcome(rows(), cache=str(tmp_path))
    counts.update(dict.fromkeys(counts, 0))
    assert outcome(rows(), cache=str(tmp_path), targets="macs=0.5") == first
    assert set(counts.values()) == {0}


@pytest.mark.parametrize("change", ["rows", "seed"])
def test_other_data_or_options_are_computed_anew(tmp_path, counts, change):
    outcome(rows(), cache=str(tmp_path))
    before = dict(counts)
    outcome(rows(1 if change == "rows" else 0), cache=str(tmp_path), seed=1 if change == "seed" else 0)
    assert counts == {name: 2 * count for name, count in before.items()}


def test_a_damaged_file_is_computed_anew(tmp_path):
    cache = Cache(str(tmp_path), "origin")
    cache.put("moments", "a", {"x": np.arange(3.0)})
    np.testing.assert_array_equal(cache.get("moments", "a")["x"], np.arange(3.0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    assert cache.get("moments", "a") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        Cache(str(tmp_path / "file"))


@pytest.mark.parametrize("stopped_at", [1, 2, 3])
def test_an_interrupted_repair_goes_on_where_it_stopped(tmp_path, monkeypatch, stopped_at):
    module = import_module("onnxprune.repair.sequential")
    fits = []

    def counted(function):
        def run(*args):
            fits.append(function.__name__)
            return function(*args)

        return run

    for name in ("_rows", "_refit_pair"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    expected = outcome(rows())
    whole = len(fits)

    def progress(name, done, total):
        if name == "repair" and done == stopped_at:
            raise StoppedError

    fits.clear()
    with pytest.raises(StoppedError):
        outcome(rows(), progress, cache=str(tmp_path))
    before = len(fits)
    fits.clear()
    assert outcome(rows(), cache=str(tmp_path)) == expected
    assert 0 < len(fits) == whole - before
    fits.clear()
    assert outcome(rows(), cache=str(tmp_path)) == expected
    assert not fits


def test_a_command_ended_by_a_signal_in_its_repair_leaves_the_same_file_on_the_next_run(tmp_path):
    onnx.save(example(NETWORK, WEIGHTS), tmp_path / "net.onnx")
    np.savez(tmp_path / "rows.npz", **rows(count=200))
    command = [sys.executable, "-m", "onnxprune", "prune", "net.onnx", "--data", "rows.npz", "--target", "macs=0.5"]
    command += ["--threads", "1", "-o"]
    subprocess.run([*command, "whole.onnx"], cwd=tmp_path, check=True, capture_output=True)
    cached = [*command, "again.onnx", "--cache", "cache"]
    first = subprocess.Popen(cached, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not [*tmp_path.glob("cache/repair-*")]:
        assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait() != 0
    left = len([*tmp_path.glob("cache/repair-*")])
    assert not (tmp_path / "again.onnx").exists()
    subprocess.run(cached, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert len([*tmp_path.glob("cache/repair-*")]) > left

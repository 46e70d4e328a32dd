"""Results on disk: what an interrupted run leaves behind is not computed again, and nothing else is taken for it."""

import pickle
import signal
import subprocess
import sys
from importlib import import_module

import ml_dtypes
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
            found[name] += name != "collect" or args[5] is None  # the sixth: moments known from an earlier run
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


HELD = {"x": np.arange(30.0), "names": np.array(["a", "bc"]), "half": np.ones(3, ml_dtypes.bfloat16)}


def kept(tmp_path):
    """A cache with one entry, and that entry's file."""
    cache = Cache(str(tmp_path), "origin")
    cache.put("moments", "a", HELD)
    (path,) = tmp_path.iterdir()
    return cache, path


def same(found):
    return found.keys() == HELD.keys() and all(found[n].tobytes() == a.tobytes() for n, a in HELD.items())


def test_every_flipped_bit_is_noticed(tmp_path):
    """Of 9,031 damaged files none gave wrong arrays, but 103 an error that nobody caught."""
    cache, path = kept(tmp_path)
    whole = path.read_bytes()
    taken = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place * 7 % 8)
        path.write_bytes(changed)
        found = cache.get("moments", "a")
        taken += found is not None
        assert found is None or same(found)
    assert 0 < taken < len(whole) / 3  # dates and the like do not matter
    for cut in range(0, len(whole), 17):
        path.write_bytes(whole[:cut])
        assert cache.get("moments", "a") is None
    path.write_bytes(whole)
    assert same(cache.get("moments", "a"))


def test_files_of_another_kind_are_computed_anew(tmp_path):
    cache, path = kept(tmp_path)
    for data in (b"", b"text", b"PK", b"\x93NUMPY\1\0", pickle.dumps({"x": 1}), bytes(1000)):
        path.write_bytes(data)
        assert cache.get("moments", "a") is None
    np.save(path.with_suffix(".npy"), HELD["x"])
    path.with_suffix(".npy").replace(path)
    assert cache.get("moments", "a") is None
    np.savez(path, allow_pickle=True, x=np.array([object]))
    assert cache.get("moments", "a") is None
    for arrays in ({"x": HELD["x"]}, HELD, {**HELD, "x": HELD["x"].reshape(5, 6)}, {**HELD, "x": HELD["x"] + 1}):
        np.savez(path, **arrays)
        assert cache.get("moments", "a") is None, "no hash, or not its own"
    cache.put("moments", "a", HELD)
    with np.load(path) as held:
        mark = held["onnxprune"]
    for arrays in ({"x": HELD["x"]}, {**HELD, "x": HELD["x"].reshape(5, 6)}, {**HELD, "x": HELD["x"].astype("f4")}):
        np.savez(path, onnxprune=mark, **arrays)
        assert cache.get("moments", "a") is None


def test_what_is_no_file_is_computed_anew_and_stays(tmp_path, caplog):
    cache, path = kept(tmp_path)
    path.unlink()
    path.mkdir()
    (path / "inside").touch()
    assert cache.get("moments", "a") is None
    cache.put("moments", "a", HELD)
    cache.put("moments", "a", HELD)
    assert (path / "inside").exists()
    assert len(caplog.messages) == 1
    assert "nothing more is kept" in caplog.text
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("other", [("elimination", "a", "origin"), ("moments", "b", "origin"), ("moments", "a", "old")])
def test_a_file_of_another_step_under_its_name_is_computed_anew(tmp_path, other):
    """Their arrays were taken for what they are called."""
    step, name, origin = other
    cache, path = kept(tmp_path)
    Cache(str(tmp_path / "other"), origin).put(step, name, HELD)
    (moved,) = (tmp_path / "other").iterdir()
    moved.replace(path)
    assert cache.get("moments", "a") is None


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_on_files_that_were_swapped_is_as_without_them(tmp_path, seed):
    expected = outcome(rows())
    assert outcome(rows(), cache=str(tmp_path)) == expected
    files = sorted(tmp_path.iterdir())
    data = [path.read_bytes() for path in files]
    order = np.random.default_rng(seed).permutation(len(files))
    for path, position in zip(files, order, strict=True):
        path.write_bytes(data[position])
    assert outcome(rows(), cache=str(tmp_path)) == expected
    assert [path.read_bytes() for path in files] == data, "the same entries, kept again"


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

    for name in ("layer_rows", "_refit_pair"):
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

"""Kernel times on disk."""

import json
from pathlib import Path

import pytest

from onnxprune.core.engine import ONE_CORE, Engine
from onnxprune.latency.cache import TimeCache, default_folder


def test_times_come_back(tmp_path: Path) -> None:
    first = TimeCache.open(str(tmp_path), ONE_CORE)
    assert first.times == {}
    first.times["kernel:4,8"] = 2.5
    first.save()
    assert TimeCache.open(str(tmp_path), ONE_CORE).times == {"kernel:4,8": 2.5}
    assert TimeCache.open(str(tmp_path), Engine(2)).times == {}  # other threads, other times
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 99}', '{"schema": 1, "machine": {}, "times": {"a": 1}}'])
def test_what_another_machine_or_version_wrote_does_not_count(tmp_path: Path, text: str) -> None:
    cache = TimeCache.open(str(tmp_path), ONE_CORE)
    assert cache.path is not None
    cache.path.write_text(text)
    assert TimeCache.open(str(tmp_path), ONE_CORE).times == {}


def test_off_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = TimeCache.open("off", ONE_CORE)
    cache.times["kernel:1"] = 1.0
    cache.save()
    assert list(tmp_path.iterdir()) == []


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = TimeCache.open(None, ONE_CORE)
    cache.times["kernel:1"] = 1.0
    cache.save()
    (written,) = (tmp_path / "onnxprune").iterdir()
    assert json.loads(written.read_text())["machine"]["onnxruntime"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-2:] == (".cache", "onnxprune")


@pytest.mark.parametrize("folder", ["file/folder", "a" * 300, "a\0b"])
def test_a_folder_that_cannot_be_written_is_a_note(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the run, even where nobody had asked for a table to be kept."""
    (tmp_path / "file").write_text("")
    cache = TimeCache.open(str(tmp_path / folder), ONE_CORE)
    cache.times["kernel:1"] = 1.0
    cache.save()
    cache.save()
    assert len(caplog.messages) == 1
    assert "--latency-cache" in caplog.text
    assert cache.times == {"kernel:1": 1.0}


def test_what_no_time_can_be_is_measured_anew(tmp_path: Path) -> None:
    """NaN, infinities and numbers below 0 came into the program."""
    cache = TimeCache.open(str(tmp_path), ONE_CORE)
    cache.times["kernel:1"] = 7.25
    cache.save()
    assert cache.path is not None
    for value in ("NaN", "Infinity", "-Infinity", "0", "-1", "1e300", "1e999", "true", '"3"', "null", "[1]", "1" * 400):
        cache.path.write_text(cache.path.read_text().replace("7.25", f'7.25, "kernel:2": {value}'))
        assert TimeCache.open(str(tmp_path), ONE_CORE).times == {"kernel:1": 7.25}, value
        cache.save()
    cache.path.write_text("[" * 100_000)
    assert TimeCache.open(str(tmp_path), ONE_CORE).times == {}


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert TimeCache.open(None, ONE_CORE).path is None

"""Kernel times on disk."""

import json
from pathlib import Path

import pytest

from onnxprune.core.errors import InputError
from onnxprune.latency.cache import TimeCache, default_folder


def test_times_come_back(tmp_path: Path) -> None:
    first = TimeCache.open(str(tmp_path), 1)
    assert first.times == {}
    first.times["kernel:4,8"] = 2.5
    first.save()
    assert TimeCache.open(str(tmp_path), 1).times == {"kernel:4,8": 2.5}
    assert TimeCache.open(str(tmp_path), 2).times == {}  # other threads, other times
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 99}', '{"schema": 1, "machine": {}, "times": {"a": 1}}'])
def test_what_another_machine_or_version_wrote_does_not_count(tmp_path: Path, text: str) -> None:
    cache = TimeCache.open(str(tmp_path), 1)
    assert cache.path is not None
    cache.path.write_text(text)
    assert TimeCache.open(str(tmp_path), 1).times == {}


def test_off_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = TimeCache.open("off", 1)
    cache.times["kernel:1"] = 1.0
    cache.save()
    assert list(tmp_path.iterdir()) == []


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = TimeCache.open(None, 1)
    cache.times["kernel:1"] = 1.0
    cache.save()
    (written,) = (tmp_path / "onnxprune").iterdir()
    assert json.loads(written.read_text())["machine"]["onnxruntime"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-2:] == (".cache", "onnxprune")


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TimeCache.open(str(tmp_path / "file" / "folder"), 1)
    cache.times["kernel:1"] = 1.0
    with pytest.raises(InputError, match="--latency-cache"):
        cache.save()

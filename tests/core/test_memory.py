"""How much memory control groups leave."""

from pathlib import Path

import pytest

from onnxprune.core import memory

MB = 1 << 20


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own").write_text("0::/batch/job\n")
    (tmp_path / "batch" / "job").mkdir(parents=True)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    return tmp_path


def limit(group: Path, most: int | str, used: int, **pages: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text("anon 5\n" + "".join(f"{name} {size}\n" for name, size in pages.items()))


def test_pages_of_files_count_as_free(groups: Path) -> None:
    limit(groups, 100 * MB, 90 * MB, inactive_file=50 * MB, active_file=20 * MB, file=80 * MB)
    assert memory._of_group() == 80 * MB


def test_the_smallest_group_above_the_process_decides(groups: Path) -> None:
    limit(groups, "max", 10 * MB)
    limit(groups / "batch", 100 * MB, 40 * MB)
    limit(groups / "batch" / "job", 500 * MB, 10 * MB)
    assert memory._of_group() == 60 * MB


def test_without_a_limit_nothing_is_said(groups: Path) -> None:
    limit(groups, "max", 10 * MB)
    assert memory._of_group() is None


def test_a_group_outside_a_container_is_passed_over(groups: Path) -> None:
    (groups / "own").write_text("12:cpu:/x\n0::/../other\n")
    limit(groups, 30 * MB, 10 * MB)
    assert memory._of_group() == 20 * MB

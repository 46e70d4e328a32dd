"""`tools/compare_checkouts.py` on the shipped LeNet-5: the same code does the same, other options do not."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def compare(keep: Path, *options: str) -> subprocess.CompletedProcess[str]:
    tool = ROOT / "tools" / "compare_checkouts.py"
    return subprocess.run(
        [sys.executable, tool, ROOT, ROOT, "--only", "lenet5-oamip", "--keep", keep, *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_differences_are_found_and_the_first_side_is_kept(tmp_path: Path) -> None:
    first, note = "--options-first=--threshold mean", tmp_path / "lenet5-oamip" / "made_by.json"
    same = compare(tmp_path, first, "--options-second=--threshold mean")
    assert same.returncode == 0, same.stdout + same.stderr
    assert "plan: same bytes; file: same bytes" in same.stdout
    written = note.stat().st_mtime_ns
    other_file = compare(tmp_path, first, "--options-second=--threshold mean --no-repair")
    assert other_file.returncode == 1
    assert "plan: same bytes; file: 10 of 10 weights, by up to" in other_file.stdout
    other_plan = compare(tmp_path, first)
    assert other_plan.returncode == 1
    assert "plan: kept units differ in 4 of 4 groups" in other_plan.stdout
    refused = compare(tmp_path, first, "--options-second=--no-such-option")
    assert refused.returncode == 1
    assert "done | exit code 2: onnxprune: error: no such option" in refused.stdout
    assert note.stat().st_mtime_ns == written
    key = json.loads(note.read_text())["key"]
    assert compare(tmp_path).returncode == 0
    assert json.loads(note.read_text())["key"] != key

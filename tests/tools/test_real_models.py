"""`tools/real_models.py` on the smallest network of the corpus."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path, corpus: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "real_models.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONNXPRUNE_CORPUS": str(corpus)},
    )


def test_a_network_is_pruned_and_judged(corpus_path: Callable[[str], Path], tmp_path: Path) -> None:
    corpus = corpus_path("tools/judge_real.py").parents[1]
    corpus_path("small/tx_ts.onnx")
    (tmp_path / "table.json").write_text('[{"model": "another", "exit": 0}, {"model": "tx_ts", "exit": 3}]')
    options = ("--only", "tx_ts", "--keep", tmp_path, "--options=--importance magnitude --no-repair")
    done = run(*options, "--target", "macs=0.8", corpus=corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    other, row = json.loads((tmp_path / "table.json").read_text())
    assert other == {"model": "another", "exit": 0}
    assert (row["model"], row["target"], row["exit"]) == ("tx_ts", "macs=0.8", 0)
    assert 0.5 < row["macs"] <= 0.8
    before, after = row["accuracy"]
    assert 0.77 < before < 0.8  # what its exporter measured: 78.5 %
    assert after <= before + 0.02
    assert row["time_ratio"] > 0
    assert f"accuracy [{before}, {after}]" in done.stdout
    refused = run(*options, "--target", "params=1e-6", corpus=corpus)
    assert refused.returncode == 1
    assert (
        "exit 4: onnxprune: error: budget cannot be met"
        in json.loads((tmp_path / "table.json").read_text())[1]["message"]
    )


def test_a_missing_corpus_is_said(tmp_path: Path) -> None:
    done = run(corpus=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"the corpus is not at {tmp_path} (set ONNXPRUNE_CORPUS)\n"

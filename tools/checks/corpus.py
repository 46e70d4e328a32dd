"""Where the corpus of real models, cases and data lies. It is no part of the project."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def corpus() -> Path:
    """The corpus folder: what `ONNXPRUNE_CORPUS` names, or `shared` beside the project; it may be absent."""
    return Path(os.environ.get("ONNXPRUNE_CORPUS") or ROOT.parent / "shared")

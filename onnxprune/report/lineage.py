"""The record of a run for the metadata of the file that it writes."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.config import PruneConfig
from onnxprune.core.costs import MACS_CONVENTION
from onnxprune.graph.lineage import first_costs, lineage
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report.provenance import mark
from onnxprune.report.settings import settings_in_words

# What changes no weight, or may name folders, machines and people.
_PRIVATE = ("--cache", "--latency-cache", "--executor", "--workers", "--memory", "--threads", "--metric", "--provider")


def record(result: PruneOutcome) -> dict[str, Any]:
    """Version, options that are not the defaults, SHA-256 of what was read, and costs before.

    The hash of several files (a model with its weights apart, a folder of images) is that of their hashes in order, a
    line each.
    """
    standard = dict(settings_in_words(dataclasses.asdict(PruneConfig())))
    told = dict(settings_in_words(result.settings))
    options = {name: text for name, text in told.items() if text != standard.get(name) and name not in _PRIVATE}
    before = dict(result.before)
    read = {"model": () if result.original is None else result.original.files, "data": result.files}
    hashes = {role: digest for role, files in read.items() if (digest := _digest(files)) is not None}
    return {
        "version": result.versions.get("onnxprune", ""),
        "options": options,
        "sha256": hashes,
        "macs_convention": MACS_CONVENTION,
        "before": before,
        "first": _first(result) or before,
    }


def _first(result: PruneOutcome) -> Mapping[str, int] | None:
    earlier = None if result.original is None else lineage(result.original.proto)
    return None if earlier is None else first_costs(earlier)


def _digest(files: Iterable[Path]) -> str | None:
    """Hash of files; None where there is none, or one cannot be read any more."""
    try:
        hashes = [mark(path).sha256 for path in files]
    except OSError:
        return None
    known = [each for each in hashes if each is not None]
    if not known or len(known) < len(hashes):
        return None
    return known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest()

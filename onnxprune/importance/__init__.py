"""Scorers: methods that say how much each unit matters."""

import importlib

from onnxprune.core.errors import InputError
from onnxprune.importance.base import Scorer

SCORERS = {
    "reconstruction": ("onnxprune.importance.reconstruction", "score"),
    "oamip": ("onnxprune.importance.oamip", "score"),
    "magnitude": ("onnxprune.importance.simple", "magnitude"),
    "magnitude-l1": ("onnxprune.importance.simple", "magnitude_l1"),
    "activation": ("onnxprune.importance.simple", "activation"),
    "random": ("onnxprune.importance.simple", "random"),
    "snip": ("onnxprune.importance.snip", "score"),
}
"""Module and function of every scorer, by the name that `--importance` takes."""

WITHOUT_DATA = frozenset({"magnitude", "magnitude-l1", "random"})
"""Scorers that look at weights only."""


def scorer(name: str) -> Scorer:
    """Import and return the scorer of this name.

    Raises:
        InputError: there is no such scorer.
    """
    if name not in SCORERS:
        raise InputError(f"unknown importance {name!r}; use one of {', '.join(SCORERS)}")
    module, function = SCORERS[name]
    found: Scorer = getattr(importlib.import_module(module), function)
    return found

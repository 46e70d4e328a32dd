"""Repair: refits the remaining weights by least squares, so that layers compute what they did before pruning."""

from onnxprune.repair.effort import FULL, QUICK, TRIED, Effort
from onnxprune.repair.sequential import repair

__all__ = ["FULL", "QUICK", "TRIED", "Effort", "repair"]

"""Repair: refits the remaining weights by least squares, so that layers compute what they did before pruning."""

from onnxprune.repair.sequential import repair

__all__ = ["repair"]

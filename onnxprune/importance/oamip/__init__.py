"""Importance by the paper (OAMIP): one mixed-integer program over the whole network, or one a module."""

from onnxprune.importance.oamip.scorer import score

__all__ = ["score"]

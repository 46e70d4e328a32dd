"""The scorer `oamip`, the paper's: scores from a mixed-integer program over the whole network, or one per module."""

from onnxprune.importance.oamip.scorer import score

__all__ = ["score"]

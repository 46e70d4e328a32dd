"""Lossless pruning: removes units that are constant for every input, or copies of other units. Outputs do not change.

Everything here is proved from weights alone, for all inputs; no data are used.
"""

from onnxprune.lossless.find import Lossless, lossless

__all__ = ["Lossless", "lossless"]

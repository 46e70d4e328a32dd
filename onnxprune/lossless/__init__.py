"""Removal that leaves the outputs as they are: units that are constant for every input, and copies of other units.

Everything here is proved from weights alone, for all inputs; no data are used.
"""

from onnxprune.lossless.find import Lossless, lossless

__all__ = ["Lossless", "lossless"]

"""What handlers of your own are tested with: `check_operator`, and the oracle that it asks."""

from onnxprune.testing.contract import check_operator

__all__ = ["check_operator"]

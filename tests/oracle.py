"""What tests share of the public contract test."""

from onnxprune.testing.oracle import (
    RESOLUTION,
    TOLERANCE,
    analysed,
    assert_close,
    check_removal,
    prunable,
    random_feed,
    random_removal,
    run,
)

__all__ = [
    "RESOLUTION",
    "TOLERANCE",
    "analysed",
    "assert_close",
    "check_removal",
    "prunable",
    "random_feed",
    "random_removal",
    "run",
]

"""What a run has to say beside its figures, for the log of Python callers. The command line shows it in its summary."""

import logging
from collections.abc import Iterable

RESULT_LOG = "onnxprune.result"
"""Name of the logger."""


def log_result(warnings: Iterable[str], notes: Iterable[str]) -> None:
    """Log warnings (heavy losses, slow results) as such, and notes as information."""
    logger = logging.getLogger(RESULT_LOG)
    for warning in warnings:
        logger.warning("%s", warning)
    for note in notes:
        logger.info("%s", note)

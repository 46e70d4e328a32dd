"""What a run has to say beside its figures, for the log of Python callers. The command line shows it in its summary.

In a notebook without logging of its own, warnings wait for the end of the cell: the view of the result shows them too.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

RESULT_LOG = "onnxprune.result"
"""Name of the logger."""

_END = "post_run_cell"  # IPython's name of the event
_waiting: dict[str, None] = {}


def log_result(warnings: Iterable[str], notes: Iterable[str]) -> None:
    """Log warnings (heavy losses, slow results) as such, and notes as information."""
    logger, shell = logging.getLogger(RESULT_LOG), _shell()
    if shell is None or logger.hasHandlers():
        for warning in warnings:
            logger.warning("%s", warning)
    else:
        _waiting.update(dict.fromkeys(warnings))
        shell.events.register(_END, _log_waiting)
    for note in notes:
        logger.info("%s", note)


def shown_to_reader(warnings: Iterable[str]) -> None:
    """Do not log these at the end of the cell: its output has them."""
    for warning in warnings:
        _waiting.pop(warning, None)


def _log_waiting(*_: object) -> None:
    if (shell := _shell()) is not None:
        shell.events.unregister(_END, _log_waiting)
    for warning in _waiting:
        logging.getLogger(RESULT_LOG).warning("%s", warning)
    _waiting.clear()


def _shell() -> Any:
    """IPython's shell, where the code runs in one."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()

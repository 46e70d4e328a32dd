"""Imports onnxruntime; all of the package gets it from here."""

import os
from typing import Any

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def onnxruntime() -> Any:
    """The onnxruntime module, which sends and stores no usage data unless the user's environment says otherwise.

    Its telemetry writes a file `.ses` into the folder for temporary files, and leaves it there.
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")  # read when onnxruntime is loaded
    import onnxruntime as ort

    return ort

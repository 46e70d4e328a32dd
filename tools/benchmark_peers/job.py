"""What a peer is asked to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a peer.

    Attributes:
        tool: `onnxsim` or `torch-pruning`.
        method: its criterion.
        scope: `local` (one ratio for every layer) or `global` (one threshold over all layers).
        model: the ONNX file.
        calibration: `.npy` with the calibration rows as the model takes them, `(rows, ...)` float32.
        labels: `.npy` with their classes; only Torch-Pruning's Taylor reads them.
        target: the budget, for a search.
        ratio: share of channels to remove; None searches for it.
        output: the file to write.
        ignored: pattern of layers that Torch-Pruning must leave alone.
    """

    tool: str
    method: str
    scope: str
    model: str
    calibration: str
    labels: str
    target: str
    ratio: float | None
    output: str
    ignored: str = ""

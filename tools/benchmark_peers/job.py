"""What a peer is asked to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a peer.

    Attributes:
        tool: `onnxsim` or `torch-pruning`.
        method: its criterion.
        steps: whether channels go in many small steps.
        statistics: whether BatchNormalization's statistics are estimated again afterwards.
        round_to: what numbers of channels are multiples of; 1 leaves them as they come.
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
    steps: bool = False
    statistics: bool = False
    round_to: int = 1

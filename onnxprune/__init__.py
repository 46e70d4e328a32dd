"""Make trained ONNX models smaller and faster: channel pruning by mixed-integer programs, with weight repair.

>>> import onnxprune
>>> space = onnxprune.analyze("model.onnx")                                     # doctest: +SKIP
>>> result = onnxprune.prune("model.onnx", "images.npz", targets=("macs=0.5",))  # doctest: +SKIP
>>> result.save("smaller.onnx")                                                 # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.graph.analysis import analyze
    from onnxprune.graph.space import PruneSpace
    from onnxprune.pipeline import prune
    from onnxprune.result import PruneResult

_HOME = {
    "PruneResult": "onnxprune.result",
    "PruneSpace": "onnxprune.graph.space",
    "analyze": "onnxprune.graph.analysis",
    "prune": "onnxprune.pipeline",
}

__all__ = ["PruneResult", "PruneSpace", "__version__", "analyze", "prune"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the command line must start fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)

"""Make trained ONNX models smaller and faster: channel pruning by mixed-integer programs, with weight repair.

>>> import onnxprune
>>> analysis = onnxprune.analyze("model.onnx")                                     # doctest: +SKIP
>>> result = onnxprune.prune("model.onnx", "images.npz", targets=("macs=0.5",))  # doctest: +SKIP
>>> result.save("smaller.onnx")                                                 # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.api.prune import prune, sweep
    from onnxprune.api.result import PruneResult
    from onnxprune.structure.analysis import Analysis
    from onnxprune.structure.coupling import analyze

_HOME = {
    "PruneResult": "onnxprune.api.result",
    "Analysis": "onnxprune.structure.analysis",
    "analyze": "onnxprune.structure.coupling",
    "prune": "onnxprune.api.prune",
    "sweep": "onnxprune.api.prune",
}

__all__ = ["Analysis", "PruneResult", "__version__", "analyze", "prune", "sweep"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the command line must start fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion in notebooks and shells."""
    return __all__

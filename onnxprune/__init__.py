"""Make trained ONNX models smaller and faster: channel pruning by mixed-integer programs, with weight repair.

>>> import onnxprune
>>> analysis = onnxprune.analyze("model.onnx")                                  # doctest: +SKIP
>>> result = onnxprune.prune("model.onnx", "images.npz", targets="macs=0.5")    # doctest: +SKIP
>>> result.save("smaller.onnx")                                                 # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.api.analysis import analyze
    from onnxprune.api.compare import bench, validate
    from onnxprune.api.comparison import Comparison
    from onnxprune.api.feeds import feeds
    from onnxprune.api.finetune import TrainedModel, finetune
    from onnxprune.api.prune import prune, sweep
    from onnxprune.api.result import PruneResult
    from onnxprune.api.sweep_result import SweepResult
    from onnxprune.config import (
        FinetuneConfig,
        LatencyConfig,
        OamipConfig,
        OutputConfig,
        PreprocessConfig,
        PruneConfig,
        SweepConfig,
    )
    from onnxprune.core.clock import Progress
    from onnxprune.core.errors import (
        AccuracyError,
        BudgetError,
        InputError,
        ModelError,
        OnnxPruneError,
        SolverError,
    )
    from onnxprune.core.plan import PrunePlan
    from onnxprune.core.targets import Target
    from onnxprune.importance import register_scorer
    from onnxprune.ops import register_operator
    from onnxprune.pipeline.sweep import SweepPoint
    from onnxprune.runtime.timing import Latency
    from onnxprune.structure.analysis import Analysis

_MODULES = {
    "onnxprune.api.analysis": ("analyze",),
    "onnxprune.api.compare": ("bench", "validate"),
    "onnxprune.api.feeds": ("feeds",),
    "onnxprune.api.finetune": ("TrainedModel", "finetune"),
    "onnxprune.api.prune": ("prune", "sweep"),
    "onnxprune.api.result": ("PruneResult",),
    "onnxprune.api.sweep_result": ("SweepResult",),
    "onnxprune.config": (
        "FinetuneConfig",
        "LatencyConfig",
        "OamipConfig",
        "OutputConfig",
        "PreprocessConfig",
        "PruneConfig",
        "SweepConfig",
        "Target",
    ),
    "onnxprune.core.clock": ("Progress",),
    "onnxprune.core.errors": (
        "AccuracyError",
        "BudgetError",
        "InputError",
        "ModelError",
        "OnnxPruneError",
        "SolverError",
    ),
    "onnxprune.core.plan": ("PrunePlan",),
    "onnxprune.api.comparison": ("Comparison",),
    "onnxprune.importance": ("register_scorer",),
    "onnxprune.ops": ("register_operator",),
    "onnxprune.pipeline.sweep": ("SweepPoint",),
    "onnxprune.runtime.timing": ("Latency",),
    "onnxprune.structure.analysis": ("Analysis",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AccuracyError",
    "Analysis",
    "BudgetError",
    "Comparison",
    "FinetuneConfig",
    "InputError",
    "Latency",
    "LatencyConfig",
    "ModelError",
    "OamipConfig",
    "OnnxPruneError",
    "OutputConfig",
    "PreprocessConfig",
    "Progress",
    "PruneConfig",
    "PrunePlan",
    "PruneResult",
    "SolverError",
    "SweepConfig",
    "SweepPoint",
    "SweepResult",
    "Target",
    "TrainedModel",
    "__version__",
    "analyze",
    "bench",
    "feeds",
    "finetune",
    "prune",
    "register_operator",
    "register_scorer",
    "sweep",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion in notebooks and shells."""
    return __all__

"""Makes the smaller model from a decision: removes units, repairs the remaining weights, and distils if asked to."""

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxprune.calibration.split import Fitting
from onnxprune.config import FinetuneConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.graph.model import Model, merged
from onnxprune.lossless import Lossless, lossless
from onnxprune.pipeline.prepare import Prepared
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids

if TYPE_CHECKING:
    from onnxprune.repair import Effort


def lossless_part(prepared: Prepared, removed: Ids, clock: Clock) -> Lossless:
    """Which of the removed units go without loss, and the model to remove all of them from."""
    if not (prepared.lossless.removed & ~removed).any():
        return prepared.lossless
    with clock.stage("lossless"):
        return lossless(prepared.analysis, removed)


def shrink(
    prepared: Prepared,
    removed: Ids,
    config: PruneConfig,
    clock: Clock,
    progress: Progress,
    rows: Fitting | None = None,
    effort: "Effort | None" = None,
) -> Model:
    """Remove units, repair the remaining weights, and, if asked to, train towards the original's outputs.

    Args:
        prepared: the model.
        removed: `(units,)` mask of what goes.
        config: options.
        clock: times of the stages.
        progress: told of steps.
        rows: to fit to and to choose by; by default those of the last repair.
        effort: what a repair may take; all that the last one does by default.
    """
    exact = lossless_part(prepared, removed, clock)
    with clock.stage("remove"):
        smaller = remove(exact.analysis, removed)
    if config.lossless:
        return smaller
    if rows is None and prepared.rows is not None:
        rows = prepared.rows.last
    if config.repair and rows is not None and removed.any():
        from onnxprune.repair import FULL, repair

        effort = effort or FULL
        with clock.stage("repair"):
            smaller = repair(prepared.analysis, smaller, removed, rows, config.run, progress, config.outputs, effort)
    if config.distill and rows is not None:
        from onnxprune.training import finetune

        training = FinetuneConfig(
            epochs=config.distill, flip=config.flip, shift=config.shift, seed=config.seed, threads=config.threads
        )
        with clock.stage("distill"):
            trained = finetune(
                merged(smaller),  # what the file stores once is trained as one
                rows.fit,
                teacher=prepared.model,
                config=training,
                outputs=config.outputs,
                # Repair makes the rows that it fits look better than others: they cannot say when training helps.
                validation=rows.choose,
                provider=config.engine.provider,
                progress=progress,
            )
        smaller = trained.model
        if not trained.best:
            nothing = f"--distill {config.distill} brought nothing: no epoch left the outputs of held-out rows closer"
            smaller = replace(smaller, notes=(*smaller.notes, nothing))
    return smaller

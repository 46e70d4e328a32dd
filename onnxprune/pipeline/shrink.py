"""Makes the smaller model from a decision: removes units, repairs the remaining weights, and distils if asked to."""

from onnxprune.config import FinetuneConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.graph.model import Model
from onnxprune.lossless import Lossless, lossless
from onnxprune.pipeline.prepare import Prepared
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids


def lossless_part(prepared: Prepared, removed: Ids, clock: Clock) -> Lossless:
    """Which of the removed units go without loss, and the model to remove all of them from."""
    if not (prepared.lossless.removed & ~removed).any():
        return prepared.lossless
    with clock.stage("lossless"):
        return lossless(prepared.analysis, removed)


def shrink(prepared: Prepared, removed: Ids, config: PruneConfig, clock: Clock, progress: Progress) -> Model:
    """Remove units, repair the remaining weights, and, if asked to, train towards the original's outputs."""
    exact = lossless_part(prepared, removed, clock)
    with clock.stage("remove"):
        smaller = remove(exact.analysis, removed)
    if config.lossless:
        return smaller
    data, held_out = prepared.data, None
    if config.distill and data is not None:
        from onnxprune.training import finetune, split

        training = FinetuneConfig(
            epochs=config.distill, flip=config.flip, shift=config.shift, seed=config.seed, threads=config.threads
        )
        # Repair makes the rows that it fits look better than others: they cannot say when training helps.
        data, held_out = split(data, None, training)
    if config.repair and data is not None and removed.any():
        from onnxprune.repair import repair

        with clock.stage("repair"):
            smaller = repair(prepared.analysis, smaller, removed, data, config.run, progress, config.outputs)
    if held_out is not None and data is not None:
        with clock.stage("distill"):
            smaller = finetune(
                smaller,
                data,
                teacher=prepared.model,
                config=training,
                outputs=config.outputs,
                validation=held_out,
                provider=config.engine.provider,
                progress=progress,
            ).model
    return smaller

"""Train the weights of a model that was pruned."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from onnxprune.calibration.inputs import load_data
from onnxprune.config import FinetuneConfig, PreprocessConfig
from onnxprune.core.clock import Progress, no_progress
from onnxprune.graph.load import load
from onnxprune.pipeline.prepare import DataSource, Source
from onnxprune.structure.save import save
from onnxprune.training import Epoch, FinetuneResult
from onnxprune.training import finetune as train


@dataclass(frozen=True, slots=True, repr=False)
class TrainedModel(FinetuneResult):
    """A trained model and how it came about; fields as in `FinetuneResult`."""

    def save(self, path: Path | str) -> None:
        """Write the trained model; see `structure.save.save`.

        Raises:
            InputError: the path cannot be written.
            ModelError: the written file does not load or run.
        """
        save(self.model, path)

    def __repr__(self) -> str:
        return f"TrainedModel({self.model.name!r}: {self.loss}, epoch {self.best} of {len(self.history) - 1})"


def finetune(
    model: Source,
    data: DataSource,
    *,
    teacher: Source | None = None,
    validation: DataSource | None = None,
    config: FinetuneConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    images: int | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainedModel:
    """Train a model's weights, with labels or towards a teacher's outputs. Needs torch (the extra `finetune`).

    Args:
        model: a path, a protobuf or a loaded model; never changed.
        data: training rows; see `prune`.
        teacher: a model with the same inputs and outputs, for example the original; labels are then not needed.
        validation: rows that choose the best epoch; by default a share of `data` is held out for it.
        config: options of the training.
        preprocess: how integer images become the model's input.
        images: training rows used at most; all by default.
        checkpoint: file that the state is written to after every epoch; where it exists, training goes on from it.
        progress: told of steps.
        on_epoch: called after every epoch, also for epoch 0 (the model as it came).

    Raises:
        InputError: a file cannot be read; neither teacher nor labels; torch is missing.
        ModelError: an operator has no rule for torch, or nothing can be trained.
    """
    config, preprocess = config or FinetuneConfig(), preprocess or PreprocessConfig()
    loaded = load(model)
    rows = load_data(data, loaded, preprocess, limit=images, seed=config.seed)
    trained = train(
        loaded,
        rows,
        teacher=None if teacher is None else load(teacher),
        config=config,
        validation=None if validation is None else load_data(validation, loaded, preprocess),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
        on_epoch=on_epoch,
    )
    return TrainedModel(**{field.name: getattr(trained, field.name) for field in fields(FinetuneResult)})

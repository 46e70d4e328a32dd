"""Fine-tunes a pruned model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from onnxprune.api.arguments import speaks_of_arguments
from onnxprune.api.messages import told_all
from onnxprune.calibration.independence import without_batch
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.scale import check_same_scale
from onnxprune.config import FinetuneConfig, OutputConfig, PreprocessConfig
from onnxprune.core.clock import Progress
from onnxprune.core.engine import Provider
from onnxprune.graph.load import load
from onnxprune.pipeline.prepare import DataSource, Source
from onnxprune.report.log import log_result
from onnxprune.report.progress import followed
from onnxprune.runtime.providers import require_provider
from onnxprune.structure.save import save
from onnxprune.training import Epoch, FinetuneResult
from onnxprune.training import finetune as train


@dataclass(frozen=True, slots=True, repr=False)
class TrainedModel(FinetuneResult):
    """A fine-tuned model and how training went; fields as in `FinetuneResult`.

    Attributes:
        files: the files that rows and teacher were read from.

    Example:
        ```python
        trained = onnxprune.finetune("smaller.onnx", "rows.npz", teacher="model.onnx")
        print(trained.best, trained.history[trained.best].held_out_loss)
        trained.save("trained.onnx")
        ```
    """

    files: tuple[Path, ...] = ()

    def save(self, path: Path | str, protected: Iterable[Path] = ()) -> tuple[Path, ...]:
        """Write the trained model; see `structure.save.save`.

        Args:
            path: the file's final name.
            protected: files that are not written to, besides all that the training read.

        Returns:
            The files that were made: the model, and its weights where they are apart.

        Raises:
            InputError: the path cannot be written, or is that of a file that the training read.
            ModelError: the written file does not load or run.
        """
        return save(self.model, path, protected=(*self.files, *protected), original=self.original)

    def __repr__(self) -> str:
        return f"TrainedModel({self.original.name!r}: {self.loss}, epoch {self.best} of {len(self.history) - 1})"


@speaks_of_arguments
def finetune(
    model: Source,
    data: DataSource,
    *,
    teacher: Source | None = None,
    validation: DataSource | None = None,
    config: FinetuneConfig | None = None,
    outputs: OutputConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    images: int | None = None,
    checkpoint: Path | str | None = None,
    provider: str = "cpu",
    progress: Progress | bool | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainedModel:
    """Fine-tune a model's weights on labels, or towards the outputs of a teacher (needs torch: extra `finetune`).

    Args:
        model: a path, the bytes of a file, a protobuf or a loaded model; never changed.
        data: training rows; see `prune`.
        teacher: a model with the same inputs and outputs, for example the original; labels are then not needed.
        validation: rows that choose the best epoch; by default a share of `data` is held out for it.
        config: options of the training.
        outputs: what outputs mean, where the graph does not tell.
        preprocess: how integer images become the model's input.
        images: training rows used at most; all by default.
        checkpoint: file that the state is written to after every epoch; where it exists, training goes on from it.
        provider: execution provider of onnxruntime that runs the teacher; training itself runs in torch.
        progress: told of steps; True draws bars, None does so in notebooks and at the prompt.
        on_epoch: called after every epoch, also for epoch 0 (the model as it came).

    Raises:
        InputError: a file cannot be read; neither teacher nor labels; torch is missing; the installed onnxruntime does
            not have the provider.
        ModelError: an operator has no rule for torch, or nothing can be trained.

    Example:
        ```python
        config = onnxprune.FinetuneConfig(epochs=2)
        trained = onnxprune.finetune("smaller.onnx", "rows.npz", teacher="model.onnx", config=config)
        ```
    """
    config, preprocess = config or FinetuneConfig(), preprocess or PreprocessConfig()
    runs_on = Provider.parse(provider)
    require_provider(runs_on)
    loaded = load(model)
    rows = load_data(data, loaded, preprocess, limit=images, seed=config.seed)
    loaded = without_batch(loaded, rows)
    guide = None if teacher is None else without_batch(load(teacher), rows)
    chosen_on = None if validation is None else load_data(validation, loaded, preprocess)
    check_same_scale(rows, chosen_on)
    warnings = told_all(w for some in (rows, chosen_on) if some is not None for w in some.warnings)
    log_result(warnings, ())
    with followed(progress) as told:
        trained = train(
            loaded,
            rows,
            teacher=guide,
            config=config,
            outputs=outputs,
            validation=chosen_on,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            provider=runs_on,
            progress=told,
            on_epoch=on_epoch,
        )
    files = [path for source in (guide, rows, chosen_on) if source is not None for path in source.files]
    trained_fields = {field.name: getattr(trained, field.name) for field in fields(FinetuneResult)}
    trained_fields["model"] = replace(trained.model, name=f"{loaded.name} (fine-tuned)")
    return TrainedModel(**{**trained_fields, "warnings": warnings}, files=tuple(files))

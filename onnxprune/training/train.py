"""The training loop: cross-entropy with labels, or distillation from a teacher's outputs."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import collect
from onnxprune.config import FinetuneConfig, OutputConfig
from onnxprune.core.clock import Progress, no_progress
from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.options import check
from onnxprune.graph.model import Model
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.meaning import Meaning
from onnxprune.outputs.numbers import FLOATS
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.selected import makes_too
from onnxprune.outputs.settling import told_by_rows
from onnxprune.structure.coupling import analyse
from onnxprune.torchnet.network import Network, bound_network, import_torch
from onnxprune.torchnet.objective import Objective, choose_objective
from onnxprune.training.augment import augment, settled
from onnxprune.training.checkpoint import read_checkpoint, training_identity, write_checkpoint
from onnxprune.training.result import Epoch, FinetuneResult

# Gradients are scaled down to this norm: the first, large errors of a pruned model must not undo what repair did.
_LARGEST_GRADIENT = 1.0
_PROBED_ROWS = 4
_CPU = Provider()
_REFERENCE_ROWS = 256  # of the teacher, which settle what its outputs are measured in


def finetune(
    model: Model,
    data: Dataset,
    *,
    teacher: Model | None = None,
    config: FinetuneConfig | None = None,
    outputs: OutputConfig | None = None,
    validation: Dataset | None = None,
    checkpoint: Path | None = None,
    provider: Provider = _CPU,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> FinetuneResult:
    """Fine-tune a model's weights.

    With a teacher, the loss compares its outputs with the model's by what they mean (see `torchnet.objective`); labels
    are not needed. Without one, it is the cross-entropy with the rows' labels. Adam, with linear warm-up and a cosine
    schedule.

    Args:
        model: what is trained; never changed.
        data: training rows.
        teacher: a model with the same inputs and outputs, for example the original of a pruned model.
        config: options.
        outputs: what the user says of the outputs.
        validation: rows that choose the best epoch; by default a share of `data` is held out for it.
        checkpoint: file that the state is written to after every epoch; where it exists, training goes on from it.
        provider: execution provider that runs the teacher in onnxruntime.
        progress: told of steps ("finetune", steps done, steps in all).
        on_epoch: called after every epoch, also for epoch 0 (the model as it came).

    Raises:
        InputError: neither teacher nor labels; too few rows; torch is missing; the checkpoint is of another training.
        ModelError: an operator has no rule for torch (found before any work), or nothing can be trained.
    """
    config = config or FinetuneConfig()
    check(config)
    torch = import_torch()
    began = perf_counter()
    data, validation = data.with_classes(), None if validation is None else validation.with_classes()
    if teacher is None and data.targets is not None and data.classes is None:
        raise InputError(
            f"{data.source}: its labels are no class numbers, one a row, which is all that labels train by; give a "
            "teacher to learn from (--teacher), the original for one"
        )
    rows, held_out = split(data, validation, config)
    engine = Engine(config.threads, provider)
    meaning = _meaning(model, teacher, rows, outputs, engine)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _threads(config.threads):
        probe = rows.take(range(1 if rows.whole else min(_PROBED_ROWS, len(rows))))
        student = bound_network(model, meaning.outputs, probe, device)
        theirs = () if teacher is None else _matching(model, teacher, meaning)
        guide = None if teacher is None else bound_network(teacher, theirs, probe, device)
        if not student.parameters:
            raise ModelError(f"{model.name}: no weight of it can be trained")
        config = settled(config, probe, teacher is not None)
        classes = _classes(student, probe, meaning)
        labels = data.classes if validation is None else _both(data.classes, validation.classes)
        taught = None if teacher is None else _reference(teacher, theirs, meaning, rows, engine)
        objective = choose_objective(model.name, meaning, labels, classes, taught, config)
        run = Training(student, guide, objective, rows, held_out, config, progress)
        if checkpoint is not None:
            mark = training_identity(model, teacher, data, config)
            run.resume(read_checkpoint(checkpoint, mark))
        if not run.history:
            run.history.append(run.measured(0, math.nan, 0.0, perf_counter()))
            _tell(on_epoch, run)
        while not run.finished:
            run.epoch(len(run.history))
            _tell(on_epoch, run)
            if checkpoint is not None:
                write_checkpoint(checkpoint, {"training_identity": mark, **run.state()})
        student.load_state(run.best_state)
    trained = student.written_back(model) if run.best else model
    seconds = perf_counter() - began
    history = tuple(run.history)
    return FinetuneResult(trained, model, history, run.best, objective.name, device, seconds, str(provider))


class Training:
    """One training run and its progress.

    Attributes:
        history: epochs so far, number 0 first.
        best: the best epoch's number.
        best_state: its weights.
    """

    def __init__(
        self,
        student: Network,
        guide: Network | None,
        objective: Objective,
        rows: Dataset,
        held_out: Dataset,
        config: FinetuneConfig,
        progress: Progress,
    ) -> None:
        torch = import_torch()
        self._student, self._guide, self._objective = student, guide, objective
        self._rows, self._held_out, self._config, self._progress = rows, held_out, config, progress
        # A last batch of one row has no batch statistics.
        self._steps = max(1, -(-(len(rows) - 1) // config.batch))
        weights = list(student.parameters.values())
        decayed = [w for w in weights if w.dim() > 1]
        others = [w for w in weights if w.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr)
        self.history: list[Epoch] = []
        self.best = 0
        self.best_state = student.state()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or training stopped improving."""
        done = len(self.history) - 1
        return done >= self._config.epochs or 0 < self._config.patience <= done - self.best

    def epoch(self, number: int) -> None:
        """Train on all rows once, evaluate, and keep the weights if they are the best so far."""
        began, total = perf_counter(), 0.0
        # Everything random in an epoch comes from its own generator, so that a resumed run repeats it.
        rng = np.random.default_rng((self._config.seed, number))
        order = rng.permutation(len(self._rows))
        # A teacher's outputs come from its stored statistics, and repair fitted the weights to those: with the
        # statistics of batches of changed rows, distillation would first have to undo what it does to the model.
        self._student.training = self._guide is None
        for step in range(self._steps):
            part = self._rows.take(order[step * self._config.batch : (step + 1) * self._config.batch])
            done = (number - 1) * self._steps + step
            total += self._step(part, self._learning_rate(done), rng) * len(part)
            self._progress("finetune", done + 1, self._config.epochs * self._steps)
        self._student.training = False
        rate = self._learning_rate(number * self._steps - 1)
        self.history.append(self.measured(number, total / len(self._rows), rate, began))
        if self.history[-1].held_out_loss < self.history[self.best].held_out_loss:
            self.best, self.best_state = number, self._student.state()

    def _step(self, part: Dataset, rate: float, rng: np.random.Generator) -> float:
        """One optimiser step; returns the loss before it."""
        torch = import_torch()
        loss = 0.0
        self._optimizer.zero_grad(set_to_none=True)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for feed, labels in self._pieces(part):
            feed = augment(feed, self._config, rng)  # noqa: PLW2901 (the changed batch takes its place)
            value = self._objective.loss(self._student(feed), self._wanted(feed), labels)
            share = len(next(iter(feed.values()))) / len(part) if not part.whole else 1 / len(part)
            (value * share).backward()
            loss += float(value.detach()) * share
        if not math.isfinite(loss):
            raise ModelError("training diverged: the loss is not finite; lower the learning rate (--lr)")
        torch.nn.utils.clip_grad_norm_(self._student.parameters.values(), _LARGEST_GRADIENT)
        self._optimizer.step()
        return loss

    def _pieces(self, part: Dataset) -> Iterator[tuple[dict[str, Any], Any]]:
        """Tensors of a batch with their labels, row by row where each row is a complete set of inputs."""
        torch = import_torch()
        targets, start = part.classes, 0
        for feed in part.batches(self._config.batch):
            tensors = self._student.inputs(feed)
            count = 1 if part.whole else len(next(iter(tensors.values())))
            labels = None if targets is None else torch.from_numpy(targets[start : start + count].astype(np.int64))
            yield tensors, None if labels is None else labels.to(self._student.device)
            start += count

    def _wanted(self, feed: dict[str, Any]) -> dict[str, Any] | None:
        """The teacher's outputs, under the model's output names."""
        if self._guide is None:
            return None
        with import_torch().no_grad():
            outputs = self._guide(feed)
        return dict(zip(self._student.outputs, (outputs[name] for name in self._guide.outputs), strict=True))

    def _learning_rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine decay to 0."""
        steps = self._config.epochs * self._steps
        warmup = min(self._config.warmup, 1.0) * steps
        if step < warmup:
            return self._config.lr * (step + 1) / (warmup + 1)
        return self._config.lr * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2

    def measured(self, number: int, train_loss: float, rate: float, began: float) -> Epoch:
        """Loss and agreement on the held-out rows."""
        total = hits = 0.0
        with import_torch().no_grad():
            for feed, labels in self._pieces(self._held_out):
                outputs, wanted = self._student(feed), self._wanted(feed)
                count = 1 if self._held_out.whole else len(next(iter(feed.values())))
                total += float(self._objective.loss(outputs, wanted, labels)) * count
                hits += self._objective.hits(outputs, wanted, labels)
        n = len(self._held_out)
        return Epoch(number, train_loss, total / n, hits / n, rate, perf_counter() - began)

    def state(self) -> dict[str, Any]:
        """Everything needed to resume the run."""
        return {
            "weights": self._student.state(),
            "best_weights": self.best_state,
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
        }

    def resume(self, state: dict[str, Any] | None) -> None:
        """Continue from a saved state, if there is one."""
        if state is None:
            return
        self._student.load_state(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_state = state["best"], state["best_weights"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def split(data: Dataset, validation: Dataset | None, config: FinetuneConfig) -> tuple[Dataset, Dataset]:
    """Split the rows into training rows and rows that choose the best epoch.

    Raises:
        InputError: there are too few rows.
    """
    if not len(data) or (validation is not None and not len(validation)):
        raise InputError(f"{data.source}: there are no rows to train on")
    if validation is not None:
        return data, validation
    if config.holdout >= 1:
        raise InputError(f"holdout is a share below 1, not {config.holdout:g}")
    count = math.ceil(config.holdout * len(data))
    if count >= len(data):
        raise InputError(f"{data.source}: {len(data)} rows are too few to hold some out; give more, or --holdout 0")
    order = np.random.default_rng((config.seed, 0)).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count])) if count else data


def _meaning(
    model: Model, teacher: Model | None, rows: Dataset, outputs: OutputConfig | None, engine: Engine
) -> Meaning:
    """What the outputs hold, as recognised from the teacher where it has the same outputs.

    Raises:
        InputError: the user names what does not exist, or all outputs are whole numbers, which no gradient flows from.
    """
    names = {value.name for value in model.proto.graph.output}
    source = model
    if teacher is not None and {value.name for value in teacher.proto.graph.output} == names:
        source = teacher
    analysis = analyse(source, rows.shapes)
    if teacher is not None:
        outputs, _ = told_by_rows(outputs or OutputConfig(), analysis, rows, engine)
    meaning = read_meaning(analysis, outputs)
    types = [analysis.facts.dtypes.get(name, onnx.TensorProto.FLOAT) for name in meaning.outputs]
    if teacher is not None and FLOATS.isdisjoint(types):
        raise InputError(f"{model.name} has no floating-point output that could be matched to a teacher's")
    both = all(makes_too(some, meaning.outputs, analysis) for some in (model, teacher or model))
    return meaning if both else read_meaning(analysis, outputs, sorted_too=False)


def _reference(teacher: Model, theirs: Sequence[str], meaning: Meaning, rows: Dataset, engine: Engine) -> Reference:
    """The teacher's outputs on some rows, under the model's output names."""
    some = rows.take(range(min(_REFERENCE_ROWS, len(rows))))
    axes = {name: meaning.row_axes[name_here] for name_here, name in zip(meaning.outputs, theirs, strict=True)}
    outputs = collect(teacher, some, theirs, engine=engine, row_axes=axes)
    return Reference(
        meaning, {name_here: outputs[name] for name_here, name in zip(meaning.outputs, theirs, strict=True)}
    )


def _matching(model: Model, teacher: Model, meaning: Meaning) -> tuple[str, ...]:
    """The teacher's outputs that correspond to the model's: by name, else by position.

    Raises:
        InputError: inputs or outputs do not correspond.
    """
    inputs = [[v.name for v in m.proto.graph.input if v.name not in m.constants] for m in (model, teacher)]
    if set(inputs[0]) != set(inputs[1]):
        raise InputError(f"{teacher.name} takes {', '.join(inputs[1])}, {model.name} {', '.join(inputs[0])}")
    ours, theirs = ([v.name for v in m.proto.graph.output] for m in (model, teacher))
    if set(meaning.outputs) <= set(theirs):
        return meaning.outputs
    if len(ours) != len(theirs):
        raise InputError(f"{teacher.name} has {len(theirs)} outputs and {model.name} {len(ours)}; it cannot teach it")
    return tuple(theirs[ours.index(name)] if name in ours else name for name in meaning.outputs)


def _classes(student: Network, probe: Dataset, meaning: Meaning) -> int | None:
    part = meaning.classifier
    if part is None:
        return None
    with import_torch().no_grad():
        return max(2, int(student(student.inputs(probe.feeds()))[part.output].flatten(1).shape[1]))


def _both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _tell(on_epoch: Callable[[Epoch], None] | None, run: Training) -> None:
    if on_epoch is not None:
        on_epoch(run.history[-1])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Context in which torch uses `count` threads (0: unchanged)."""
    torch = import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

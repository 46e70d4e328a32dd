"""Runs a model on a dataset in onnxruntime, batch by batch, and hands out any of its tensors."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.session import open_session, runtime_errors
from onnxprune.calibration.signature import InputSpec, fixed_batch, signature
from onnxprune.errors import InputError, ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.shapes import gather_facts
from onnxprune.graph.view import view

Feed = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]

# Bytes that the tensors of one batch may take, and the batch size beyond which nothing is gained.
_BATCH_BYTES = 256 << 20
_LARGEST_BATCH = 128


class Runner:
    """A model ready to run.

    A model with a fixed batch runs at it: rows are cut into batches, the last one filled up and the surplus results dropped. A model that
    fails on a batch, or whose outputs then have no axis of rows, runs row by row from there on.

    Args:
        model: the model; not changed.
        outputs: names of the tensors to hand out, any in the main graph; the model's (tensor) outputs by default.
        threads: threads of onnxruntime; 0 takes all cores.
        optimise: whether onnxruntime may rewrite the graph.

    Raises:
        ModelError: onnxruntime cannot load the model, or a tensor does not exist.
    """

    def __init__(self, model: Model, outputs: Sequence[str] | None = None, *, threads: int = 0, optimise: bool = True):
        declared = [value.name for value in model.proto.graph.output]
        tensors = [value.name for value in model.proto.graph.output if value.type.HasField("tensor_type")]
        self.outputs: tuple[str, ...] = tuple(tensors if outputs is None else outputs)
        self._model = model
        self._specs = signature(model)
        self._declared = frozenset(declared)
        self._fixed = fixed_batch(self._specs)
        self._batched = bool(self._specs) and all(spec.batched for spec in self._specs)
        self._row_by_row = False
        inputs = {spec.name for spec in self._specs}
        made = {name for node in model.proto.graph.node for name in node.output} - {""} | {*declared} | inputs
        for name in self.outputs:
            if name not in made:
                raise ModelError(f"{model.name}: there is no computed tensor {name!r} to read")
        # Inputs are handed out as they are fed; onnxruntime need not know.
        self._echoed = [name for name in self.outputs if name in inputs]
        self._fetched = [name for name in dict.fromkeys(self.outputs) if name not in inputs]
        # The rows of the model's own outputs show whether a batch went through.
        self._watched = [name for name in tensors if name not in self._fetched]
        taps = [name for name in self._fetched if name not in self._declared]
        self._session = open_session(model, taps, threads=threads, optimise=optimise)

    def run_feed(self, feed: Feed) -> Arrays:
        """One run on exactly this feed.

        Raises:
            ModelError: onnxruntime refuses the feed or fails.
        """
        values = self._run(feed, self._fetched)
        return {name: feed[name] if name in self._echoed else values[name] for name in self.outputs}

    def run(self, dataset: Dataset, batch_size: int | None = None) -> Iterator[Arrays]:
        """Results batch by batch, in the order of the rows.

        Outputs of the model have rows first; where one has no axis of rows, the results of single rows are stacked. Other tensors are
        strung together along their first axis. `batch_size` is by default what fits in memory.

        Raises:
            ModelError: onnxruntime refuses the rows or fails.
        """
        size = batch_size or self.default_batch(dataset)
        if size < 1:
            raise InputError(f"the batch size must be at least 1, not {size}")
        if dataset.whole or not self._batched:
            for start in range(0, len(dataset), size):
                part = dataset.take(range(start, min(start + size, len(dataset))))
                yield self._joined([self.run_feed(feed) for feed in part.batches(1)], [1] * len(part), 1)
            return
        if self._fixed is not None:
            size = max(self._fixed, size // self._fixed * self._fixed)
        for feed in dataset.batches(size):
            yield self._run_rows(feed)

    def default_batch(self, dataset: Dataset) -> int:
        """Rows whose largest tensors (twice) and requested outputs fit in 256 MiB, at most 128."""
        if len(dataset) <= 1:
            return 1
        first = dataset.take([0]).feeds()
        shapes = {name: array.shape for name, array in first.items()}
        if self._fixed is not None and self._batched:
            shapes = {name: (self._fixed, *shape[1:]) for name, shape in shapes.items()}
        try:
            facts = gather_facts(self._model, view(self._model), shapes)
        except ModelError:
            return 1
        sizes = {name: prod(shape) * 4 for name, shape in facts.shapes.items() if name not in self._model.constants}
        row = 2 * max(sizes.values(), default=1) + sum(sizes.get(name, 0) for name in self.outputs)
        return int(np.clip(_BATCH_BYTES * facts.batch // max(row, 1), 1, _LARGEST_BATCH))

    def _run_rows(self, feed: Feed) -> Arrays:
        """Results of the rows in a feed, at the batch that the model allows."""
        count = len(next(iter(feed.values())))
        step = self._fixed or (1 if self._row_by_row else count)
        if step == count:
            values = self._attempt(feed, count)
            if values is not None:
                return values
            self._row_by_row, step = True, 1
        parts, rows = [], []
        for start in range(0, count, step):
            part = {name: array[start : start + step] for name, array in feed.items()}
            rows.append(min(step, count - start))
            parts.append(self.run_feed(_filled(part, step) if rows[-1] < step else part))
        return self._joined(parts, rows, step)

    def _attempt(self, feed: Feed, count: int) -> Arrays | None:
        """One run of all rows; None where the model does not take them together."""
        if count == 1 or self._fixed is not None:
            return self._joined([self.run_feed(feed)], [count], count)
        try:
            values = self._run(feed, [*self._fetched, *self._watched])
        except ModelError:
            # The rows may be at fault, or a batch size written into the graph: one row alone tells.
            self._run({name: array[:1] for name, array in feed.items()}, self._fetched)
            return None
        if any(values[name].shape[:1] != (count,) for name in values if name in self._declared):
            return None
        return {name: feed[name] if name in self._echoed else values[name] for name in self.outputs}

    def _run(self, feed: Feed, names: Sequence[str]) -> Arrays:
        with runtime_errors(f"{self._model.name}: onnxruntime cannot run the model"):
            # An empty list would ask for all outputs.
            return dict(zip(names, self._session.run(list(names), dict(feed)) if names else [], strict=True))

    def _joined(self, parts: Sequence[Arrays], rows: Sequence[int], step: int) -> Arrays:
        """Results of consecutive runs as one, without the surplus of a run with fewer than `step` rows."""
        joined: Arrays = {}
        for name in self.outputs:
            arrays = [np.asarray(part[name]) for part in parts]
            by_rows = all(array.ndim and len(array) == step for array in arrays)
            if by_rows:
                arrays = [array[:count] for array, count in zip(arrays, rows, strict=True)]
            elif any(array.ndim and len(array) % step for array in arrays) or not arrays[0].ndim:
                joined[name] = self._stacked(arrays, name)
                continue
            elif name in self._declared and step == 1:
                joined[name] = self._stacked(arrays, name)
                continue
            else:
                arrays = [a[: len(a) // step * count] for a, count in zip(arrays, rows, strict=True)]
            joined[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return joined

    def _stacked(self, arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
        if len({array.shape for array in arrays}) == 1:
            return np.stack(arrays)
        if len({array.shape[1:] for array in arrays}) == 1 and arrays[0].ndim:
            return np.concatenate(arrays)
        raise ModelError(f"{self._model.name}: {name!r} has another shape from row to row")


def collect(
    model: Model,
    dataset: Dataset,
    outputs: Sequence[str] | None = None,
    *,
    threads: int = 0,
    batch_size: int | None = None,
) -> Arrays:
    """Tensors on all rows of a dataset, in memory; see `Runner` for how rows are arranged."""
    runner = Runner(model, outputs, threads=threads)
    batches = list(runner.run(dataset, batch_size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in runner.outputs}


def _filled(feed: Feed, size: int) -> Arrays:
    """The feed with its last row repeated up to `size` rows."""
    return {name: np.concatenate([a, np.repeat(a[-1:], size - len(a), axis=0)]) for name, a in feed.items()}


def takes_rows(specs: Sequence[InputSpec]) -> bool:
    """Whether all inputs have a batch axis."""
    return bool(specs) and all(spec.batched for spec in specs)

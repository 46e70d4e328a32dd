"""Runs a model on a dataset with onnxruntime, batch by batch, and returns any of its tensors."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.engine import ALL_CORES, Engine
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.facts import gather_facts
from onnxprune.runtime.session import open_session, runtime_errors

Feed = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]

# Bytes that the tensors of one batch may take, and the batch size beyond which runs no longer get faster.
_BATCH_BYTES = 128 << 20
_LARGEST_BATCH = 64


class Runner:
    """A model loaded in onnxruntime, with chosen inner tensors as outputs.

    A model with a fixed batch runs at it: rows are cut into batches, the last one is filled up and the surplus results
    are dropped. A model that fails on a batch, or whose outputs then have no axis of rows, runs row by row thereafter.

    Args:
        model: the model; not changed.
        outputs: names of the tensors to hand out, any in the main graph; the model's (tensor) outputs by default.
        engine: threads and execution provider of onnxruntime.
        optimise: whether onnxruntime may rewrite the graph.
        row_axes: per output of the model, its axis of rows, which `run` puts first; None where it has none, so that
            the results of runs are stacked. Axis 0 where it is not given.

    Raises:
        ModelError: onnxruntime cannot load the model, or a tensor does not exist.
    """

    def __init__(
        self,
        model: Model,
        outputs: Sequence[str] | None = None,
        *,
        engine: Engine = ALL_CORES,
        optimise: bool = True,
        row_axes: Mapping[str, int | None] | None = None,
    ) -> None:
        specs = input_specs(model)
        inputs = {spec.name for spec in specs}
        declared = {value.name: value.type.HasField("tensor_type") for value in model.proto.graph.output}
        tensors = [name for name, is_tensor in declared.items() if is_tensor]
        made = {name for node in model.proto.graph.node for name in node.output if name} | inputs | {*declared}
        self.outputs: tuple[str, ...] = tuple(tensors if outputs is None else outputs)
        for name in self.outputs:
            if name not in made:
                raise ModelError(f"{model.name}: there is no computed tensor {name!r} to read")
        self.model = model
        self.fixed_batch: int | None = fixed_batch(specs)
        self._batched = bool(specs) and all(spec.batched for spec in specs)
        self._declared = frozenset(declared)
        # Inputs are handed out as they are fed; onnxruntime need not know.
        self._fetched = [name for name in dict.fromkeys(self.outputs) if name not in inputs]
        # Read once to see whether a batch comes through: the rows of the model's own outputs tell.
        self._probed = [*self._fetched, *(name for name in tensors if name not in self._fetched)]
        self._takes_batches: bool | None = None
        self._row_axes = {} if row_axes is None else row_axes
        taps = [name for name in self._fetched if name not in declared]
        self._session = open_session(model, taps, engine=engine, optimise=optimise)

    def run_feed(self, feed: Feed) -> Arrays:
        """Run the model once on exactly these inputs.

        Raises:
            ModelError: onnxruntime refuses the feed or fails.
        """
        values = {**feed, **self._run(feed, self._fetched)}
        return {name: values[name] for name in self.outputs}

    def run(self, dataset: Dataset, batch_size: int | None = None) -> Iterator[Arrays]:
        """Run the model on a dataset; yields results batch by batch, in the order of the rows.

        Outputs of the model have rows first; where one has no axis of rows, the results of single rows are stacked.
        Other tensors are strung together along their first axis.

        Args:
            dataset: rows to run on.
            batch_size: rows a batch, rounded down to a multiple of a fixed batch; by default `default_batch`.

        Raises:
            ModelError: onnxruntime refuses the rows or fails.
        """
        size = self.default_batch(dataset) if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"the batch size must be at least 1, not {size}")
        if dataset.whole or not self._batched:
            for start in range(0, len(dataset), size):
                feeds = dataset.take(range(start, min(start + size, len(dataset)))).batches(1)
                results = [self.run_feed(feed) for feed in feeds]
                yield self._joined(results, [1] * len(results), 1)
            return
        if self.fixed_batch is not None:
            size = max(self.fixed_batch, size // self.fixed_batch * self.fixed_batch)
        for feed in dataset.batches(size):
            yield self._run_rows(feed)

    def default_batch(self, dataset: Dataset) -> int:
        """The default batch size (1 to 64): as many rows as keep activations within 128 MiB."""
        if not len(dataset):
            return 1
        shapes = {name: array.shape for name, array in dataset.take([0]).feeds().items()}
        if self.fixed_batch is not None and self._batched:
            shapes = {name: (self.fixed_batch, *shape[1:]) for name, shape in shapes.items()}
        try:
            facts = gather_facts(self.model, read_graph(self.model), shapes)
        except ModelError:
            return 1
        sizes = {name: 4 * prod(shape) for name, shape in facts.shapes.items() if name not in self.model.constants}
        row = 2 * max(sizes.values(), default=1) + sum(sizes.get(name, 0) for name in self.outputs)
        return int(np.clip(_BATCH_BYTES * (self.fixed_batch or 1) // max(row, 1), 1, _LARGEST_BATCH))

    def _run_rows(self, feed: Feed) -> Arrays:
        """Results for the rows of a batch, run at a batch size that the model accepts."""
        count = len(next(iter(feed.values())))
        if self.fixed_batch is None and count > 1 and self._takes_batches is not False:
            values = self._run_batch(feed, count)
            if values is not None:
                return values
        step = self.fixed_batch or 1
        parts, rows = [], []
        for start in range(0, count, step):
            part = {name: array[start : start + step] for name, array in feed.items()}
            rows.append(min(step, count - start))
            parts.append(self.run_feed(_filled(part, step) if rows[-1] < step else part))
        return self._joined(parts, rows, step)

    def _run_batch(self, feed: Feed, count: int) -> Arrays | None:
        """Run all rows at once; None where the model turns out not to accept them together."""
        if self._takes_batches:
            return self._rows_first(self.run_feed(feed))
        try:
            values = {**feed, **self._run(feed, self._probed)}
        except ModelError:
            # The feed may be at fault, or a batch size that is written into the graph: a single row tells.
            self.run_feed({name: array[:1] for name, array in feed.items()})
            self._takes_batches = False
            return None
        self._takes_batches = all(self._has_rows(name, values[name], count) for name in self._declared & {*values})
        return self._rows_first({name: values[name] for name in self.outputs}) if self._takes_batches else None

    def _has_rows(self, name: str, array: np.ndarray, count: int) -> bool:
        axis = self._row_axes.get(name, 0)
        return axis is not None and np.shape(array)[axis : axis + 1] == (count,)

    def _rows_first(self, arrays: Arrays) -> Arrays:
        moved = {
            name: np.moveaxis(array, axis, 0)
            for name, array in arrays.items()
            if (axis := self._row_axes.get(name)) and np.ndim(array) > axis
        }
        return {**arrays, **moved}

    def _run(self, feed: Feed, names: Sequence[str]) -> Arrays:
        if not names:  # to onnxruntime that means all outputs
            return {}
        with runtime_errors(f"{self.model.name}: onnxruntime cannot run the model"):
            return dict(zip(names, self._session.run(list(names), dict(feed)), strict=True))

    def _joined(self, parts: Sequence[Arrays], rows: Sequence[int], step: int) -> Arrays:
        """Join the results of consecutive runs, without the rows that only filled up a batch."""
        joined: Arrays = {}
        parts = [self._rows_first(part) for part in parts]
        for name in self.outputs:
            arrays = [np.asarray(part[name]) for part in parts]
            without = self._row_axes.get(name, 0) is None
            by_row = all(array.ndim and len(array) == step for array in arrays)
            divisible = all(array.ndim and len(array) % step == 0 for array in arrays)
            if not without and (by_row or (divisible and not (step == 1 and name in self._declared))):
                cut = [a[: len(a) // step * count] for a, count in zip(arrays, rows, strict=True)]
                joined[name] = self._together(cut, name)
            elif len({array.shape for array in arrays}) == 1:
                joined[name] = np.stack(arrays)
            else:
                joined[name] = self._together(arrays, name)
        return joined

    def _together(self, arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0]
        if any(array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            raise ModelError(
                f"{self.model.name}: tensor {name!r} changes its shape from run to run; read it run by run"
            )
        return np.concatenate(arrays)

    def collect(self, dataset: Dataset, batch_size: int | None = None) -> Arrays:
        """Run the model on a dataset, and return the results on all rows.

        Raises:
            ModelError: onnxruntime fails, or a tensor's shape depends on the batch in more than its first axis.
        """
        batches = list(self.run(dataset, batch_size))
        if not batches:
            raise InputError(f"{dataset.source}: there are no rows to run {self.model.name} on")
        return {name: self._together([np.atleast_1d(b[name]) for b in batches], name) for name in self.outputs}


def collect(
    model: Model,
    dataset: Dataset,
    outputs: Sequence[str] | None = None,
    *,
    engine: Engine = ALL_CORES,
    batch_size: int | None = None,
    row_axes: Mapping[str, int | None] | None = None,
) -> Arrays:
    """Run a model on a dataset, and return the wanted tensors on all rows; see `Runner`."""
    return Runner(model, outputs, engine=engine, row_axes=row_axes).collect(dataset, batch_size)


def _filled(feed: Feed, size: int) -> Arrays:
    """The batch filled up to `size` rows by repeating its last row."""
    return {name: np.concatenate([a, np.repeat(a[-1:], size - len(a), axis=0)]) for name, a in feed.items()}


def first_feed(model: Model, dataset: Dataset, batch: int = 1) -> Feed:
    """The first `batch` rows of a dataset as model inputs, repeated where there are too few.

    A fixed batch size is always filled.
    """
    rows = 1 if dataset.whole else fixed_batch(input_specs(model)) or batch
    return dataset.take(np.arange(rows) % len(dataset)).feeds()

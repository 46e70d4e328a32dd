"""Runs a model over all calibration rows step by step, and keeps only the activations that are still needed.

Layer by layer work (statistics, refits) then costs one pass of the model in all, instead of one pass per layer.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.calibration.store import Batch, Room
from onnxprune.core.engine import ONE_CORE, Engine
from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.order import last_uses, needed_nodes
from onnxprune.graph.subgraph import subgraph

Arrays = dict[str, np.ndarray]

_BATCH_BYTES = 16 << 20  # of a batch's largest tensor, whatever the memory: samples are drawn by batch
_LARGEST_BATCH = 64
_COMPARED = 4  # fixed batches, to see whether a larger one gives the same


class Replay:
    """A model run in steps: `batches` holds, per batch, the tensors that later nodes read.

    Nothing is computed before it is read. What then runs are the same pieces, so that results have the same bits.

    Args:
        model: the model.
        nodes: its nodes, in the order of execution.
        feeds: its inputs, by batch.
        engine: what steps run on.
        room: where tensors are held.
        kept: tensors that stay known to the end.

    Attributes:
        model: whose constants later steps use; may be replaced by the same graph with other constants.
        nodes: all nodes, in the order of execution.
        engine: what steps run on.
    """

    def __init__(
        self,
        model: Model,
        nodes: Sequence[Node],
        feeds: Iterable[Mapping[str, np.ndarray]],
        engine: Engine,
        room: Room | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.model = model
        self.nodes = tuple(nodes)
        self._room = room or Room()
        self._batches = [Batch(self._room, feed) for feed in feeds]
        self.engine = engine
        self._done = 0
        self._moves: list[tuple[Model, int, Sequence[str]]] = []
        # Constants are no results: subgraphs hold those that they read.
        made = ((index, node) for index, node in enumerate(nodes) if not node.is_constant)
        self._place = {name: index for index, node in made for name in node.outputs if name}
        self._last = last_uses((node.reads for node in nodes), kept)

    @property
    def done(self) -> int:
        """Number of nodes that have run."""
        return self._moves[-1][1] if self._moves else self._done

    @property
    def batches(self) -> list[Batch]:
        """The tensors that are known so far, by name, for each batch."""
        for model, stop, wanted in self._moves:
            self._advance(model, stop, wanted)
        self._moves.clear()
        return self._batches

    def before(self, node: str) -> int:
        """Number of nodes that run before a node."""
        return next(index for index, at in enumerate(self.nodes) if at.name == node)

    def after(self, tensor: str) -> int:
        """Number of nodes that must run until a tensor is known."""
        return self._place[tensor] + 1

    def advance(self, stop: int, wanted: Sequence[str] = ()) -> None:
        """Run up to node number `stop` (without it). `wanted` tensors are kept until the next step."""
        if stop > self.done:
            self._moves.append((self.model, stop, wanted))

    def peek(self, stop: int, wanted: Sequence[str]) -> Iterator[Arrays]:
        """Tensors that nodes before number `stop` compute, per batch, without moving on."""
        batches = self.batches
        made = [name for name in wanted if self._place.get(name, -1) >= self._done]
        for known, computed in zip(batches, self._run(self.model, stop, made), strict=True):
            yield {
                name: computed[name]
                if name in computed
                else known[name]
                if name in known
                else self.model.constants[name]
                for name in wanted
            }

    def _advance(self, model: Model, stop: int, wanted: Sequence[str]) -> None:
        live = [name for name, last in self._last.items() if last >= stop]
        made = [name for name in dict.fromkeys((*live, *wanted)) if self._done <= self._place.get(name, -1) < stop]
        computed = self._run(model, stop, made)
        keep = {*live, *wanted}
        self._room.new_file()
        for index, values in enumerate(computed):
            self._batches[index].change(keep, {name: values[name] for name in made})
        self._done = stop

    def _run(self, model: Model, stop: int, wanted: Sequence[str]) -> Iterator[Arrays]:
        """The wanted tensors of each batch, with the inputs they were computed from."""
        if not wanted:
            yield from ({} for _ in self._batches)
            return
        nodes = needed_nodes(self.nodes[self._done : stop], wanted)
        part = subgraph(model, nodes, self._batches[0], wanted)
        runner = Runner(part, wanted, engine=self.engine)
        inputs = [value.name for value in part.proto.graph.input]
        for known in self._batches:
            feed = {name: known[name] for name in inputs}
            yield feed | runner.run_feed(feed)


class Feeds(Sequence[Arrays]):
    """Batches of a dataset's rows, made when they are read.

    Args:
        data: the rows, those that fill up a model's fixed batch too.
        size: rows a batch, at most; all have about as many.
        first: how many of the rows come first: no batch holds some of them and others. By default all.
    """

    def __init__(self, data: Dataset, size: int, first: int | None = None) -> None:
        self.rows, self.size = data, 1 if data.whole else size
        self._first = len(data) if first is None else first
        self.starts = (*self._even(0, self._first), *self._even(self._first, len(data)))

    @property
    def first(self) -> int:
        """Number of batches with the rows that come first."""
        return -(-self._first // self.size)

    def share(self, index: int) -> float:
        """A batch's share of all rows."""
        start, end = self._bounds(index)
        return (end - start) / len(self.rows)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return next(self.rows.take(range(*self._bounds(index))).batches(self.size))

    def __reduce__(self) -> tuple[type["Feeds"], tuple[Dataset, int, int]]:
        """Pickles only the selected rows, for worker processes."""
        return Feeds, (self.rows.alone(), self.size, self._first)

    def _even(self, start: int, end: int) -> list[int]:
        count = -(-(end - start) // self.size)
        return [start + (end - start) * number // count for number in range(count)]

    def _bounds(self, index: int) -> tuple[int, int]:
        return self.starts[index], (*self.starts, len(self.rows))[index + 1]


def batch_feeds(model: Model, graph: Graph, data: Dataset, row_bytes: int, apart: Dataset | None = None) -> Feeds:
    """Split rows into batches of about equal size.

    A batch size that the model declares is kept to, unless its nodes prove to take others: then rows that come first
    fill up the last batch.

    Args:
        model: the model.
        graph: its nodes.
        data: the rows.
        row_bytes: size of one row's largest tensor.
        apart: more rows of the same source, which follow in batches of their own.
    """
    size = int(np.clip(_BATCH_BYTES // max(row_bytes, 1), 1, _LARGEST_BATCH))
    sets = [data] if apart is None else [data, apart]
    fixed = fixed_batch(input_specs(model))
    if fixed is not None and not _takes_any_batch(model, graph, data, fixed, size):
        sets = [rows.take(np.resize(np.arange(len(rows)), -(-len(rows) // fixed) * fixed)) for rows in sets]
        size = fixed
    together = replace(data, rows=np.concatenate([rows.rows for rows in sets]))
    return Feeds(together, size, len(sets[0]))


def _takes_any_batch(model: Model, graph: Graph, data: Dataset, fixed: int, size: int) -> bool:
    """Whether a model with a fixed batch size gives the same results at another one."""
    count = min(size, len(data), _COMPARED * fixed) // fixed * fixed
    if count <= fixed:
        return False
    few = data.take(range(count))
    feed = next(few.batches(count))
    wanted = list(graph.outputs)
    runner = Runner(model, wanted, engine=ONE_CORE)
    expected = [runner.run_feed(part) for part in few.batches(fixed)]
    try:
        outputs = Runner(subgraph(model, graph.nodes, feed, wanted), wanted, engine=ONE_CORE).run_feed(feed)
    except ModelError:
        return False
    for name in wanted:
        whole = np.concatenate([np.atleast_1d(part[name]) for part in expected])
        if whole.shape != outputs[name].shape or not np.allclose(whole, outputs[name], rtol=1e-3, atol=1e-5):
            return False
    return True

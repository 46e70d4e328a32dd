"""Matches the arrays of a data source with the model's inputs, and gives each input a leading axis of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from onnxprune.calibration.arrange import Arrangement, arrange, fits
from onnxprune.calibration.held import DATA, LABELS, Held
from onnxprune.core.arrays import DamagedError
from onnxprune.core.errors import InputError
from onnxprune.graph.inputs import InputSpec, fixed_batch

CountsRows = Callable[[Mapping[str, np.ndarray]], bool]


@dataclass(frozen=True, slots=True)
class Rows:
    """Stored rows of all inputs, not yet converted.

    Attributes:
        arrays: `(rows, ...)` per input.
        labels: as stored, or None.
        arrangements: how a stored row becomes a row of the model, per input.
        feeds: inputs whose rows keep every axis of the model's input, the batch axis too.
        origin: what the rows were read from, for messages.
        unread: names of arrays that are neither inputs nor labels.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    arrangements: Mapping[str, Arrangement]
    feeds: frozenset[str]
    origin: str
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()), ()))


def _pick(
    held: Mapping[str, np.ndarray], specs: Sequence[InputSpec], origin: str
) -> tuple[dict[str, np.ndarray], np.ndarray | None, tuple[str, ...]]:
    """Choose, from a source's arrays, the one for each input and the labels; and the names of those left unread.

    Names are the inputs' own; `x`, or the only array, stands for the first input; `y` holds labels unless an input has
    that name.

    Raises:
        InputError: an input has no array.
    """
    names = [spec.name for spec in specs]
    others = [key for key in held if key != LABELS or LABELS in names]
    labels = held[LABELS] if LABELS in held and LABELS not in names else None
    missing = [name for name in names if name not in others]
    if missing == names[:1]:
        rest = [key for key in others if key not in names]
        stand_in = DATA if DATA in rest else rest[0] if len(rest) == 1 else None
        if stand_in is not None:
            arrays = {names[0]: held[stand_in], **{name: held[name] for name in names[1:]}}
            return arrays, labels, tuple(key for key in rest if key != stand_in)
    if missing:
        holds = ", ".join(repr(key) for key in held) or "nothing"
        raise InputError(
            f"{origin}: no array for {_listed('input', missing)}; it holds {holds}, the model takes {wanted(specs)}"
        )
    return {name: held[name] for name in names}, labels, tuple(key for key in others if key not in names)


def rows_of(
    parts: Iterable[Held],
    specs: Sequence[InputSpec],
    layout: str,
    source: str,
    counts_rows: CountsRows,
    limit: int | None = None,
) -> Rows:
    """Collect the rows of all parts of a source.

    Args:
        parts: what it holds.
        specs: the model's inputs.
        layout: the layout option.
        source: for messages.
        counts_rows: whether the first axis of a complete set of inputs counts rows, asked where data do not tell.
        limit: no further part is asked for once there are so many rows.

    Raises:
        InputError: there are no rows, an input has no array, or an array fits its input in no way.
    """
    collected: list[Rows] = []
    count = 0
    counts_rows = _once(counts_rows)
    for held in parts:
        for part in _by_input(held, specs):
            collected.append(_rows(part, specs, layout, counts_rows))
            count += len(collected[-1])
        if limit is not None and count >= limit:
            break
    return _join(collected, source)


def _by_input(held: Held, specs: Sequence[InputSpec]) -> Iterator[Held]:
    """Split a part of a source so that the names of its arrays are those of inputs (or `x`, `y`)."""
    if held.ordered:
        if len(held.arrays) < len(specs):
            raise InputError(f"{held.origin}: {len(held.arrays)} inputs for a model that takes {len(specs)}")
        named = zip(specs, held.arrays.values(), strict=False)
        yield replace(held, arrays={spec.name: array for spec, array in named})
    elif held.files and not {*held.arrays} <= {*(spec.name for spec in specs), DATA, LABELS}:
        for name, array in held.arrays.items():
            yield Held({DATA: array}, str(Path(held.origin) / f"{name}.npy"), single=True)
    else:
        yield held


def _rows(held: Held, specs: Sequence[InputSpec], layout: str, counts_rows: CountsRows) -> Rows:
    try:
        arrays, labels, unread = _pick(held.arrays, specs, held.origin)
    except DamagedError as error:  # an array of an archive is read when it is asked for
        raise InputError(f"{held.origin} cannot be read: {error}") from error
    if _may_be_feeds(arrays, labels, specs, layout) and not counts_rows({s.name: arrays[s.name] for s in specs}):
        specs = [replace(spec, batched=False) for spec in specs]
    rows = _leading(arrays, labels, specs, layout, held.origin, single=held.single)
    return rows if held.ordered else replace(rows, unread=unread)


def _once(counts_rows: CountsRows) -> CountsRows:
    """The first answer for all parts of a source."""
    answers: list[bool] = []

    def asked(arrays: Mapping[str, np.ndarray]) -> bool:
        if not answers:
            answers.append(counts_rows(arrays))
        return answers[0]

    return asked


def _may_be_feeds(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, specs: Sequence[InputSpec], layout: str
) -> bool:
    """Whether arrays hold batches of rows, or complete inputs whose first axis counts no rows: both look alike.

    Where there is a label for each entry of their second axis, these are rows.
    """
    entries = arrays[specs[0].name].shape[:2]
    if labels is not None and len(np.atleast_1d(labels)) == prod(entries) != entries[0]:
        return False
    return all(
        spec.batched
        and spec.dims is not None
        and not isinstance(spec.dims[0], int)
        and arrays[spec.name].size
        and fits(arrays[spec.name].shape[1:], spec.dims)
        and arrange(arrays[spec.name].shape[1:], spec.row, layout) is None
        for spec in specs
    )


def _leading(
    arrays: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    specs: Sequence[InputSpec],
    layout: str,
    origin: str,
    *,
    single: bool = False,
) -> Rows:
    """Give every input a leading axis of rows.

    Where all inputs have a batch axis, an array holds rows, or (one more leading axis) batches, whose rows are strung
    together. Where an input has none, every row is one complete feed: that input's array has one leading axis more than
    the model's input, or exactly its shape, which then serves all rows; the other inputs have a row or a batch a feed.

    Args:
        arrays: one per input.
        labels: as stored.
        specs: the model's inputs.
        layout: the layout option.
        origin: for messages.
        single: whether an array may also be one row, without the leading axis.

    Raises:
        InputError: an array fits its input in no way, or the numbers of rows differ.
    """
    labels = None if labels is None else np.atleast_1d(labels)
    by_name = {spec.name: spec for spec in specs}
    if all(spec.batched for spec in specs):
        both = {name: _batched(array, by_name[name], layout, origin, single) for name, array in arrays.items()}
        with_rows = {name: array for name, (array, _) in both.items()}
        arranged = {name: arrangement for name, (_, arrangement) in both.items()}
        return Rows(_same_length(with_rows, origin), labels, arranged, frozenset(), origin)
    if _is_one_feed(arrays, specs):
        if (split := _one_feed_a_row(arrays, specs)) is not None:
            return _whole_feeds(split, labels, specs, layout, origin)
        whole = dict.fromkeys(arrays, Arrangement())
        return Rows({name: array[None] for name, array in arrays.items()}, labels, whole, frozenset(arrays), origin)
    return _whole_feeds(arrays, labels, specs, layout, origin)


def _batched(
    array: np.ndarray, spec: InputSpec, layout: str, origin: str, single: bool
) -> tuple[np.ndarray, Arrangement]:
    """The array with a leading axis of rows, and how the axes of each row are rearranged."""
    if array.ndim and (arrangement := arrange(array.shape[1:], spec.row, layout)) is not None:
        return array, arrangement
    if spec.dims is not None and array.ndim and fits(array.shape[1:], spec.dims):
        return array.reshape(-1, *array.shape[2:]), Arrangement()
    if single and (arrangement := arrange(array.shape, spec.row, layout)) is not None:
        return array[None], arrangement
    raise _misfit(array, spec, origin)


def _is_one_feed(arrays: Mapping[str, np.ndarray], specs: Sequence[InputSpec]) -> bool:
    """Whether the arrays have exactly the shapes of the inputs, with the same size for the same symbol."""
    sizes: dict[str, int] = {}
    for spec in specs:
        shape = arrays[spec.name].shape
        if spec.dims is None or not fits(shape, spec.dims):
            return False
        for size, dim in zip(shape, spec.dims, strict=True):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                return False
    return True


def _one_feed_a_row(arrays: Mapping[str, np.ndarray], specs: Sequence[InputSpec]) -> dict[str, np.ndarray] | None:
    """The rows of a feed whose inputs have their batch at different axes, such as the states of recurrent layers.

    The batch is the open size that some inputs begin with; inputs without it serve all rows. None where there is no
    such size, or a single row.
    """
    symbols = {spec.dims[0] for spec in specs if spec.batched and spec.dims}
    if len(symbols) != 1 or not isinstance(symbol := symbols.pop(), str):
        return None
    split = {}
    for spec in specs:
        dims, array = spec.dims or (), arrays[spec.name]
        split[spec.name] = array
        if symbol in dims:
            axis = dims.index(symbol)
            if dims.count(symbol) > 1 or array.shape[axis] < 2:
                return None
            split[spec.name] = np.expand_dims(np.moveaxis(array, axis, 0), axis + 1) if axis else array
    return split


def _whole_feeds(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, specs: Sequence[InputSpec], layout: str, origin: str
) -> Rows:
    feed: dict[str, np.ndarray] = {}
    shared: dict[str, np.ndarray] = {}
    arranged: dict[str, Arrangement] = {}
    feeds = set()
    for spec in specs:
        array = arrays[spec.name]
        if spec.dims is not None and array.ndim and fits(array.shape[1:], spec.dims):
            feed[spec.name] = array
            feeds.add(spec.name)
        elif not spec.batched and (spec.dims is None or fits(array.shape, spec.dims)):
            shared[spec.name] = array
            feeds.add(spec.name)
        elif (
            spec.batched
            and fixed_batch(specs) in (None, 1)
            and (arrangement := arrange(array.shape[1:], spec.row, layout)) is not None
        ):
            feed[spec.name], arranged[spec.name] = array, arrangement
        else:
            raise _misfit(array, spec, origin)
    count = len(next(iter(_same_length(feed, origin).values()))) if feed else 1
    spread = {name: np.broadcast_to(array, (count, *array.shape)) for name, array in shared.items()}
    every = {spec.name: arranged.get(spec.name, Arrangement()) for spec in specs}
    return Rows({spec.name: (feed | spread)[spec.name] for spec in specs}, labels, every, frozenset(feeds), origin)


def _same_length(arrays: dict[str, np.ndarray], origin: str) -> dict[str, np.ndarray]:
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(array)}" for name, array in arrays.items())
        raise InputError(f"{origin}: the inputs have different numbers of rows: {lengths}")
    return arrays


def _join(parts: Iterable[Rows], source: str) -> Rows:
    """Concatenate the rows of several files or batches.

    Raises:
        InputError: there are none, or they differ in form.
    """
    parts = list(parts)
    if not parts:
        raise InputError(f"{source}: there are no rows")
    first = parts[0]
    for part in parts[1:]:
        for name, array in part.arrays.items():
            if array.shape[1:] != first.arrays[name].shape[1:] or part.feeds != first.feeds:
                raise InputError(
                    f"{source}: rows of {name!r} have shape {list(first.arrays[name].shape[1:])} in {first.origin}, "
                    f"but {list(array.shape[1:])} in {part.origin}"
                )
        if (part.labels is None) != (first.labels is None):
            if part.origin == first.origin:  # a function that yields them
                raise InputError(f"{source}: some of what it gives has labels, and some has none")
            raise InputError(f"{source}: only one of {first.origin} and {part.origin} has labels")
    if len(parts) == 1:
        return first
    labels = [part.labels for part in parts if part.labels is not None]
    return Rows(
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in first.arrays},
        np.concatenate(labels) if labels else None,
        first.arrangements,
        first.feeds,
        source,
    )


def choose(count: int, limit: int | None, seed: int) -> np.ndarray:
    """Choose at most `limit` of `count` rows, spread evenly; returns ascending indices.

    One row is drawn at random from each of `limit` equal stretches.

    So they are spread evenly also where rows are sorted by class. Without a limit, or with fewer rows, all of them.
    """
    if limit is None or limit >= count:
        return np.arange(count)
    edges = np.linspace(0, count, limit + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def wanted(specs: Sequence[InputSpec]) -> str:
    """The model's inputs as text, for messages."""
    return ", ".join(str(spec) for spec in specs)


def _misfit(array: np.ndarray, spec: InputSpec, origin: str) -> InputError:
    hint = "" if spec.batched else " and has no batch axis: give one complete array a row, or one for all rows"
    if spec.batched and spec.row is not None and array.ndim == len(spec.row) and array.ndim:
        hint = "; the first axis of the data counts rows"
    data = f"{array.dtype.name} array of shape {list(array.shape)}"
    return InputError(f"{origin}: a {data} does not fit the model, which takes {spec}{hint}")


def _listed(noun: str, names: Sequence[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names)}"

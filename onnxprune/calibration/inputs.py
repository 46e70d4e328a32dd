"""Reads calibration and evaluation data in any supported form, and checks it against the model.

Every form ends as a `Dataset`: rows by input name, optional class numbers, and the conversion to what the model takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np

from onnxprune.calibration.arrange import Arrangement
from onnxprune.calibration.convert import Converter, conversion
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.held import Held, held_by
from onnxprune.calibration.independence import counts_rows
from onnxprune.calibration.prepared import data_notes, data_warnings
from onnxprune.calibration.rows import Rows, choose, rows_of, wanted
from onnxprune.calibration.sources import files_of, open_source
from onnxprune.calibration.synthetic import is_smooth, synthetic_array
from onnxprune.calibration.tables import table_rows
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.memory import require
from onnxprune.core.text import NAME, visible
from onnxprune.graph.inputs import InputSpec, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.operators import OpenShapes
from onnxprune.runtime.feeds import input_shapes, random_array

DataSpec = str | Path | Mapping[str, np.ndarray] | np.ndarray | tuple[np.ndarray, np.ndarray] | Dataset

RANDOM, SYNTHETIC = "random", "synthetic"
MADE_UP = {RANDOM: 64, SYNTHETIC: 200}
"""Rows that are no data, and how many of them are made."""

_SEEN = "what matters to the model's task {} seen in them, and figures of them say nothing of real data"
_MADE_UP_WARNINGS = {
    RANDOM: f"the inputs are random noise, not data: {_SEEN.format('cannot be')}",
    SYNTHETIC: f"the inputs are made up ({{}}), no data: {_SEEN.format('is hardly')}",
}

_GIVEN = "the given data"

_LARGEST_CLASS = (1 << 31) - 1

# Chosen rows of mapped files up to this size are read: what another program shortens would end this one.
_READ_BYTES = 1 << 30

_NAMED = 3

# Rows checked at a time.
_CHUNK = 256


def load_data(
    spec: DataSpec,
    model: Model,
    preprocess: PreprocessConfig | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    known: OpenShapes | None = None,
) -> Dataset:
    """Read data for a model.

    Args:
        spec: `.npz` (an array an input name, or `x`; labels `y`), `.npy`, a folder of either, a folder of images (a
            class a subfolder), an ONNX `test_data_set_*` folder or one that holds several, `package.module:function`,
            `random`, `synthetic`; or arrays in memory: one array, `(x, y)`, a mapping by input name, a `Dataset` (taken
            as it is).
        model: the model that is to be run.
        preprocess: scaling, layout and size of images.
        limit: rows taken at most, chosen by `seed` and spread evenly; a function is stopped once it gave that many.
        seed: seed of the choice, and of random rows.
        known: sizes of random rows, as far as they are known.

    Returns:
        The rows; in an evenly spread, ascending selection where `limit` is smaller than their number.

    Raises:
        InputError: the data cannot be read, or do not fit the model.
        ModelError: the model has no inputs, or an input is not a tensor.
    """
    preprocess = preprocess or PreprocessConfig()
    specs = input_specs(model)
    if not specs:
        raise ModelError(f"{model.name} has no inputs; there is nothing to run it on")
    if limit is not None and limit < 1:
        raise InputError(f"at least one row is needed, not {limit}")
    if isinstance(spec, Dataset):
        return _given(spec, specs, limit, seed)
    notes: tuple[str, ...] = ()
    if is_made_up(spec):
        rows = _made_up_rows(str(spec), model, specs, limit, seed, known)
        made = _dataset(rows, specs, PreprocessConfig(), limit, seed, ())
        return replace(made, warnings=(_MADE_UP_WARNINGS[str(spec)].format(_made_of(rows)),))
    if isinstance(spec, str | Path):
        try:
            rows, notes = _read(spec, model, specs, preprocess, limit, seed)
            files = files_of(spec)
        except OSError as error:
            raise InputError(f"{spec} cannot be read: {error.strerror or error}") from error
        return replace(_dataset(rows, specs, preprocess, limit, seed, notes), files=files)
    held = Held(held_by(spec, _GIVEN), _GIVEN)
    rows = rows_of([held], specs, preprocess.layout, _GIVEN, partial(counts_rows, model))
    return _dataset(rows, specs, preprocess, limit, seed, notes)


def overlap(first: Dataset, second: Dataset) -> int:
    """Number of rows of `first` that also occur in `second`, compared by their converted content."""
    known = set(row_hashes(second))
    return sum(row in known for row in row_hashes(first))


def row_hashes(data: Dataset) -> list[bytes]:
    """Hash of each row's content, as the model gets it."""
    hashes = []
    for position in range(len(data)):
        digest = blake2b(digest_size=16)
        for name, array in sorted(data.take([position]).feeds().items()):
            digest.update(name.encode())
            digest.update("\0".join(map(str, array.ravel())).encode() if array.dtype == object else array.tobytes())
        hashes.append(digest.digest())
    return hashes


def _read(
    spec: str | Path,
    model: Model,
    specs: Sequence[InputSpec],
    preprocess: PreprocessConfig,
    limit: int | None,
    seed: int,
) -> tuple[Rows, tuple[str, ...]]:
    """Open a data source and match what it holds with the model's inputs."""
    from onnxprune.calibration.images import is_image_folder, read_images

    if is_image_folder(Path(spec)):  # which images are decoded, and to what size, depends on the model
        held, classes = read_images(Path(spec), specs, preprocess, limit, seed)
        rows = rows_of([held], specs, preprocess.layout, held.origin, partial(counts_rows, model))
        return rows, (f"{len(classes)} classes, {classes[0]} to {classes[-1]}",) if classes else ()
    parts, source = open_source(spec)
    return rows_of(parts, specs, preprocess.layout, source, partial(counts_rows, model), limit), ()


def is_made_up(spec: object) -> bool:
    """Whether rows are to be made, rather than read."""
    return isinstance(spec, str) and spec in MADE_UP and not Path(spec).exists()


def _made_up_rows(
    spec: str, model: Model, specs: Sequence[InputSpec], limit: int | None, seed: int, known: OpenShapes | None
) -> Rows:
    rng, count = np.random.default_rng(seed), limit or MADE_UP[spec]
    make = random_array if spec == RANDOM else synthetic_array
    shapes, rows = input_shapes(model, specs, known), table_rows(model)
    batched = all(spec.batched for spec in specs)
    arrays: dict[str, np.ndarray] = {}
    for wanted_input in specs:
        shape = shapes.get(wanted_input.name)
        if shape is None:
            raise InputError(f"{model.name}: input {wanted_input} has no known shape to make {spec} rows of; give data")
        size = (count, *(shape[1:] if batched else shape))
        require(prod(size) * max(4, wanted_input.dtype.itemsize), f"{count} {spec} rows for input {wanted_input}")
        arrays[wanted_input.name] = make(rng, wanted_input.dtype, size, rows.get(wanted_input.name))
    feeds = frozenset() if batched else frozenset(arrays)
    return Rows(arrays, None, dict.fromkeys(arrays, Arrangement()), feeds, spec)


def _made_of(rows: Rows) -> str:
    """What synthetic rows hold, in words."""
    smooth = any(is_smooth(array.dtype, array.shape) for array in rows.arrays.values())
    drawn = any(not is_smooth(array.dtype, array.shape) for array in rows.arrays.values())
    return " and ".join(["smooth noise with edges and tones"] * smooth + ["numbers drawn at random"] * drawn)


def _given(data: Dataset, specs: Sequence[InputSpec], limit: int | None, seed: int) -> Dataset:
    missing = [spec.name for spec in specs if spec.name not in data.arrays]
    if missing:
        raise InputError(f"{data.source}: no rows for input {missing[0]!r}; the model takes {wanted(specs)}")
    if not len(data):
        raise InputError(f"{data.source}: there are no rows")
    return data if limit is None or limit >= len(data) else data.take(choose(len(data), limit, seed))


def _dataset(
    rows: Rows,
    specs: Sequence[InputSpec],
    preprocess: PreprocessConfig,
    limit: int | None,
    seed: int,
    notes: tuple[str, ...],
) -> Dataset:
    if not len(rows):
        raise InputError(f"{rows.origin}: there are no rows")
    labels = None if rows.labels is None else _checked(rows.labels, len(rows), rows.origin)
    conversions = {}
    for spec in specs:
        array = rows.arrays[spec.name]
        whole = spec.name in rows.feeds
        # With several inputs, scaling is for the images among them.
        scaled = preprocess if len(specs) == 1 or (spec.is_float and array.ndim > 3) else None
        try:
            conversions[spec.name] = conversion(
                spec, array.shape[1:], array.dtype, rows.arrangements[spec.name], scaled, drop=whole
            )
        except InputError as error:
            raise InputError(f"{rows.origin}: {error}") from None
    if rows.unread:
        notes = (*notes, _unread(rows))
    if rows.feeds and all(spec.batched for spec in specs):
        notes = (*notes, f"the first axis of input {specs[0].name!r} counts no rows: each row is run by itself")
    data = Dataset(
        arrays=rows.arrays,
        labels=labels,
        source=rows.origin,
        rows=choose(len(rows), limit, seed),
        convert=Converter(conversions),
        whole=bool(rows.feeds),
        notes=notes,
    )
    if any(_is_mapped_file(array) for array in data.arrays.values()):
        size = sum(len(data) * array[:1].nbytes for array in data.arrays.values())
        data = data.alone() if size <= _READ_BYTES else data
    for spec in specs:
        _check_values(data, spec)
    floats = [spec.name for spec in specs if spec.is_float and rows.arrays[spec.name].dtype.kind in "iuf"]
    given = preprocess.scale is not None
    told = [note for name in floats for note in data_notes(data, name, scale_given=given)]
    warned = [warning for name in floats for warning in data_warnings(data, name)]
    return replace(data, notes=(*notes, *dict.fromkeys(told)), warnings=tuple(warned))


def _unread(rows: Rows) -> str:
    names = ", ".join(map(repr, rows.unread[:_NAMED])) + ", ..." * (len(rows.unread) > _NAMED)
    labels = "" if rows.labels is not None else "; labels are called 'y'"
    return f"{rows.origin}: no input is called {names}, which is not read{labels}"


def _is_mapped_file(array: np.ndarray) -> bool:
    """Whether an array is mapped from a file that other programs may change (not a temporary file)."""
    return isinstance(array, np.memmap) and array.filename is not None


def _checked(labels: np.ndarray, count: int, origin: str) -> np.ndarray:
    """The labels as numbers, one entry per row. Whether they fit the model's outputs only a run can tell."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iufb":
        raise InputError(f"{origin}: labels must be numbers, not {_kind_of(labels)}")
    if labels.ndim == 0 or len(labels) != count:
        raise InputError(f"{origin}: {len(np.atleast_1d(labels))} labels for {count} rows")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InputError(f"{origin}: labels must be finite numbers")
    if labels.dtype.kind in "iu" and labels.ndim == 1 and labels.min(initial=0) < 0:
        raise InputError(f"{origin}: labels must not be negative; the smallest is {labels.min()}")
    if labels.dtype.kind in "iu" and labels.max(initial=0) > _LARGEST_CLASS:
        raise InputError(f"{origin}: labels must be numbers of classes; {labels.max()} is too large")
    return labels.astype(np.int64) if labels.dtype.kind in "iub" else labels


def _kind_of(labels: np.ndarray) -> str:
    """What labels that are no numbers are, in plain words, and what to do about it."""
    kind = {"U": "text", "S": "text", "M": "dates", "m": "times", "c": "complex numbers"}.get(labels.dtype.kind)
    held = visible(repr(labels.flat[0].item() if hasattr(labels.flat[0], "item") else labels.flat[0]), NAME)
    advice = "store each class's number, counted from 0 in the order of the model's outputs"
    return f"{kind or 'Python objects'} such as {held}; {advice}"


def _check_values(data: Dataset, spec: InputSpec) -> None:
    """Refuse rows with NaN or infinity, or with values outside the range of the model's input type."""
    array = data.arrays[spec.name]
    stored_float = array.dtype.kind not in "iub"
    if spec.is_text or (spec.is_float and not stored_float and spec.dtype.itemsize > 2):
        return
    for start in range(0, len(data), _CHUNK):
        rows = data.rows[start : start + _CHUNK]
        part = np.asarray(array[rows])
        if stored_float and not (finite := np.isfinite(part.reshape(len(part), -1)).all(axis=1)).all():
            raise InputError(f"{data.source}: {spec.name!r} holds NaN or infinity in row {rows[np.argmin(finite)]}")
        if spec.is_float:
            with np.errstate(over="ignore"):
                held = all(np.isfinite(data.convert(spec.name, array[[row]])).all() for row in rows)
        else:
            low, high = (0, 1) if spec.dtype.kind == "b" else (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max)
            held = part.size == 0 or (int(part.min()) >= low and int(part.max()) <= high)
        if not held:
            raise InputError(
                f"{data.source}: {spec.name!r} holds values from {part.min()} to {part.max()}, beyond what the model's "
                f"{spec.dtype.name} can hold; check the scaling"
            )

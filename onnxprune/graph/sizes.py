"""The one rule for the sizes of a model's inputs.

What the file fixes holds; what it leaves open is as the user says (`--shape`), else as the first row of the data has
it, else guessed (`graph.shapes.GUESSES`; a batch is 1). A name of an open size stands for one size wherever it occurs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from operator import index
from typing import Any

from onnxprune.core.errors import InputError, ModelError, SizesError
from onnxprune.core.patterns import alike
from onnxprune.core.results import InputSize
from onnxprune.graph.inputs import Dim, InputSpec, fixed_batch, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.operators import OpenShapes, Shape

Given = Mapping[str, Sequence[int]] | Iterable[str]
"""Shapes by input name, or texts `NAME=1,3,640,640`."""

LONGEST_AXIS = 1 << 26
"""Positions along an axis up to which they may be channels: labels take eight bytes each."""

_MOST_ELEMENTS = 1 << 40
_SHAPE = re.compile(r"[0-9]{1,9}(?:\s*[,x]\s*[0-9]{1,9})*")
OPTION, DATA, GUESS = "given", "data", "guess"


def parse_shapes(given: Given) -> dict[str, Shape]:
    """Shapes by input name.

    Raises:
        InputError: a text has another form, a size is below 1, or an input is named twice.
    """
    parsed: dict[str, Shape] = {}
    texts: Any = (given,) if isinstance(given, str) else given
    if isinstance(texts, Iterable) and not isinstance(texts, Mapping):
        texts = tuple(texts)
    if not isinstance(texts, Mapping | tuple) or not all(isinstance(name, str) for name in texts):
        raise InputError(
            f"shapes are sizes by the name of an input, for example {{'images': (1, 3, 640, 640)}}, not {given!r}"
        )
    pairs = texts.items() if isinstance(texts, Mapping) else (_pair(text) for text in texts)
    for name, shape in pairs:
        try:
            sizes = tuple(index(size) for size in shape)
        except TypeError:
            raise InputError(f"the shape of input {name!r} is {shape!r}: give whole numbers, batch first") from None
        if name in parsed:
            raise InputError(f"--shape names input {name!r} twice")
        if min(sizes, default=1) < 1:
            raise InputError(f"--shape {shown(name, sizes)}: sizes are 1 or more")
        if max(sizes, default=1) > LONGEST_AXIS or prod(sizes) > _MOST_ELEMENTS:
            most = f"at most {LONGEST_AXIS} along an axis, and {_MOST_ELEMENTS} elements in all"
            raise InputError(f"--shape {shown(name, sizes)}: inputs may have {most}")
        parsed[name] = sizes
    return parsed


def shape_texts(given: Given) -> tuple[str, ...]:
    """Shapes as `--shape` takes them; errors as in `parse_shapes`."""
    return tuple(shown(name, shape) for name, shape in parse_shapes(given).items())


def _pair(text: str) -> tuple[str, Shape]:
    name, equals, sizes = text.rpartition("=")
    if not equals or not name or not _SHAPE.fullmatch(sizes.strip()):
        raise InputError(f"--shape {text!r} is not of the form NAME=SIZES, for example images=1,3,640,640")
    return name, tuple(int(size) for size in re.findall("[0-9]+", sizes))


def shown(name: str, sizes: Iterable[int | None]) -> str:
    """A shape as `--shape` takes it."""
    return f"{name}={','.join('?' if size is None else str(size) for size in sizes)}"


def given_sizes(model: Model, given: Given, data: Mapping[str, Shape] | None = None) -> OpenShapes:
    """The sizes that the user or the data tell, for the inputs that they tell something of.

    Args:
        model: the model.
        given: what the user says.
        data: shapes of one row, by input.

    Raises:
        InputError: a shape names no input, has another number of axes, or contradicts file, data or another shape.
    """
    shapes = parse_shapes(given)
    if not shapes and not data:
        return {}
    specs = {spec.name: spec for spec in input_specs(model)}
    named: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name not in specs:
            raise InputError(f"--shape {shown(name, shape)}: the model has no input {name!r}{alike(name, specs)}")
        _check_file(specs[name], shape)
        for dim, size in zip(specs[name].dims or (), shape, strict=False):
            if isinstance(dim, str) and named.setdefault(dim, (size, name))[0] != size:
                raise InputError(
                    f"--shape {shown(name, shape)}: {dim!r} is {size} here and {named[dim][0]} in {named[dim][1]!r}"
                )
    known: dict[str, tuple[int | None, ...]] = {name: shape for name, shape in (data or {}).items() if name in specs}
    for name, spec in specs.items():
        if name in shapes:
            _check_data(spec, shapes[name], (data or {}).get(name))
            known[name] = shapes[name]
        elif any(dim in named for dim in spec.dims or ()):
            own = known.get(name) or tuple(dim if isinstance(dim, int) else None for dim in spec.dims or ())
            told = tuple(
                named[dim][0] if dim in named else size for dim, size in zip(spec.dims or (), own, strict=False)
            )
            _check_data(spec, told, (data or {}).get(name))
            known[name] = told
    return known


def rows_a_run(model: Model, known: OpenShapes | None, asked: int) -> int:
    """Rows of a run: the batch that the file fixes, else the one that `--shape` gives, else as many as are asked for.

    Args:
        model: the model.
        known: shapes of inputs; a batch that nobody gave is 1 in them.
        asked: `--latency-batch`, which is 1 where nobody gave it.

    Raises:
        InputError: `--shape` and `--latency-batch` give different numbers.
    """
    specs = input_specs(model)
    if (fixed := fixed_batch(specs)) is not None:
        return fixed
    given = [(known or {}).get(spec.name, ())[:1] for spec in specs if spec.batched]
    batch = next((size for sizes in given for size in sizes if size not in (None, 1)), None)
    if batch is not None and asked not in (1, batch):
        raise InputError(f"--shape gives a batch of {batch}, --latency-batch one of {asked}; give one of the two")
    return batch or asked


def _check_file(spec: InputSpec, shape: Shape) -> None:
    """Compare a given shape with what the file fixes."""
    if spec.dims is None:
        return
    if len(shape) != len(spec.dims):
        raise InputError(f"--shape {shown(spec.name, shape)}: the file gives input {spec} {len(spec.dims)} axes")
    for axis, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InputError(f"--shape {shown(spec.name, shape)}: the file fixes axis {axis} of input {spec} to {dim}")


def _check_data(spec: InputSpec, shape: Sequence[int | None], row: Shape | None) -> None:
    """Compare a given shape with a row of the data; of the batch any number of rows is taken."""
    start = 1 if spec.batched else 0
    if row is None or (
        len(row) == len(shape) and all(a in (None, b) for a, b in zip(shape[start:], row[start:], strict=True))
    ):
        return
    raise InputError(f"--shape {shown(spec.name, shape)} contradicts the data, whose rows are {shown(spec.name, row)}")


def input_sizes(
    model: Model, chosen: Mapping[str, Shape], given: Given = (), data: Mapping[str, Shape] | None = None
) -> tuple[InputSize, ...]:
    """The open sizes of a model's inputs, as they were chosen, each with where it is from.

    The batch is left out unless the user gave one.

    Args:
        model: the model.
        chosen: shapes of all inputs.
        given: what the user says.
        data: shapes of one row, by input.
    """
    try:
        specs = input_specs(model)
    except ModelError:  # an input that is no tensor, of which sizes say nothing
        return ()
    said = given_sizes(model, given)
    found: dict[str, InputSize] = {}
    for spec in specs:
        told, row = said.get(spec.name, ()), (data or {}).get(spec.name, ())
        dims: Sequence[Dim] = spec.dims if spec.dims is not None else (None,) * len(chosen.get(spec.name, ()))
        for axis, (dim, size) in enumerate(zip(dims, chosen.get(spec.name, ()), strict=False)):
            batch = (axis == 0 and spec.batched) or (isinstance(dim, str) and "batch" in dim.lower())
            origin = OPTION if axis < len(told) and told[axis] is not None else DATA if axis < len(row) else GUESS
            if isinstance(dim, int) or (batch and (size == 1 or origin != OPTION)):
                continue
            name = dim or f"axis {axis} of {spec.name!r}"
            known = found.get(name)
            inputs = (spec.name,) if known is None else (*known.inputs, spec.name)
            found[name] = InputSize(name, size, origin if known is None else known.origin, tuple(dict.fromkeys(inputs)))
    return tuple(found.values())


@contextmanager
def fitting(given: Given) -> Iterator[None]:
    """Context in which sizes that the graph cannot take are the user's, if there are any.

    Raises:
        InputError: the model cannot take the sizes that the user gave.
    """
    try:
        yield
    except SizesError as error:
        shapes = parse_shapes(given)
        if not shapes:
            raise
        names = " ".join(shown(name, shape) for name, shape in shapes.items())
        raise InputError(f"--shape {names}: {error}") from error

"""Checks output files before the work starts, so that hours of work are not lost to a wrong path."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.core.errors import InputError
from onnxprune.core.files import Place, place, refuse_inputs, same_file

if TYPE_CHECKING:
    from onnxprune.graph.model import Model


class Outputs:
    """The files that a command will write.

    Args:
        files: by option; None is not written, "-" is stdout.
        inputs: what the command reads: files, folders and other sources of data.
        models: the options of files that are to become models, which must be given.

    Raises:
        InputError: a file cannot be written, is an input, or two of them are one.
    """

    def __init__(
        self, files: Mapping[str, Path | None], inputs: Iterable[Path | str | None] = (), models: Iterable[str] = ()
    ) -> None:
        self._models = tuple(models)
        for name in self._models:
            if files[name] is None:
                raise InputError("give the file to write: -o OUT.onnx")
            if str(files[name]) == "-":
                raise InputError(f"{name} -: a model can only be written to a regular file; give a file name")
        self._places = {
            name: place(path, name, model=name in self._models)
            for name, path in files.items()
            if path is not None and str(path) != "-"
        }
        self._inputs = tuple(Path(source) for source in inputs if source is not None)
        self._refuse(self._inputs)
        seen: list[tuple[str, Place]] = []
        for name, goal in self._places.items():
            for other, earlier in seen:
                if goal.file is not None and earlier.file is not None and same_file(goal.file, earlier.file):
                    raise InputError(f"{name} and {other} are both {goal.path}")
            seen.append((name, goal))

    def guard(self, models: Iterable["Model"], data: Iterable[str | None] = ()) -> None:
        """Check again that no input is overwritten, once all input files are known.

        The first model is the one that is changed.

        Raises:
            InputError: an output is one of them, or the changed model cannot be written where it should.
        """
        from onnxprune.calibration.sources import files_of
        from onnxprune.structure.save import check_place

        models = list(models)
        read = [path for model in models for path in model.files]
        with suppress(OSError):  # said by whoever reads them
            read += [path for source in data if source is not None for path in files_of(source)]
        self._refuse(read)
        for name in self._models:
            check_place(models[0], self._places[name].path, self.protected(self._places[name].path), name)

    def protected(self, path: Path) -> tuple[Path, ...]:
        """The files that a model written to `path` must not overwrite: inputs and other outputs."""
        others = (goal.file for goal in self._places.values() if goal.path != path and goal.file is not None)
        return (*self._inputs, *others)

    def _refuse(self, read: Iterable[Path]) -> None:
        read = list(read)
        for name, goal in self._places.items():
            refuse_inputs(goal, read, name)


def names_of(output: Path, written: Iterable[Path]) -> str:
    """What the files of a model are called to the user, who may have reached them by a link."""
    return " and ".join(str(output.with_name(path.name)) for path in written) or str(output)

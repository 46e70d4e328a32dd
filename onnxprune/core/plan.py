"""A pruning plan: which units are removed, by group name, with conversion to and from JSON."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.core.errors import InputError
from onnxprune.core.files import place, read_text

PLAN_SCHEMA = 1
_MOST_UNITS = 1 << 31
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, repr=False)
class PrunePlan:
    """Which units are removed. Groups go by name, so that the plan fits any file of the same graph.

    Attributes:
        units: number of units per group name, before removal.
        removed: positions of removed units per group name, ascending; groups without removals may be absent.
        importance: the scorer that decided.
        scores: score in [0, 1] per unit and group name, for people; may be empty.
        widths: the rule that chose the widths that groups could be given, for people; may be empty.

    Example:
        ```python
        result = onnxprune.prune("model.onnx", "rows.npz", targets="macs=0.5")
        text = result.plan.to_json()
        again = onnxprune.prune("model.onnx", "rows.npz", plan=onnxprune.PrunePlan.from_json(text))
        ```
    """

    units: Mapping[str, int]
    removed: Mapping[str, tuple[int, ...]]
    importance: str = ""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    widths: str = ""

    def __repr__(self) -> str:
        gone = sum(len(positions) for positions in self.removed.values())
        return f"PrunePlan({gone} of {sum(self.units.values())} units go, by {self.importance or 'hand'})"

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        return json.dumps({"schema": PLAN_SCHEMA, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def read(cls, path: Path | str) -> "PrunePlan":
        """Read a plan from the file that `--plan-out` wrote, or `write`.

        Raises:
            InputError: the file cannot be read or is not a plan.
        """
        try:
            return cls.from_json(read_text(Path(path), _MOST_BYTES))
        except InputError as error:
            raise InputError(f"--plan {path}: {error}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"--plan {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def write(self, path: Path | str) -> None:
        """Write the plan to a file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        place(Path(path)).write(f"{self.to_json()}\n".encode())

    @classmethod
    def from_json(cls, text: str) -> "PrunePlan":
        """Read a plan.

        Raises:
            InputError: the text is not a plan of a known schema.
        """
        try:
            data = json.loads(text, parse_constant=_no_number)
            if data["schema"] != PLAN_SCHEMA:
                raise InputError(f"the plan has schema {data['schema']!r}; this version reads {PLAN_SCHEMA}")
            return cls(
                units={str(name): _whole(n) for name, n in data["units"].items()},
                removed={str(name): tuple(map(_whole, rows)) for name, rows in data["removed"].items()},
                importance=str(data.get("importance", "")),
                scores={str(name): tuple(float(s) for s in row) for name, row in data.get("scores", {}).items()},
                widths=str(data.get("widths", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"not a pruning plan of onnxprune ({type(error).__name__}: {error})") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _whole(value: object) -> int:
    """A number as an int; raises an error for anything but a whole number."""
    if type(value) is not int or not 0 <= value < _MOST_UNITS:
        raise ValueError(f"{value!r} is no number of units")
    return value

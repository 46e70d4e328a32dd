"""Where onnxruntime runs a model: the execution provider with its options, and the number of threads.

These are values, and only their form is checked; `runtime.providers` asks what the installed onnxruntime has.
"""

import dataclasses
import re
from dataclasses import dataclass

from onnxprune.core.errors import InputError

CPU_NAME = "cpu"
ROOM = 1 << 30  # bytes of a run's tensors without a bound on memory
_SUFFIX = "executionprovider"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FORM = "write NAME or NAME:key=value,key=value, for example openvino:device_type=CPU"


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of onnxruntime.

    Attributes:
        name: in lower case, without `ExecutionProvider`, for example "cuda".
        options: its options, sorted by name.
    """

    name: str = CPU_NAME
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Provider":
        """Parse a provider such as `cuda`, `CUDAExecutionProvider` or `openvino:device_type=CPU`.

        Raises:
            InputError: the text has another form.
        """
        given, colon, rest = text.strip().partition(":")
        name = given.strip().lower().removesuffix(_SUFFIX)
        if not _NAME.fullmatch(name):
            raise InputError(f"provider {text!r} has no name; {_FORM}")
        options: dict[str, str] = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not (key and equals and value):
                raise InputError(f"provider {text!r}: {part.strip()!r} is no key=value; {_FORM}")
            if key in options:
                raise InputError(f"provider {text!r}: {key!r} is given twice")
            options[key] = value
        return cls(name, tuple(sorted(options.items())))

    @property
    def is_cpu(self) -> bool:
        """Whether it is onnxruntime's own provider for the processor."""
        return self.name == CPU_NAME

    def __str__(self) -> str:
        listed = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name}:{listed}" if listed else self.name


@dataclass(frozen=True, slots=True)
class Engine:
    """How onnxruntime runs a model.

    Attributes:
        threads: threads inside an operator; 0 takes all cores.
        provider: what the operators run on, with the processor for those that it does not have.
    """

    threads: int = 0
    provider: Provider = dataclasses.field(default_factory=Provider)

    @property
    def on_one_thread(self) -> "Engine":
        """The same provider with one thread."""
        return dataclasses.replace(self, threads=1)


ALL_CORES = Engine()
"""The processor, all of its cores."""

ONE_CORE = Engine(1)
"""The processor, one thread."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options for running models and tasks, which scorers and repair use.

    Attributes:
        seed: of everything random.
        threads: for onnxruntime and linear algebra; 0 takes all cores.
        provider: execution provider of onnxruntime.
        room: bytes of a run's tensors that may be held in memory.
        cache: folder where finished steps are kept; None keeps none.
    """

    seed: int = 0
    threads: int = 0
    room: float = ROOM
    cache: str | None = None
    provider: Provider = dataclasses.field(default_factory=Provider)

    @property
    def engine(self) -> Engine:
        """How onnxruntime runs models."""
        return Engine(self.threads, self.provider)

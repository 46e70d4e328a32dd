"""Where a report comes from: files with hashes, command line, versions and machine."""

import hashlib
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.version import __version__


@dataclass(frozen=True, slots=True)
class FileMark:
    """A file's path, size and SHA-256 hash (None for folders and other sources)."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything needed to reproduce a report.

    Attributes:
        command: the command line; empty where the library was called.
        files: by role ("model", "output", "data", "eval", "plan").
        machine: processor, cores, system and Python.
        onnxprune: version.
    """

    command: str = ""
    files: Mapping[str, FileMark] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    onnxprune: str = __version__


def provenance(arguments: Sequence[str], **files: Path | str | None) -> Provenance:
    """Record the command line and the files by role."""
    return Provenance(
        command=shlex.join(["onnxprune", *arguments]) if arguments else "",
        files={role: mark(path) for role, path in files.items() if path is not None},
        machine={
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": str(os.cpu_count() or 1),
            "python": platform.python_version(),
        },
    )


def library_provenance(result: PruneOutcome) -> Provenance:
    """Where the result of a call comes from: no command line, and the files that were read."""
    models = () if result.original is None else result.original.files
    roles = [*(("model", path) for path in models[:1]), *(("data", path) for path in result.files[:1])]
    return provenance((), **dict(roles))


def mark(path: Path | str) -> FileMark:
    """Size and hash of a file; for other sources only the name."""
    if not Path(path).is_file():
        return FileMark(str(path))
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return FileMark(str(path), Path(path).stat().st_size, digest.hexdigest())


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

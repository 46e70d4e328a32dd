"""How much memory is free; checked before sizes stated in a file lead to large allocations."""

from pathlib import Path, PurePosixPath

from onnxprune.core.errors import InputError

_GROUP = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_FILE_PAGES = ("inactive_file", "active_file")


def available() -> int | None:
    """Bytes of memory that this process can still use; None where the system does not tell."""
    limits = [limit for limit in (_of_machine(), _of_group()) if limit is not None]
    return min(limits, default=None)


def require(size: int, what: str) -> None:
    """Raise an error if an allocation cannot fit into memory.

    Args:
        size: bytes that are about to be taken.
        what: what for; begins the message.

    Raises:
        InputError: there is less.
    """
    memory = available()
    if memory is not None and size > memory:
        raise InputError(f"{what} takes {size / 1e9:.3g} GB of memory, and {memory / 1e9:.3g} GB are free")


def _of_machine() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _of_group() -> int | None:
    """What the process's control group and all groups above it leave; None where none has a limit."""
    lines = [line.split(":", 2) for line in _read(_OWN_GROUP).splitlines()]
    own = next((PurePosixPath(parts[2]) for parts in lines if parts[:2] == ["0", ""]), PurePosixPath("/"))
    names = [name for name in own.parts[1:] if name != ".."]  # ".." where the group lies outside a container
    folders = [_GROUP.joinpath(*names[:depth]) for depth in range(len(names) + 1)]
    return min((free for folder in folders if (free := _left(folder)) is not None), default=None)


def _left(group: Path) -> int | None:
    """What one group leaves; pages of files count as free, as the system drops them when memory is short."""
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    entries = [line.split() for line in _read(group / "memory.stat").splitlines()]
    pages = sum(int(entry[1]) for entry in entries if len(entry) == 2 and entry[0] in _FILE_PAGES)
    return max(0, int(limit) - max(0, int(used) - pages))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""

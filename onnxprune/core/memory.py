"""How much memory is free; checked before sizes stated in a file lead to large allocations."""

from pathlib import Path

from onnxprune.core.errors import InputError

_GROUP = Path("/sys/fs/cgroup")


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
    limit, used = _read(_GROUP / "memory.max").strip(), _read(_GROUP / "memory.current").strip()
    return int(limit) - int(used) if limit.isdecimal() and used.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""

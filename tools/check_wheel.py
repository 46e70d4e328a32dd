"""Checks what a wheel holds: the package whole, and nothing else.

    python tools/check_wheel.py dist/onnxprune-*.whl

Uses the standard library only.
"""

import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

PACKAGE = Path(__file__).resolve().parents[1] / "onnxprune"
ALSO = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


def differences(wheel: Path) -> tuple[list[str], list[str]]:
    """What is missing in a wheel, and what should not be there."""
    held = {PurePosixPath(name) for name in ZipFile(wheel).namelist()}
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {PurePosixPath("onnxprune", *path.relative_to(PACKAGE).parts) for path in files}
    information = {path for path in held if path.parts[0].endswith(".dist-info") and path.name in ALSO}
    return sorted(map(str, wanted - held)), sorted(map(str, held - wanted - information))


if __name__ == "__main__":
    missing, further = differences(Path(sys.argv[1]))
    for name in missing:
        print(f"missing: {name}")
    for name in further:
        print(f"should not be there: {name}")
    sys.exit(bool(missing or further))

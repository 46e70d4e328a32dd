"""Run the cases and judge each by an oracle that knows nothing of the product's labels.

    python tools/check_cases.py [FOLDER] [--only NAME]... [--options TEXT] [--checkout FOLDER]

FOLDER holds small graphs rebuilt from bug reports (`cases` of the corpus), with `build.py` and `hostile.py`, which
write those that are not stored. Everything is written into a temporary folder. Exit code 1 where a case fails.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checks.bench import Bench, CaseError
from checks.cases import CASES
from checks.corpus import ROOT, corpus
from checks.hostile import HOSTILE
from checks.values import ORT_ERRORS

JUDGES = {**CASES, **{f"hostile/{name}": judge for name, judge in HOSTILE.items()}}
UNREADABLE: tuple[type[Exception], ...] = (ValueError, LookupError, OSError, *ORT_ERRORS)


def prepare(source: Path, work: Path) -> None:
    """Put all models into a folder: stored ones, and those that the two programs write."""
    for path in source.glob("*.onnx"):
        shutil.copyfile(path, work / path.name)
    for program, folder in (("build.py", work), ("hostile.py", work / "hostile")):
        subprocess.run([sys.executable, source / program, folder], check=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=corpus() / "cases")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"only this one: {', '.join(JUDGES)}")
    parser.add_argument("--options", default="", metavar="TEXT", help="more options of every prune")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the code to run; this by default")
    given = parser.parse_args(arguments)
    if not (given.folder / "build.py").exists():
        print(f"the cases are not at {given.folder} (set ONNXPRUNE_CORPUS)", file=sys.stderr)
        return 2
    for name in given.only or ():
        if name not in JUDGES:
            parser.error(f"there is no case {name!r}")
    failed = 0
    chosen = {name: judge for name, judge in JUDGES.items() if not given.only or name in given.only}
    with tempfile.TemporaryDirectory() as folder:
        prepare(given.folder, Path(folder))
        bench = Bench(Path(folder), shlex.split(given.options), given.checkout.resolve())
        for name, judge in chosen.items():
            began = time.perf_counter()
            try:
                seen, ok = judge(bench), True
            except CaseError as failure:
                seen, ok = str(failure), False
            except UNREADABLE as error:
                seen, ok = f"what was written cannot be judged: {type(error).__name__}: {error}", False
            failed += not ok
            print(f"{name:32}{'ok' if ok else 'FAILED':8}{time.perf_counter() - began:5.0f} s  {seen}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} as they should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

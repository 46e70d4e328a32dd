"""Compare what two checkouts do: seven prune runs with a fixed seed must give the same plan and the same file.

    python tools/compare_checkouts.py FIRST SECOND [--keep FOLDER] [--only NAME]... [--options-second=--no-time]

Both run in subprocesses of this interpreter. Runs whose model the corpus would hold are left out, and said, where it
is absent. `--keep` keeps what the first checkout made and takes it from there as long as the code of that checkout, the
options, the inputs and the installed packages stay as they were. Exit code 1 where anything differs.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from benchmark_peers.cases import IMAGENET_MEAN, IMAGENET_STD, cifar10, imagenet_sample
from checks import difference
from checks.command import onnxprune, variables
from checks.corpus import corpus

PACKAGES = ("numpy", "scipy", "onnx", "onnx-graphsurgeon", "onnxruntime", "pyscipopt")
FIXED = ("--threads", "1", "--seed", "0", "--round-to", "1")
MNIST = "--mean 0.1307 --std 0.3081"
CIFAR = f"--mean {','.join(map(str, IMAGENET_MEAN))} --std {','.join(map(str, IMAGENET_STD))}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        name: its name.
        model: the model, below the first checkout or the corpus.
        data: the calibration rows, below the same folder, or how they are made from the corpus; None for none.
        options: the other options.
        shipped: whether model and data come with the project.
    """

    name: str
    model: str
    data: str | Callable[[Path], np.ndarray] | None
    options: str
    shipped: bool = False


def cifar_rows(folder: Path) -> np.ndarray:
    """200 training images, uint8."""
    return cifar10(folder, 200).train_x


def imagenet_rows(folder: Path) -> np.ndarray:
    """16 images, uint8."""
    return imagenet_sample(folder, 16).train_x


EFFICIENTNET = "models/efficientnet_lite0/efficientnet_lite0_imagenet.onnx"
SHIPPED = "models/mnist_calibration.npz"
RUNS = (
    Run("lenet5-oamip", "models/lenet5_mnist.onnx", SHIPPED, f"--importance oamip {MNIST}", shipped=True),
    Run("fc3", "models/fc3_mnist.onnx", SHIPPED, f"--target params=0.2 --images 500 {MNIST}", shipped=True),
    Run(
        "resnet20",
        "models/cifar10_resnet_akamaster/resnet20_cifar10.onnx",
        cifar_rows,
        f"--target macs=0.5 {CIFAR}",
    ),
    Run(
        "efficientnet-magnitude",
        EFFICIENTNET,
        imagenet_rows,
        "--target macs=0.8 --importance magnitude --no-repair --mean 127 --std 128 --scale 1",
    ),
    Run("vit", "models/vnncomp2023/ibp_3_3_8.onnx", cifar_rows, f"--target macs=0.7 {CIFAR}"),
    Run("unet", "small/un_ts.onnx", "small/un_calib.npz", "--target macs=0.5"),
    Run("lossless", EFFICIENTNET, None, "--lossless"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A run's files and options, the same for both sides.

    Attributes:
        model: the model's file.
        data: the calibration rows; None for none.
        options: the other options.
    """

    model: Path
    data: Path | None
    options: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """The command's arguments."""
        data = [] if self.data is None else ["--data", str(self.data)]
        return ["prune", str(self.model), *data, *self.options]


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout and the options that only it gets."""

    checkout: Path
    options: tuple[str, ...]

    def check(self) -> None:
        """Stop unless the interpreter takes the package from the checkout."""
        program = "import onnxprune; print(onnxprune.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=variables(self.checkout),
            capture_output=True,
            text=True,
            check=False,
        )
        if not Path(done.stdout.strip()).is_relative_to(self.checkout):
            sys.exit(f"{self.checkout}: holds no package onnxprune ({done.stdout.strip() or done.stderr.strip()})")

    def run(self, job: Job, folder: Path) -> str:
        """Put plan.json and model.onnx into a folder; why there are none, or an empty text."""
        written = ("-o", folder / "model.onnx", "--plan-out", folder / "plan.json")
        done = onnxprune([*job.arguments, *self.options, *written], folder, checkout=self.checkout)
        print(f"  {self.checkout}: {done.seconds:.0f} s", file=sys.stderr)
        return "" if done.code == 0 else f"exit code {done.code}: {done.message}"

    def key(self, job: Job) -> str:
        """A text that is another one as soon as the code, the options, the inputs or the packages are."""
        digest = hashlib.sha256(json.dumps([*job.options, *self.options, sys.version]).encode())
        for package in PACKAGES:
            digest.update(metadata.version(package).encode())
        for path in (job.model, job.data, *sorted((self.checkout / "onnxprune").rglob("*.py"))):
            digest.update(b"none" if path is None else path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def kept(self, job: Job, folder: Path) -> str:
        """As `run`, but what lies in the folder is taken where it was made by the same code, options and inputs."""
        key, note = self.key(job), folder / "made_by.json"
        if note.exists() and (held := json.loads(note.read_text()))["key"] == key:
            return str(held["failed"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        failed = self.run(job, folder)
        note.write_text(json.dumps({"key": key, "failed": failed, "options": [*job.options, *self.options]}, indent=1))
        return failed


def job_of(run: Run, first: Path, work: Path) -> Job | str:
    """What a run needs; or why it cannot be made."""
    root = first if run.shipped else corpus()
    model = root / run.model
    if not model.exists():
        return f"{run.model} is not at {root}"
    options = (*FIXED, *shlex.split(run.options))
    if run.data is None or isinstance(run.data, str):
        return Job(model, None if run.data is None else root / run.data, options)
    data = work / f"{run.data.__name__}.npz"
    if not data.exists():
        np.savez(data, x=run.data(root))
    return Job(model, data, options)


def compare(run: Run, first: Side, second: Side, work: Path, keep: Path) -> tuple[bool, str]:
    """Whether both did the same, and what was seen."""
    job = job_of(run, first.checkout, work)
    if isinstance(job, str):
        return True, f"left out: {job}"
    old, new = keep / run.name, work / "second" / run.name
    new.mkdir(parents=True)
    failed = first.kept(job, old), second.run(job, new)
    if any(failed):
        return False, " | ".join(text or "done" for text in failed)
    plan = difference.plans((old / "plan.json").read_bytes(), (new / "plan.json").read_bytes())
    file = difference.files(old / "model.onnx", new / "model.onnx")
    return not (plan or file), f"plan: {plan or 'same bytes'}; file: {file or 'same bytes'}"


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the first checkout's results here")
    parser.add_argument("--only", action="append", choices=[run.name for run in RUNS], help="only this run")
    parser.add_argument("--options-first", default="", metavar="TEXT", help="more options for the first checkout")
    parser.add_argument("--options-second", default="", metavar="TEXT", help="more options for the second checkout")
    given = parser.parse_args(arguments)
    first = Side(given.first.resolve(), tuple(shlex.split(given.options_first)))
    second = Side(given.second.resolve(), tuple(shlex.split(given.options_second)))
    for side in (first, second):
        side.check()
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        keep = given.keep.resolve() if given.keep else work / "first"
        for run in RUNS:
            if given.only and run.name not in given.only:
                continue
            same, told = compare(run, first, second, work, keep)
            different += not same
            print(f"{run.name:24}{'same' if same else 'DIFFERENT':12}{told}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The tutorial in CONTRIBUTING.md works as it is printed: files in an empty folder, and nothing else touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.ops.examples import example

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
FILES = ("cast_like.py", None, "contrib_trilu.py", "peak.py")
PLUGINS = ("--plugin", "cast_like", "--plugin", "contrib_trilu", "--plugin", "peak")
ENTRY_POINTS = """[onnxprune.operators]
cast_like = cast_like:CastLike
trilu = contrib_trilu:ContribTrilu

[onnxprune.scorers]
peak = peak:peak
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stranger has after following the tutorial."""
    folder = tmp_path_factory.mktemp("stranger")
    assert len(BLOCKS) == len(FILES)
    for name, text in zip(FILES, BLOCKS, strict=True):
        if name is not None:
            assert f"`{name}`" in TEXT
            (folder / name).write_text(text)
    return folder


def python(folder: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(folder: Path, *arguments: str, also: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command run in a folder, with a further folder of installed packages."""
    line, paths = [sys.executable, "-m", "onnxprune", *arguments], os.environ.get("PYTHONPATH", "")
    environment = os.environ if also is None else os.environ | {"PYTHONPATH": os.pathsep.join([str(also), paths])}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_printed_test_passes(folder: Path) -> None:
    assert "check_operator(" in BLOCKS[1]
    assert python(folder, BLOCKS[1]) == ""


@pytest.mark.parametrize("module", ["cast_like", "contrib_trilu"])
def test_handlers_pass_the_contract(folder: Path, module: str) -> None:
    python(
        folder,
        f"import {module}\nfrom onnxprune.ops.base import OpHandler\nfrom onnxprune.testing import check_operator\n"
        f"(kind,) = [v for v in vars({module}).values() if isinstance(v, type) and v.__module__ == {module!r}]\n"
        "check_operator(kind())",
    )


@pytest.fixture(scope="module")
def options(folder: Path) -> tuple[str, ...]:
    """Options for a model with two operators that only the tutorial's handlers know."""
    text = """g (float[N,3,6,6] x) => (float[N,4] y) {
        h = Conv (x, w1, b1)
        c = CastLike (h, one)
        r = Relu (c)
        t = com.microsoft.Trilu (r)
        i = Conv (t, w2, b2)
        s = Relu (i)
        p = GlobalAveragePool (s)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w3) }"""
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "b2": (6,), "w3": (4, 6), "one": (1,)}
    proto = example(text, shapes, domain="com.microsoft", full_check=False)
    onnx.save(proto, folder / "model.onnx")
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32))
    common = ("prune", "model.onnx", "--data", "rows.npy", "--target", "macs=0.6", "--round-to", "1", "--seed", "0")
    return (*common, "--threads", "1", "--strict", "--no-time")


def check_smaller(done: subprocess.CompletedProcess[str], path: Path) -> None:
    """The run went through, and removed channels in front of both operators."""
    assert done.returncode == 0, done.stderr
    sizes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}
    assert sizes["w1"][0] < 8
    assert sizes["b1"] == sizes["w1"][:1]


def test_a_plugin_reaches_the_command_line_and_its_workers(folder: Path, options: tuple[str, ...]) -> None:
    without = command(folder, *options, "-o", "without.onnx")
    assert without.returncode == 3
    assert "CastLike" in without.stderr or "Trilu" in without.stderr
    for number, more in enumerate((("--importance", "peak"), ("--executor", "processes", "--workers", "2"))):
        done = command(folder, *options, *PLUGINS, *more, "-o", f"small{number}.onnx")
        check_smaller(done, folder / f"small{number}.onnx")


CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        print(local.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_a_plugin_reaches_the_workers_of_a_cluster(folder: Path, options: tuple[str, ...], tmp_path: Path) -> None:
    """They and their scheduler find its module, as on a cluster where it is installed."""
    pytest.importorskip("distributed")
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    # In a process of its own: a scheduler imports the plug-in, which other tests must not find.
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=paths
    ) as cluster:
        assert cluster.stdout is not None
        spec = "dask://" + cluster.stdout.readline().strip().removeprefix("tcp://")
        done = command(folder, *options, *PLUGINS, "--executor", spec, "-o", "cluster.onnx")
        cluster.communicate("")
    check_smaller(done, folder / "cluster.onnx")


@pytest.fixture(scope="module")
def installed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like `site-packages`, with an installed distribution that offers the tutorial's operators and scorer."""
    site = tmp_path_factory.mktemp("site")
    for name in ("cast_like.py", "contrib_trilu.py", "peak.py"):
        kept = [line for line in (folder / name).read_text().splitlines() if not line.startswith("onnxprune.register")]
        (site / name).write_text("\n".join([*kept, *(["peak.needs_data = False"] if name == "peak.py" else [])]))
    distribute(site, "stranger", ENTRY_POINTS)
    return site


def distribute(site: Path, name: str, points: str) -> None:
    """Write what an installer would: the metadata of a distribution, with its entry points."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_an_installed_package_needs_no_plugin_option(
    folder: Path, options: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "rows.npy"):  # away from the modules of the tutorial
        shutil.copy(folder / name, tmp_path)
    for number, more in enumerate((("--importance", "peak"), ("--executor", "processes", "--workers", "2"))):
        done = command(tmp_path, *options, *more, "-o", f"installed{number}.onnx", also=installed)
        check_smaller(done, tmp_path / f"installed{number}.onnx")
    scored = command(tmp_path, "score", "model.onnx", "--importance", "peak", also=installed)
    assert scored.returncode == 0, scored.stderr
    assert "CastLike" in command(tmp_path, "ops", also=installed).stdout
    assert "CastLike" not in command(tmp_path, "ops").stdout


@pytest.mark.parametrize(
    ("group", "line"),
    [("operators", ("ops",)), ("scorers", ("score", "model.onnx", "--importance", "broken"))],
)
def test_a_broken_package_is_named_in_one_line(
    folder: Path, options: tuple[str, ...], tmp_path: Path, group: str, line: tuple[str, ...]
) -> None:
    distribute(tmp_path, "broken", f"[onnxprune.{group}]\nbroken = no_module_of_this_name:Handler\n")
    done = command(folder, *line, also=tmp_path)
    assert done.returncode == 2
    assert "no_module_of_this_name" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_plugin_that_is_missing_is_one_line(folder: Path) -> None:
    done = command(folder, "ops", "--plugin", "nothing_of_the_kind")
    assert done.returncode == 2
    assert "nothing_of_the_kind" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_help_names_registered_scorers(folder: Path) -> None:
    done = command(folder, "prune", "model.onnx", "--plugin", "peak", "--importance", "pek", "--target", "macs=0.5")
    assert done.returncode == 2
    assert "peak" in done.stderr


def test_a_function_in_place_of_a_scorers_name(folder: Path) -> None:
    code = """
from onnxprune import prune
from onnxprune.ops.examples import example
import peak
model = example("g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1) r = Relu (h) y = Gemm (r, w2) }",
                {"w1": (6, 8), "w2": (8, 3)})
by_function = prune(model, importance=peak.peak, targets="params=0.5", repair=False)
by_name = prune(model, importance="peak", targets="params=0.5", repair=False)
assert by_function.plan.to_json() == by_name.plan.to_json()
print(by_name.plan.importance)
"""
    assert python(folder, code).strip() == "peak"

"""The hostile cases: damaged models, data, plans and functions, and unlucky surroundings.

What must be refused is refused within seconds, in one line, with the exit code of its kind, and leaves nothing behind.
What must work works.
"""

import itertools
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from checks.bench import Bench, Judge, check, told
from checks.command import Finished, finish, variables
from checks.values import outputs

LIMIT_S = 10.0
_HANGS_S = 60.0  # on a machine that does other things too
MAGNITUDE = "--importance magnitude --no-repair --target macs=0.6"
RECONSTRUCTION = "--target macs=0.6"
_LONGEST = 2000
_ESCAPES = (b"\x1b]0;", b"\x07", b"\x1b[2J", b"\x1b[1;1H")


class Place:
    """A run's surroundings: the hostile files, an empty folder for its output and one for temporary files."""

    def __init__(self, bench: Bench) -> None:
        self.files = bench.folder / "hostile"
        self.folder, self.temporary = bench.result_folder(), bench.result_folder()
        self.output = self.folder / "out.onnx"
        self.options = bench.options
        self.environment = variables(bench.checkout) | {"TMPDIR": str(self.temporary)}

    def prune(
        self, model: str, options: str, *, here: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `prune --quiet`; `@` in the options stands for the folder of the hostile files."""
        words = shlex.split(options.replace("@", f"{self.files}/"))
        words += ["-o", str(self.output), "--threads", "1", "--quiet", *self.options]
        command = [sys.executable, "-m", "onnxprune", "prune", str(self.files / f"{model}.onnx"), *words]
        return finish(command, here or self.folder, self.environment | dict(environment or {}), _HANGS_S)

    def in_shell(self, script: str) -> Finished:
        """Run a line of bash; `PRUNE` in it stands for `prune` on the plain model."""
        command = [sys.executable, "-m", "onnxprune", "prune", str(self.files / "plain.onnx"), "-o", str(self.output)]
        command += ["--threads", "1", "--quiet", *shlex.split(MAGNITUDE), *self.options]
        line = script.replace("PRUNE", shlex.join(command))
        return finish(["bash", "-c", line], self.folder, self.environment, _HANGS_S)

    def leftovers(self) -> list[str]:
        """What lies in the two folders, beside the output."""
        found = [*self.folder.iterdir(), *self.temporary.iterdir()]
        return sorted(path.name for path in found if path != self.output)

    def sound(self, done: Finished) -> str:
        """The run is done, and its file runs.

        Raises:
            CaseError: one of it does not hold.
        """
        check(done.code == 0, told(done))
        check(self.output.exists(), f"{told(done)}, no file was written")
        graph = onnx.load(self.output).graph
        dims = [dim.dim_value or 4 for dim in graph.input[0].type.tensor_type.shape.dim]
        check(outputs(self.output, {"x": np.ones(dims, np.float32)})[0].shape == (dims[0], 4), "the file does not run")
        return "done"


def in_time(done: Finished) -> None:
    """Stop unless a run took at most 10 s of processor time."""
    check(done.code is not None, f"no end within {_HANGS_S:.0f} s")
    check(done.cpu_s <= LIMIT_S, f"{told(done)}, after {done.cpu_s:.0f} s")


def one_line(done: Finished) -> None:
    """Stop unless stderr is one clear line."""
    check(b"internal error" not in done.err and b"Traceback" not in done.err, told(done))
    check(len(done.lines) == 1, f"{told(done)} ({len(done.lines)} lines)")
    check(len(done.err) <= _LONGEST, f"a line of {len(done.err)} bytes: {told(done)}")
    check(not any(byte < 32 and byte not in (10, 13) for byte in done.err), f"control bytes in {told(done)!r}")


def refused(model: str, code: int, options: str = MAGNITUDE, names: str = "", *, inside: bool = False) -> Judge:
    """The run is refused; `names` stands in the message; `inside`: it runs in the folder of the files."""

    def judge(bench: Bench) -> str:
        place = Place(bench)
        before = sorted(place.files.iterdir())
        done = place.prune(model, options, here=place.files if inside else None)
        in_time(done)
        check(done.code == code, told(done))
        one_line(done)
        check(names in done.message, f"{names!r} is not named: {told(done)}")
        check(not place.output.exists(), f"{told(done)}, but a file was written")
        caches = [path for path in place.files.iterdir() if path.name == "__pycache__"]
        left = place.leftovers() + [path.name for path in place.files.iterdir() if path not in before + caches]
        check(not left, f"left behind: {left}")
        return told(done)

    return judge


def works(model: str, options: str = MAGNITUDE, *, inside: bool = False) -> Judge:
    """The run is done."""

    def judge(bench: Bench) -> str:
        place = Place(bench)
        return place.sound(place.prune(model, options, here=place.files if inside else None))

    return judge


def if_external(bench: Bench) -> str:
    """A tensor inside an If body is looked up beside the model, wherever the command runs."""
    place = Place(bench)
    for here in (place.files, place.folder):
        done = place.prune("if_external", MAGNITUDE, here=here)
        check(done.code == 0, f"from {'its own' if here == place.files else 'another'} folder: {told(done)}")
        rows = {"x": np.ones((4, 8), np.float32)}
        shapes = [
            made[0].shape for made in (outputs(place.files / "if_external.onnx", rows), outputs(place.output, rows))
        ]
        check(shapes[0] == shapes[1], "the file makes other outputs")
        for path in (*place.folder.iterdir(),):
            path.unlink()
    return "done from two folders"


def infinite(bench: Bench) -> str:
    """Infinite weights with a report to look at: done, or one line before any file is written."""
    place = Place(bench)
    page = place.folder / "page.html"
    done = place.prune("infinite", f"{MAGNITUDE} --html {page}")
    if done.code == 0:
        check(page.exists() and place.output.exists(), "exit 0, but a file is missing")
        return "done"
    in_time(done)
    one_line(done)
    check(not place.output.exists() and not place.leftovers(), f"{told(done)}, but files were written")
    return told(done)


def closed_output(bench: Bench) -> str:
    """Nobody takes stdout: the work is done."""
    place = Place(bench)
    return place.sound(place.in_shell("PRUNE >&-"))


def linked_output(bench: Bench) -> str:
    """A report to a link to a descriptor is written through it, and the link stays."""
    place = Place(bench)
    link, report = place.folder / "stdout", place.folder / "report.json"
    link.symlink_to("/proc/self/fd/1")
    done = place.in_shell(f"PRUNE --json {link} > {report} 2> {place.folder / 'messages'}")
    check(link.is_symlink(), f"{told(done)}, the link was replaced")
    place.sound(done)
    check(report.read_text().startswith("{"), "the report is not where the descriptor leads")
    return "written through, the link stays"


def full_output(bench: Bench) -> str:
    """The report cannot be written: the work is done, and one line says so."""
    place = Place(bench)
    done = place.in_shell("PRUNE --json - > /dev/full")
    check(place.output.exists(), f"{told(done)}, no model was written")
    one_line(done)
    return told(done)


def no_cache_folder(bench: Bench) -> str:
    """The user's cache folder cannot be made: kernel times are measured all the same."""
    place = Place(bench)
    (place.folder / "file").write_text("")
    options = "--importance magnitude --no-repair --data @sound.npz --target latency=0.999"
    done = place.prune("plain", options, environment={"XDG_CACHE_HOME": str(place.folder / "file" / "cache")})
    if done.code == 4:  # a model of microseconds: a budget in time may be out of reach, which is no fault here
        return told(done)
    return place.sound(done)


def on_terminal(name: str, model: str) -> Judge:
    """Names with control bytes are shown, not sent: to a terminal, and to a pipe."""

    def judge(bench: Bench) -> str:
        place = Place(bench)
        words = [name, str(place.files / f"{model}.onnx")]
        if name == "prune":
            words += ["-o", str(place.output), "--threads", "1", *shlex.split(MAGNITUDE), "--strict"]
        command = [sys.executable, "-m", "onnxprune", *words]
        piped = finish([*command, "--verbose"], place.folder, place.environment, _HANGS_S)
        shown = _shown(command, place.folder, place.environment)
        for where, text in (("a pipe", piped.out + piped.err), ("a terminal", shown)):
            sent = [escape for escape in _ESCAPES if escape in text]
            check(not sent, f"sent to {where}: {sent}")
        check(b"internal error" not in piped.err, told(piped))
        return f"nothing sent; {told(piped)}"

    return judge


def _shown(command: list[str], folder: Path, environment: Mapping[str, str]) -> bytes:
    """All that a command writes to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**environment, "TERM": "xterm"})
    found = b""
    try:
        while piece := os.read(terminal, 65536):
            found += piece
    except OSError:  # the other end is closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return found


def damaged_cache(bench: Bench) -> str:
    """A cached file with one changed bit, or of another step under its name, is computed anew."""
    place = Place(bench)
    cache = place.folder / "cache"
    rows = np.random.default_rng(2).standard_normal((64, 8)).astype(np.float32)
    np.save(place.folder / "rows.npy", rows)
    options = f"{RECONSTRUCTION} --data {place.folder / 'rows.npy'} --cache {cache}"
    place.sound(place.prune("plain", options))
    wanted, held = (
        place.output.read_bytes(),
        {path: path.read_bytes() for path in sorted(cache.iterdir()) if path.is_file()},
    )
    check(bool(held), "nothing was cached")
    rng = np.random.default_rng(0)
    turns = [("one flipped bit", {path: _flipped(data, rng) for path, data in held.items()}) for _ in range(3)]
    turns.append(
        ("the file of another step", dict(zip(held, [*held.values()][1:] + [*held.values()][:1], strict=True)))
    )
    for name, files in turns:
        for path, data in files.items():
            path.write_bytes(data)
        place.output.unlink()
        done = place.prune("plain", options)
        check(done.code == 0, f"{name}: {told(done)}")
        check(place.output.read_bytes() == wanted, f"{name}: another file was written")
    return f"{len(held)} cached files, the same model each time"


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def damaged_times(bench: Bench) -> str:
    """Cached kernel times that cannot be are measured anew."""
    place = Place(bench)
    cache = place.folder / "cache"
    options = f"--importance magnitude --no-repair --target latency=0.999 --data @sound.npz --latency-cache {cache}"
    first = place.prune("plain", options)
    check(first.code in (0, 4), told(first))
    for value in ("NaN", "0", "-5", "Infinity", "1e300"):
        for path in cache.iterdir():
            held = json.loads(path.read_text())
            check(bool(held["times"]), "no times were cached")
            text = json.dumps({**held, "times": dict.fromkeys(held["times"], "@")})
            path.write_text(text.replace('"@"', value))
        done = place.prune("plain", options)
        check(done.code in (0, 4), f"{value}: {told(done)}")
        for path in cache.iterdir():
            times = np.array([*json.loads(path.read_text())["times"].values()], np.float64)
            check(bool(((times > 0) & (times < 1e6)).all()), f"{value}: kept, the run ended with {told(done)}")
    return "measured anew"


def interrupted(number: int) -> Judge:
    """A signal while the file is written leaves nothing beside the output."""

    def judge(bench: Bench) -> str:
        place = Place(bench)
        source = place.folder.parent / "large.onnx"
        if not source.exists():
            _large(source)
        words = ["prune", source, "-o", place.output, *shlex.split(MAGNITUDE), "--threads", "1", "--quiet"]
        command = [sys.executable, "-m", "onnxprune", *map(str, words), *bench.options]
        process = subprocess.Popen(command, cwd=place.folder, env=place.environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(map(_is_large, place.folder.iterdir())):
            time.sleep(0.0005)
        seen = [path.name for path in place.folder.iterdir()]
        process.send_signal(number)
        code = process.wait()
        check(place.output.name not in seen, "the file appeared at once: no moment to interrupt")
        whole = [place.output.name] if place.output.exists() else []
        left = sorted(path.name for path in place.folder.iterdir())
        check(left == whole, f"exit {code}, left behind: {left}")
        check(not any(place.temporary.iterdir()), f"left behind: {[path.name for path in place.temporary.iterdir()]}")
        return f"exit {code} while {seen} was written, nothing left"

    return judge


def _is_large(path: Path) -> bool:
    """Whether a file holds part of the model already: a probe for room in the folder is empty."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _large(path: Path) -> None:
    """A dense network of 100 MB."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((64, 5000), (5000, 5000), (5000, 4))]
    names = ["x", "a", "b", "y"]
    nodes = []
    for position, (source, target) in enumerate(itertools.pairwise(names)):
        nodes.append(helper.make_node("MatMul", [source, f"w{position}"], [f"{target}0" if position < 2 else target]))
        if position < 2:
            nodes.append(helper.make_node("Relu", [f"{target}0"], [target]))
    inputs = [helper.make_tensor_value_info("x", 1, ["N", 64])]
    made = [helper.make_tensor_value_info("y", 1, ["N", 4])]
    held = [numpy_helper.from_array(weight, f"w{position}") for position, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", inputs, made, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


EXTERNAL = ("2p32x2p32", "2p62x4", "0x2p62", "type_0", "type_30", "nul", "long")
HOSTILE: Mapping[str, Judge] = {
    "string_external": refused("string_external", 3),
    **{f"external_{name}": refused(f"external_{name}", 3) for name in EXTERNAL},
    "function_recursive": refused("function_recursive", 3),
    "function_laughs": refused("function_laughs", 3),
    **{
        name: refused("plain", 2, f"{RECONSTRUCTION} --data @{name}", name)
        for name in ("rows_negative.npy", "rows_2p64.npy", "zip_method.npz", "zip_encrypted.npz")
    },
    **{name: refused("plain", 2, f"--plan @{name}", name) for name in ("plan_inf.json", "plan_deep.json")},
    **{
        f"{name}:f": refused("plain", 2, f"{RECONSTRUCTION} --data {name}:f", name, inside=True)
        for name in ("exits", "raises", "syntax")
    },
    "if_external": if_external,
    "batch16": works("batch16", f"{RECONSTRUCTION} --data @rows16.npy"),
    "lazy:f": works("plain", f"{RECONSTRUCTION} --data lazy:f", inside=True),
    "infinite": infinite,
    "closed_stdout": closed_output,
    "linked_stdout": linked_output,
    "full_stdout": full_output,
    "no_cache_folder": no_cache_folder,
    **{
        f"{model}/{command}": on_terminal(command, model)
        for model in ("escape_node", "escape_op")
        for command in ("inspect", "prune")
    },
    "damaged_cache": damaged_cache,
    "damaged_times": damaged_times,
    "SIGTERM": interrupted(signal.SIGTERM),
    "SIGHUP": interrupted(signal.SIGHUP),
}

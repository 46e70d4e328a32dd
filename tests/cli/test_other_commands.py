import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.cli import config_file
from onnxprune.cli.command import known_sections
from onnxprune.cli.commands import COMMANDS, commands
from onnxprune.cli.options import build, options
from onnxprune.ops.examples import example


def test_inspect(run, schema, lenet: Path) -> None:
    done = run("inspect", lenet, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert report["before"] == {"params": 61706, "macs": 416520, "bytes": 246824}
    assert sum(layer["macs"] for layer in report["layers"]) == report["before"]["macs"]
    assert sum(layer["params"] for layer in report["layers"]) == report["before"]["params"]
    assert {"onnxprune", "onnx", "onnxruntime"} <= report["versions"].keys()
    assert (report["prunable"], report["units"]) == (6 + 16 + 120 + 84, 6 + 16 + 120 + 84 + 10)
    assert [(item["tensor"], item["reason"], item["node"]) for item in report["not_pruned"]] == [
        ("logits", "it is an output of the model", "")
    ]
    for part in ("/conv2/Conv", "226 of 236 channels", "it is an output of the model"):
        assert part in done.stderr


def test_what_was_asked_for_is_on_stdout(run, lenet: Path, calibration: Path, tmp_path: Path) -> None:
    """`inspect model.onnx > layers.txt` wrote an empty file: all text went to stderr."""
    times = ("--seconds", 0, "--rounds", 1, "--no-memory")
    asked = {
        "can be pruned": ("inspect", lenet),
        "relative": ("bench", lenet, *times),
        "agreement with the original": ("validate", lenet, lenet, "--data", calibration, "--images", 50, "--no-time"),
        "median": ("score", lenet, "--importance", "magnitude"),
    }
    for part, words in asked.items():
        plain = run(*words, "--json", tmp_path / "report.json")
        assert part in plain.stdout
        assert plain.stderr.splitlines() == [f"written {tmp_path / 'report.json'}"]
        machine = run(*words, "--json", "-")
        assert json.loads(machine.stdout)["command"] == words[0]
        assert part in machine.stderr
        assert (run(*words, "--quiet").stdout, run(*words, "--quiet").stderr) == ("", "")


def test_text_on_a_full_disk_is_an_error_and_a_reader_who_leaves_is_none(command, environment, lenet: Path) -> None:
    words = command("inspect", lenet)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device here that is always full")
    with full.open("w") as stream:
        done = subprocess.run(words, env=environment(), stdout=stream, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.count(b"stdout cannot be written")) == (2, 1)


def test_inspect_writes_json_to_a_file(run, schema, lenet: Path, tmp_path: Path) -> None:
    done = run("inspect", lenet, "--json", "report.json", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), schema)


def test_validate_a_model_with_itself(run, schema, lenet: Path, digits: Path) -> None:
    done = run("validate", lenet, lenet, "--data", digits, "--json", "-", "--images", 200, "--max-drop", 0)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert report["rows"] == 200
    assert report["metrics"]["agreement"] == {"before": 1.0, "after": 1.0}
    assert report["metrics"]["top1"]["before"] == report["metrics"]["top1"]["after"] > 0.9
    assert report["before"] == report["after"]
    assert report["time"]["after_ms"] > 0


def test_validate_leaves_out_the_time(run, schema, lenet: Path, digits: Path) -> None:
    done = run("validate", lenet, lenet, "--data", digits, "--json", "-", "--images", 50, "--no-time")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert "time" not in report


def test_validate_fails_below_the_floor(run, lenet: Path, digits: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse.onnx"
    done = run(
        *("prune", lenet, "-o", worse, "--importance", "random", "--target", "macs=0.2"),
        *("--no-repair", "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    done = run("validate", lenet, worse, "--data", digits, "--max-drop", 1, "--images", 200)
    assert done.returncode == 5
    assert "top-1 accuracy falls by" in done.stderr.splitlines()[-1]


def test_validate_refuses_a_floor_that_finds_nothing_to_judge(run, tmp_path: Path) -> None:
    """A build passed whose rows told nothing."""
    text = "g (float[N,4] x) => (float[N,2] y) { h = MatMul (x, w) a = Abs (h) n = Neg (a) y = Sigmoid (n) }"
    onnx.save(example(text, {"w": (4, 2)}), tmp_path / "model.onnx")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32))
    done = run("validate", "model.onnx", "model.onnx", "--data", "rows.npy", "--max-drop", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert "--max-drop finds nothing to judge" in done.stderr


def test_validate_refuses_a_model_of_other_inputs(run, lenet: Path, tmp_path: Path) -> None:
    onnx.save(example("g (float[N,4] input) => (float[N,4] y) { y = Relu (input) }"), tmp_path / "model.onnx")
    done = run("validate", lenet, tmp_path / "model.onnx", "--data", "random")
    assert done.returncode == 2
    assert "give two models of one task" in done.stderr


def test_score(run, schema, lenet: Path) -> None:
    done = run("score", lenet, "--importance", "magnitude", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    for group in report["groups"]:
        assert len(group["scores"]) == group["units"] == len(group["order"])
        assert all(0 <= score <= 1 for score in group["scores"])
        assert sorted(group["order"]) == list(range(group["units"]))


def test_score_says_what_can_go_without_loss(run, lenet: Path, tmp_path: Path) -> None:
    """Their scores of zero stood there without a reason."""
    proto = onnx.load(lenet)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("conv1."):
            values = np.array(numpy_helper.to_array(tensor))
            values[2] = -1.0 if tensor.name.endswith("bias") else 0.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, tmp_path / "silent.onnx")
    done = run("score", tmp_path / "silent.onnx", "--importance", "magnitude", "--json", "-")
    notes = json.loads(done.stdout)["notes"]
    assert "1 unit can go without loss: 1 constant for every input" in notes


def test_random_data_are_announced(run, lenet: Path, tmp_path: Path) -> None:
    arguments = ("--importance", "activation", "--data", "random", "--json", "-")
    for words in (("prune", lenet, "-o", "a.onnx", "--target", "macs=0.9", "--no-repair"), ("score", lenet)):
        done = run(*words, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "WARNING: the inputs are random noise" in done.stderr
        assert any("random noise" in note for note in json.loads(done.stdout)["warnings"])


def test_bench(run, schema, lenet: Path) -> None:
    done = run("bench", lenet, lenet, "--seconds", 0, "--rounds", 2, "--no-memory", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    first, second = report["models"]
    assert first["ratio"] == 1
    assert first["file_bytes"] == second["file_bytes"] > 240_000
    assert first["peak_bytes"] is None
    assert "2 interleaved rounds after 3 to warm up" in done.stderr


def test_finetune(run, schema, lenet: Path, calibration: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run(
        *("finetune", lenet, "-o", "tuned.onnx", "--data", calibration, "--teacher", lenet, "--epochs", 1),
        *("--images", 40, "--json", "-"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert [epoch["number"] for epoch in report["history"]] == [0, 1]
    assert report["settings"]["epochs"] == 1
    assert (tmp_path / "tuned.onnx").exists()
    assert "written tuned.onnx" in done.stderr


def test_template_is_toml_and_names_every_option(run) -> None:
    done = run("config")
    assert run("config", "--template").stdout == done.stdout
    assert done.returncode == 0
    assert not any(tomllib.loads(done.stdout).values())
    lines = [line.removeprefix("# ") for line in done.stdout.splitlines()]
    assert 'importance = "reconstruction"' in lines
    assert "lambda = 5.0" in lines
    assert "repair = true" in lines
    assert 'round-to = "kernel"' in lines


@pytest.fixture(scope="module")
def whole_template(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with everything uncommented."""
    path = tmp_path_factory.mktemp("template") / "all.toml"
    path.write_text(re.sub(r"^# (?=[a-z-]+ = )", "", run("config", "--template").stdout, flags=re.MULTILINE))
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_template_changes_nothing_where_all_is_uncommented(whole_template: Path, name: str) -> None:
    """Options without a default stood there as 0, which is refused, or as an empty path."""
    file, sections = config_file.read(whole_template, known_sections()), commands()[name].sections
    assert build(sections, {}, file, "all.toml").values == build(sections, {}, {}, "").values


def test_the_template_holds_every_option(whole_template: Path) -> None:
    file = config_file.read(whole_template, known_sections())
    for section in known_sections():
        for option in options(section) if section.in_file else ():
            inner = file
            for key in option.key:
                assert key in inner
                inner = inner[key]


def test_a_command_takes_the_whole_template(run, whole_template: Path, lenet: Path) -> None:
    done = run("score", lenet, "--config", whole_template, "--importance", "magnitude", "-q", "--json", "-")
    assert done.returncode == 0, done.stderr
    plain = run("score", lenet, "--importance", "magnitude", "-q", "--json", "-")
    assert json.loads(done.stdout)["settings"] == json.loads(plain.stdout)["settings"]


def test_one_file_serves_prune_and_validate(run, tmp_path: Path, lenet: Path, digits: Path) -> None:
    """The floor at the top level did not count for `validate`."""
    worse = onnx.load(lenet)
    for tensor in worse.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(worse, tmp_path / "worse.onnx")
    settings = tmp_path / "one.toml"
    settings.write_text(f"eval = '{digits}'\nmax-drop = 1\n[validate]\nimages = 100\n")
    line = ("validate", lenet, tmp_path / "worse.onnx", "--config", settings, "-q")
    assert run(*line).returncode == 5
    settings.write_text(f"eval = '{digits}'\nmax-drop = 1\n[validate]\nimages = 100\nmax-drop = 100\n")
    assert run(*line).returncode == 0
    assert run(*line, "--max-drop", 2).returncode == 5


def test_ops_lists_the_handlers(run) -> None:
    done = run("ops", "--markdown")
    assert done.returncode == 0
    assert "| conv | Conv, ConvTranspose | weights | refitted | kernel | weights |" in done.stdout
    assert "conv  " in run("ops").stdout


@pytest.mark.parametrize("arguments", [(), ("prune",), ("inspect",), ("bench",), ("finetune",), ("ops",)])
def test_help_of_every_command(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--help", COLUMNS="200")
    assert done.returncode == 0
    assert "Usage: onnxprune" in done.stdout


@pytest.mark.parametrize("columns", [60, 200])
def test_help_keeps_headings_and_whole_texts(run, columns: int) -> None:
    """Narrow terminals had no headings, and defaults with a backslash; wide ones took twice as long, to draw boxes."""
    shown = run("prune", "--help", COLUMNS=str(columns)).stdout
    headings = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert headings[:3] == ["Arguments", "Files", "Pruning"]
    assert "[default: macs]" in shown
    assert "\\" not in shown
    assert "…" not in shown
    commands = run("--help", COLUMNS=str(columns)).stdout.partition("Commands:")[2]
    assert "..." not in commands


def test_version(run) -> None:
    from onnxprune import __version__

    assert run("--version").stdout.strip() == __version__


def test_inspect_lists_what_keep_matches(run, lenet: Path, tmp_path: Path) -> None:
    done = run("inspect", lenet, "--keep", "/conv?/*", "--keep", "re:fc[13]", "--keep", "/fc3/Gemm")
    assert done.returncode == 0, done.stderr
    told = [line.strip() for line in done.stdout.partition("What --keep keeps")[2].splitlines()]
    assert "/conv?/*: 2 groups" in told
    assert told.count("/fc1/Gemm") == 1
    assert told[-2:] == ["/fc3/Gemm: 0 groups", "and 1 name of what cannot be pruned anyway"]
    (tmp_path / "keep.toml").write_text('keep = ["/conv1/Conv"]')
    assert "/conv1/Conv: 1 group" in run("inspect", lenet, "--config", tmp_path / "keep.toml").stdout
    refused = run("inspect", lenet, "--keep", "fc.*")
    assert refused.returncode == 2
    assert "'re:fc.*'" in refused.stderr


def test_inspect_takes_sizes_from_data_and_tells_rows_that_are_not_read(run, tmp_path: Path) -> None:
    text = """g (int64[N,L] ids) => (float[N,3] y) {
        e = Gather (words, ids)  m = ReduceMean <axes = [1], keepdims = 0> (e)
        h = MatMul (m, w1)  r = Relu (h)  y = MatMul (r, w2) }"""
    model = example(text, {"words": (50, 8), "w1": (8, 16), "w2": (16, 3)})
    onnx.save(model, tmp_path / "encoder.onnx")
    np.save(tmp_path / "ids.npy", np.arange(60).reshape(10, 6) % 20)
    done = run("inspect", "encoder.onnx", "--data", "ids.npy", "--json", "-", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert [(size["name"], size["size"], size["origin"]) for size in report["sizes"]] == [("L", 6, "data")]
    share = 30 * 8 / (50 * 8 + 8 * 16 + 16 * 3)
    note = "30 of the 50 rows of table 'words' are read by none of 10 calibration rows"
    assert any(line.startswith(note) and f"{100 * share:.0f} %" in line for line in report["notes"])
    refused = run("inspect", "encoder.onnx", "--data", "ids.npy", "--shape", "ids=1,7", cwd=tmp_path)
    assert refused.returncode == 2
    assert "onnxprune: error: " in refused.stderr

"""What runs leave behind in the folder for temporary files: nothing."""

import subprocess
import sys

import pytest

RUNS = {
    "inspect": (),
    "prune": ("--importance", "magnitude", "--no-repair", "--target", "macs=0.8"),
    "prune with workers": ("--importance", "activation", "--target", "macs=0.8", "--executor", "processes"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_no_temporary_file(name, command, environment, lenet, calibration, tmp_path):
    # onnxruntime's telemetry left a file ".ses" there.
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = [name.split()[0], lenet, *RUNS[name]]
    if words[0] == "prune":
        words += ["-o", tmp_path / "out.onnx", "--quiet", "--workers", "2", "--no-time", "--data", calibration]
    done = subprocess.run(command(*words), env=environment(TMPDIR=str(temporary)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in temporary.iterdir()] == []


@pytest.mark.parametrize(("chosen", "seen"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_unless_the_user_wants_it(chosen, seen, environment, tmp_path):
    script = "import os; from onnxprune.runtime.library import onnxruntime; onnxruntime(); "
    script += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    own = {name: value for name, value in environment(TMPDIR=str(tmp_path)).items() if "TELEMETRY" not in name}
    done = subprocess.run([sys.executable, "-c", script], env={**own, **chosen}, capture_output=True, check=True)
    assert done.stdout.decode().strip() == seen

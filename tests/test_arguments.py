"""Forms of arguments in Python, and messages that speak of them."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.api.arguments import for_commands, told, with_options
from onnxprune.config import PruneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.targets import Target
from onnxprune.ops.examples import example

ROWS = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def proto():
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (0.5, (Target("macs", 0.5),)),
        ("0.5", (Target("macs", 0.5),)),
        ("50%", (Target("macs", 0.5),)),
        ("macs=50%", (Target("macs", 0.5),)),
        ("latency=60%", (Target("latency", 0.6),)),
        ({"macs": 0.5}, (Target("macs", 0.5),)),
        ({"macs": "50%", "bytes": "2MB"}, (Target("macs", 0.5), Target("bytes", 2e6))),
        ({"params:/layer1/*": 1e-3}, (Target("params", 1e-3, "/layer1/*"),)),
        (["macs=0.5", Target("params", 0.4)], (Target("macs", 0.5), Target("params", 0.4))),
        (Target("params", 0.4), (Target("params", 0.4),)),
        ("macs:re:^conv[12]=0.5", (Target("macs", 0.5, "re:^conv[12]"),)),
    ],
)
def test_forms_of_targets(given, parsed):
    assert with_options(PruneConfig(), {"targets": given}).targets == parsed
    assert with_options(PruneConfig(targets=given), {}).targets == parsed


@pytest.mark.parametrize("given", [20_000_000, 1.5, "150%", "macs=150%", "macs=0%", {"mac": 0.5}, "half", True])
def test_targets_of_another_form_are_refused(given):
    with pytest.raises(InputError, match="target"):
        with_options(PruneConfig(), {"targets": given})


def test_paths_and_numbers_where_the_command_line_has_text(tmp_path):
    config = with_options(PruneConfig(), {"cache": tmp_path, "memory": 10**9, "threshold": 0.1})
    assert (config.cache, config.memory, config.threshold) == (str(tmp_path), "1000000000", "0.1")


def test_a_model_as_bytes(proto):
    by_bytes = onnxprune.prune(proto.SerializeToString(), ROWS, targets=0.5, threads=1, time=False)
    by_proto = onnxprune.prune(proto, ROWS, targets="macs=0.5", threads=1, time=False)
    assert by_bytes.proto.SerializeToString() == by_proto.proto.SerializeToString()
    assert onnxprune.analyze(proto.SerializeToString()).costs() == by_proto.before
    with pytest.raises(InputError, match="the model given as bytes is not an ONNX file"):
        onnxprune.prune(b"no model", ROWS, targets=0.5)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("give --data (or --importance magnitude)", 'give data (or importance="magnitude")'),
        (
            "--importance oamip needs rows; use another --importance",
            'importance="oamip" needs rows; use another importance',
        ),
        ("--keep 'a b' matches nothing", "keep='a b' matches nothing"),
        ("raise the target or --max-drop, or --no-branches", "raise the target or max_drop, or branches=False"),
        ("ask for time (--target latency=0.8)", 'ask for time (targets="latency=0.8")'),
        ("give --size 16 or more", "give preprocess.size=16 or more"),
        ("check --mean, --std and --scale", "check preprocess.mean, preprocess.std and preprocess.scale"),
        ("fewer --oamip-images, or --oamip-decoupled", "fewer oamip.images, or oamip.decoupled=True"),
        ("--fail-if-slower needs the time", "fail_if_slower=True needs the time"),
        ("--round-to 1 removes them too", "round_to=1 removes them too"),
        ("keep --round-to at kernel", "keep round_to at kernel"),
        ("max-drop: -1 is too small", "max_drop: -1 is too small"),
        ("--shape x=1,7: no input", 'shapes="x=1,7": no input'),
        ("give --eval with --output y=classes", 'give evaluation with outputs.kinds="y=classes"'),
        ("`onnxprune inspect` shows all", "`onnxprune.analyze` shows all"),
        ("a file --no-such-option", "a file --no-such-option"),
    ],
)
def test_messages_speak_of_arguments(message, said):
    assert told(message) == said
    with for_commands():
        assert told(message) == message


def test_errors_and_notes_speak_of_arguments(proto):
    with pytest.raises(InputError, match=r"say how small .* targets=\"macs=0\.5\" \(or max_drop, threshold\)"):
        onnxprune.prune(proto, ROWS)
    result = onnxprune.prune(proto, ROWS, targets=0.5, time=False, plan=onnxprune.prune(proto, ROWS, targets=0.5).plan)
    assert any("targets had no effect" in note for note in result.notes)


def test_a_plan_of_another_type_is_told(proto) -> None:
    """A mapping ended in an AttributeError."""
    with pytest.raises(InputError, match="give a PrunePlan, or the file of one, not a dict"):
        onnxprune.prune(proto, ROWS, plan={"removed": {}})


def test_a_plan_goes_to_a_file_and_back(proto, tmp_path):
    first = onnxprune.prune(proto, ROWS, targets=0.5, time=False, threads=1)
    first.plan.write(tmp_path / "plan.json")
    for plan in (tmp_path / "plan.json", str(tmp_path / "plan.json"), onnxprune.PrunePlan.read(tmp_path / "plan.json")):
        again = onnxprune.prune(proto, ROWS, plan=plan, time=False, threads=1)
        assert again.proto.SerializeToString() == first.proto.SerializeToString()
    with pytest.raises(InputError, match=r"^plan .*missing\.json cannot be read"):
        onnxprune.prune(proto, ROWS, plan=tmp_path / "missing.json")


def test_paths_everywhere(proto, tmp_path):
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "rows.npz", x=ROWS)
    latency = onnxprune.LatencyConfig(cache=tmp_path / "times")
    result = onnxprune.prune(
        *(tmp_path / "model.onnx", tmp_path / "rows.npz"),
        evaluation=tmp_path / "rows.npz",
        cache=tmp_path / "scores",
        targets={"macs": 0.6},
        threads=1,
        latency=latency,
        round_to="measured",
    )
    result.save(tmp_path / "small.onnx")
    assert {path.name for path in tmp_path.iterdir()} >= {"small.onnx", "scores", "times"}
    assert onnxprune.validate(tmp_path / "model.onnx", tmp_path / "small.onnx", tmp_path / "rows.npz").rows == len(ROWS)


def test_an_option_that_is_almost_one_is_told_its_name() -> None:
    with pytest.raises(InputError, match="unknown option 'target'; is 'targets' meant"):
        with_options(PruneConfig(), {"target": 0.5})

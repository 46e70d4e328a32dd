"""Forms of arguments in Python, and messages that speak of them."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.api.arguments import with_options
from onnxprune.api.messages import for_commands, told
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
    with pytest.raises(InputError, match="plan: expected a PrunePlan or a path or text, got a dict"):
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


PREPROCESS = onnxprune.PreprocessConfig


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("max_drop", "1.0", "expected a number, got the text '1.0'"),
        ("images", "100", "expected a whole number, got the text '100'"),
        ("images", 10.5, "expected a whole number, got 10.5"),
        ("seed", float("nan"), "expected a whole number, got nan"),
        ("time", 1, "expected True or False, got 1"),
        ("round_to", True, "expected a whole number or text, got True"),
        ("importance", None, "expected a function or text, got None"),
        ("keep", 3, "expected text or several, got 3"),
        ("progress", 3, "expected a function or True or False, got 3"),
        ("latency", 8, r"expected a LatencyConfig, got 8; write onnxprune\.LatencyConfig\(batch=\.\.\.\)"),
        (
            "preprocess",
            {"mean": 0.3},
            r"got a dict; write onnxprune\.PreprocessConfig\(mean=0\.3\)",
        ),
        ("config", {"seed": 1}, r"expected a PruneConfig, got a dict; write onnxprune\.PruneConfig\(seed=1\)"),
        ("latency", onnxprune.LatencyConfig(batch="8"), "batch: expected a whole number, got the text '8'"),
        ("targets", object(), "expected a budget such as 0.5"),
        ("shapes", 3, "by the name of an input"),
    ],
)
def test_a_value_of_another_type_is_told_in_one_line(proto, name, given, said) -> None:
    """Each ended in a TypeError or an AttributeError somewhere inside."""
    with pytest.raises(InputError, match=f"{name}.*{said}") as caught:
        onnxprune.prune(proto, ROWS, **{"targets": 0.5, name: given})
    assert "\n" not in str(caught.value)


def test_types_are_checked_in_every_function(proto) -> None:
    with pytest.raises(InputError, match=r"points: expected a SweepConfig, got 3; write .*SweepConfig\(points=3\)"):
        onnxprune.sweep(proto, ROWS, points=3)
    with pytest.raises(InputError, match="images: expected a whole number, got the text '9'"):
        onnxprune.validate(proto, proto, ROWS, images="9")
    with pytest.raises(InputError, match="seconds: expected a number, got the text '1'"):
        onnxprune.bench(proto, seconds="1")
    with pytest.raises(InputError, match=r"config: expected a FinetuneConfig, got a dict; write .*\(epochs=1\)"):
        onnxprune.finetune(proto, ROWS, config={"epochs": 1})
    with pytest.raises(InputError, match="by the name of an input"):
        onnxprune.analyze(proto, 3)
    with pytest.raises(InputError, match="prune: missing a required argument: 'model'"):
        onnxprune.prune()


def test_values_that_stand_for_others(proto) -> None:
    """As on the command line and in its file: a number for several, whole floats, numpy's numbers, lists."""
    plain = onnxprune.prune(proto, ROWS, targets=0.5, images=40, keep=("y",), time=False, threads=1)
    loose = {"targets": np.float32(0.5), "images": 40.0, "keep": "y", "time": np.False_, "threads": np.int64(1)}
    assert onnxprune.prune(proto, ROWS, **loose).proto.SerializeToString() == plain.proto.SerializeToString()
    with pytest.raises(InputError, match="say how small the model must get"):
        onnxprune.prune(proto, ROWS, targets=None)


@pytest.mark.parametrize("mean", [(0.5,), 0.5, [0.5], np.float32(0.5), np.array([0.5])])
def test_one_number_is_the_mean_of_every_channel(mean) -> None:
    """As `--mean 0.5`: a number was not iterable."""
    proto = example("g (float[N,1,4,4] x) => (float[N,3,2,2] y) { y = Conv (x, w) }", {"w": (3, 1, 3, 3)})
    images = np.random.default_rng(0).integers(0, 255, (8, 1, 4, 4), np.uint8)
    shown = [PREPROCESS(mean=mean, std=std) for std in (0.25, (0.25,))]
    first, second = (onnxprune.validate(proto, proto, images, preprocess=each, time=False) for each in shown)
    assert first.metrics == second.metrics


def test_one_model_is_timed(proto, tmp_path) -> None:
    """The letters of a path were taken for models."""
    onnx.save(proto, tmp_path / "sk.onnx")
    for model in (tmp_path / "sk.onnx", str(tmp_path / "sk.onnx"), proto, proto.SerializeToString()):
        assert len(onnxprune.bench(model, seconds=0, rounds=1, warmup=0, memory=False)) == 1
    with pytest.raises(InputError, match="is a model, not rows; several models are one list"):
        onnxprune.bench(tmp_path / "sk.onnx", tmp_path / "sk.onnx")
    with pytest.raises(InputError, match="at least one model"):
        onnxprune.bench([])


@pytest.mark.parametrize(
    ("function", "name", "said"),
    [
        ("prune", "target", "is 'targets' meant"),
        ("prune", "max-drop", "is 'max_drop' meant"),
        ("prune", "eval", "is 'evaluation' meant"),
        ("prune", "minimize", "is 'minimise' meant"),
        ("prune", "mean", r"is preprocess=onnxprune\.PreprocessConfig\(mean=\.\.\.\) meant"),
        ("prune", "metric", r"is outputs=onnxprune\.OutputConfig\(metric=\.\.\.\) meant"),
        ("prune", "latency_batch", r"is latency=onnxprune\.LatencyConfig\(batch=\.\.\.\) meant"),
        ("prune", "output", r"prune returns its result; result\.save\(path\) writes the model"),
        ("finetune", "out", r"finetune returns its result; trained\.save\(path\) writes the model"),
        ("finetune", "epochs", r"is config=onnxprune\.FinetuneConfig\(epochs=\.\.\.\) meant"),
        ("validate", "max_drop", r"it is an argument of onnxprune\.prune, not of validate"),
        ("sweep", "targets", r"the budgets of a sweep are points=onnxprune\.SweepConfig"),
        ("sweep", "importance", r"is config=onnxprune\.PruneConfig\(importance=\.\.\.\) meant"),
        ("bench", "nonsense", r"unknown argument 'nonsense'; help\(onnxprune\.bench\) lists"),
    ],
)
def test_an_argument_that_does_not_exist_is_told_what_may_be_meant(proto, function, name, said) -> None:
    """In one short line: thirty names of fields buried the hint, and other functions had none."""
    rows = () if function == "bench" else (proto, ROWS) if function == "validate" else (ROWS,)
    with pytest.raises(InputError, match=said) as caught:
        getattr(onnxprune, function)(proto, *rows, **{name: 1})
    assert len(str(caught.value)) < 200

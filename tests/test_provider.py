"""Other execution providers: whether every session of a run is opened on them, and what is said of them.

The second provider is one that onnxruntime's package for the CPU has too; it leaves all operators to the CPU.
"""

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from residual import NETWORK, WEIGHTS

import onnxprune
from onnxprune.api.compare import bench, validate
from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.results import TimeReport
from onnxprune.graph.load import load
from onnxprune.importance.reconstruction.curves import Original
from onnxprune.latency import kernels
from onnxprune.latency.cache import TimeCache
from onnxprune.ops.examples import example
from onnxprune.report.terminal import bench_summary
from onnxprune.report.text import threads_of
from onnxprune.runtime.providers import require_provider
from onnxprune.runtime.session import load_session

SECOND = next((name for name in onnxruntime.get_available_providers() if name.startswith("Azure")), "")
ROWS = {"x": np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32)}
PROTO = example(NETWORK, WEIGHTS)
QUICK = {"executor": "serial", "threads": 1, "targets": "macs=0.6"}

# Where sessions stay on the CPU: what a model is, and values that are compared down to rounding.
ON_THE_CPU = {
    "onnxprune.outputs.nature",
    "onnxprune.outputs.sources",
    "onnxprune.structure.check",
    "onnxprune.structure.check_parts",
}

needs_second = pytest.mark.skipif(not SECOND, reason="onnxruntime has no second provider here")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The sessions that are opened: the module that asked for one, and its providers."""
    sessions: list[tuple[str, list[str]]] = []
    real = onnxruntime.InferenceSession

    def start(*arguments: Any, **options: Any) -> Any:
        session, frame = real(*arguments, **options), sys._getframe(1)
        while frame.f_globals["__name__"] in ("onnxprune.runtime.session", "onnxprune.calibration.runner"):
            assert frame.f_back is not None
            frame = frame.f_back
        sessions.append((frame.f_globals["__name__"], session.get_providers()))
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    return sessions


def fake(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [f"{name}ExecutionProvider" for name in names])


@needs_second
@pytest.mark.parametrize("options", [{}, {"importance": "magnitude"}, {"targets": "latency=0.9"}])
def test_all_of_a_run_is_on_the_provider(
    options: Mapping[str, Any], opened: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    latency = onnxprune.LatencyConfig(cache="off")
    result = onnxprune.prune(PROTO, ROWS, provider=SECOND, latency=latency, **{**QUICK, **options})
    result.save(tmp_path / "small.onnx")
    modules = {module for module, providers in opened if providers == [SECOND, "CPUExecutionProvider"]}
    assert {"onnxprune.runtime.timing", "onnxprune.evaluation.metrics", "onnxprune.structure.check"} <= modules
    others = {module for module, providers in opened if providers != [SECOND, "CPUExecutionProvider"]}
    assert others <= ON_THE_CPU
    assert result.time is not None
    assert result.time.provider == "azure"
    assert "on azure" in threads_of(result.time)
    assert "onnxruntime ran the models on azure" in result.notes
    if result.latency is not None:
        assert result.latency.provider == "azure"


@needs_second
def test_comparisons_are_on_the_provider(opened: list[tuple[str, list[str]]]) -> None:
    compared = validate(PROTO, PROTO, ROWS, provider="azure", latency=onnxprune.LatencyConfig(batch=4, threads=2))
    assert compared.time is not None
    assert (compared.time.batch, compared.time.threads, compared.time.provider) == (4, 2, "azure")
    (measured,) = bench([PROTO], provider="azure", seconds=0, rounds=1, threads=1)
    assert measured.provider == "azure"
    assert measured.peak_bytes
    asked = {module: providers[0] for module, providers in opened}
    assert asked["onnxprune.evaluation.metrics"] == asked["onnxprune.runtime.timing"] == SECOND
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as said:
        console.print(bench_summary([measured]))
    assert "1 thread, on azure" in said.get()


@needs_second
def test_worker_processes_are_told() -> None:
    engine = Engine(1, Provider("azure"))
    sent = pickle.loads(pickle.dumps(Original(None, (), (), None, engine, (), 1.0)))  # type: ignore[arg-type]
    assert sent.engine == engine
    plans = [
        onnxprune.prune(PROTO, ROWS, provider="azure", **{**QUICK, "executor": where, "workers": 1}).plan.to_json()
        for where in ("serial", "processes")
    ]
    assert plans[0] == plans[1]


def test_a_provider_that_is_not_installed_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "OpenVINO", "CPU")
    message = r"provider 'cuda' is not in the installed onnxruntime .*, which has OpenVINO, CPU;"
    for function in (
        lambda: onnxprune.prune("missing.onnx", provider="cuda"),
        lambda: onnxprune.sweep("missing.onnx", config=onnxprune.PruneConfig(provider="cuda")),
        lambda: validate("missing.onnx", "missing.onnx", ROWS, provider="cuda"),
        lambda: bench(["missing.onnx"], provider="cuda"),
        lambda: onnxprune.finetune("missing.onnx", ROWS, provider="cuda"),
    ):
        with pytest.raises(InputError, match=message):
            function()


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    fake(monkeypatch, "CUDA", "CPU")  # the library is not there: onnxruntime refuses it
    with pytest.raises(InputError, match="provider 'cuda' does not start in onnxruntime"):
        require_provider(Provider("cuda"))
    assert capfd.readouterr().out == ""  # where onnxruntime announces a fallback


def test_an_option_that_a_provider_does_not_know_is_told_in_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "CUDA", "CPU")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("/onnxruntime/state.cc:1053 F<X> Create(const Options&, const Map&) Invalid option: foo")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(InputError, match=r"'cuda:foo=1' does not start in onnxruntime [0-9.]+: Invalid option: foo$"):
        require_provider(Provider.parse("cuda:foo=1"))


def test_a_provider_that_onnxruntime_goes_on_without_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "CUDA", "CPU")
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *given, providers, **options: real(*given, providers=["CPUExecutionProvider"], **options),
    )
    with pytest.raises(ModelError, match="onnxruntime cannot start CUDAExecutionProvider"):
        load_session(PROTO.SerializeToString(), "model", engine=Engine(1, Provider("cuda")))


def test_kernel_times_are_kept_by_provider_and_options(tmp_path: Path) -> None:
    first = TimeCache.open(str(tmp_path), Engine(1, Provider.parse("openvino:device_type=CPU")))
    first.times["kernel:4"] = 2.5
    first.save()
    texts = ("OpenVINO:device_type=CPU", "openvino", "openvino:device_type=GPU", "cpu")
    found = [TimeCache.open(str(tmp_path), Engine(1, Provider.parse(text))).times for text in texts]
    assert found == [{"kernel:4": 2.5}, {}, {}, {}]


@needs_second
def test_a_kernel_that_the_provider_fails_on_is_timed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fails = kernels.open_session, iter([True, False])

    def start(model: Any, *, engine: Engine, **options: Any) -> Any:
        if engine.provider.name == "azure" and next(fails):
            raise ModelError("a width that it does not take")
        return real(model, engine=engine, **options)

    monkeypatch.setattr(kernels, "open_session", start)
    times = kernels.round_times([load(PROTO), load(PROTO)], engine=Engine(1, Provider("azure")))
    assert times.shape[1] == 2
    assert (times > 0).all()


def test_tables_name_the_provider_without_its_options() -> None:
    time = TimeReport(0.5, 0.4, 0.6, 2.0, 1.0, 20, 1, 1, "openvino:device_type=CPU,num_of_threads=1")
    assert threads_of(time) == "1 thread, on openvino"

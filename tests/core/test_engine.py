"""Execution providers as text."""

import pytest

from onnxprune.api.arguments import with_options
from onnxprune.config import PruneConfig
from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError


@pytest.mark.parametrize("text", ["cuda", "CUDA", "CUDAExecutionProvider", " cudaexecutionprovider "])
def test_short_and_full_names_are_the_same(text: str) -> None:
    assert Provider.parse(text) == Provider("cuda")


def test_options_come_in_any_order() -> None:
    provider = Provider.parse("cuda:use_tf32=0, device_id=1")
    assert provider == Provider.parse("CUDA:device_id=1,use_tf32=0")
    assert str(provider) == "cuda:device_id=1,use_tf32=0"
    assert Provider.parse(str(provider)) == provider


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no name"),
        (":device_id=1", "no name"),
        ("my provider", "no name"),
        ("cuda:", "'' is no key=value"),
        ("cuda:device_id", "'device_id' is no key=value"),
        ("cuda:device_id=", "'device_id=' is no key=value"),
        ("cuda:device_id=1,,", "'' is no key=value"),
        ("cuda:device_id=1,device_id=2", "'device_id' is given twice"),
    ],
)
def test_other_forms_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Provider.parse(text)
    with pytest.raises(InputError, match=message):
        with_options(PruneConfig(), {"provider": text})


def test_the_config_says_what_models_run_and_are_timed_on() -> None:
    config = with_options(PruneConfig(), {"provider": "CUDA:device_id=1", "threads": 4})
    provider = Provider("cuda", (("device_id", "1"),))
    assert config.engine == config.run.engine == Engine(4, provider)
    assert config.timing_engine == Engine(1, provider)
    assert config.engine.on_one_thread == Engine(1, provider)


@pytest.mark.parametrize(
    ("provider", "kernels", "rule"),
    [
        ("cpu", "auto", "cpu"),
        ("cuda", "auto", "cuda"),
        ("TensorrtExecutionProvider", "auto", "tensorrt"),
        ("openvino", "auto", "cpu"),
        ("cuda", "arm", "arm"),
        ("cuda", "cpu", "cpu"),
    ],
)
def test_kernels_follow_the_provider_unless_they_are_given(provider: str, kernels: str, rule: str) -> None:
    assert PruneConfig(provider=provider, kernels=kernels).kernel_rule == rule

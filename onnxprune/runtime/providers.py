"""Execution providers of the installed onnxruntime: which there are, and whether one starts."""

import re

from onnx import TensorProto, helper

from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import first_line
from onnxprune.runtime.library import onnxruntime
from onnxprune.runtime.session import installed_name, load_session

# What onnxruntime's messages begin with: a code, then the place in its source and the function's signature.
_PLACE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(\S+\.cc:\d+ .*?\) (?=[A-Z]))?")
_WITHOUT_OPTIONS = ("cpu", "azure")  # they ignore what they are given; others refuse what they do not know
_NAME = "a model of one node"
_IR_VERSION, _OPSET = 8, 13  # which every onnxruntime that is supported reads


def ran_on(provider: Provider) -> tuple[str, ...]:
    """The note that reports have of a provider that is not the CPU's; none of that."""
    return () if provider.is_cpu else (f"onnxruntime ran the models on {provider}",)


def require_provider(provider: Provider) -> None:
    """Check that a provider is installed and starts, before any work.

    A session is opened on a model of one node: libraries that are missing and options that the provider does not know
    show here.

    Raises:
        InputError: the installed onnxruntime does not have it, it takes no options, or it does not start.
    """
    if provider == Provider():
        return
    installed_name(provider)
    if provider.options and provider.name in _WITHOUT_OPTIONS:
        given = ", ".join(key for key, _ in provider.options)
        raise InputError(
            f"provider {str(provider)!r}: {provider.name} takes no options in onnxruntime; leave out {given}"
        )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one_node", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])
    try:
        load_session(model.SerializeToString(), _NAME, engine=Engine(1, provider))
    except ModelError as error:
        version, reason = (
            onnxruntime().__version__,
            _PLACE.sub("", first_line(error.__cause__ or error)).removeprefix(f"{_NAME}: "),
        )
        raise InputError(f"provider {str(provider)!r} does not start in onnxruntime {version}: {reason}") from error

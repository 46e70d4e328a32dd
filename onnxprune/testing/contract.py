"""The contract of an operator handler, checked on its own examples."""

import pickle
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import qualified
from onnxprune.ops import handlers, only_now
from onnxprune.ops.base import OpHandler
from onnxprune.structure.analysis import Analysis
from onnxprune.testing.oracle import Run, analysed, assert_close, check_removal, random_feed, random_removal, run
from onnxprune.testing.steps import check_steps

# Domains whose operators onnxruntime knows.
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")


def check_operator(handler: OpHandler) -> None:
    """Check a handler as onnxprune checks its own: its examples, pruned at random, do what the oracle does.

    The oracle is the original model whose consumers see zero in place of what was removed. Costs are counted again on
    the result, and matrices and a rule for torch are compared with onnxruntime. Examples with operators of a domain
    that onnxruntime does not know run in torch where the handler has a rule, else only forms and costs are checked. The
    handler need not be registered.

    Args:
        handler: an instance of the handler.

    Raises:
        AssertionError: says which example does not keep which part of the contract.
    """
    assert handler.op_types, "op_types names no operator"
    assert type(pickle.loads(pickle.dumps(handler))) is type(handler), "workers cannot be sent the handler"
    with only_now(handler):
        examples = [*handler.examples()]
        assert examples, "examples() gives no model"
        used = {qualified(node.op_type, node.domain) for proto in examples for node in proto.graph.node}
        missing = sorted(set(handler.op_types) - used) if len(handler.op_types) == 1 else []
        assert not missing, f"no example has a node of {', '.join(missing)}"
        for number, proto in enumerate(examples):
            try:
                check_example(proto)
            except AssertionError as error:
                raise AssertionError(f"example {number}: {error}") from error


def check_example(proto: onnx.ModelProto) -> None:
    """Check one model: removal of random shares and of single units, and matrices and torch against onnxruntime.

    Raises:
        AssertionError: something differs.
    """
    analysis = analysed(proto)
    assert analysis.groups, "nothing can be pruned in it"
    runner = _runner(analysis)
    check_shares(analysis, runner)
    check_single_units(analysis, runner)
    if runner is run:
        check_steps(analysis)
    if runner is run and _torch_rules(proto):
        feed = random_feed(analysis, np.random.default_rng(2), 3)
        expected = run(analysis.model, feed)
        assert_close(_in_torch(analysis.model, feed), expected, expected)


def check_shares(analysis: Analysis, runner: Run | None = run) -> None:
    """Remove about three tenths, six tenths and nine tenths of each group.

    Raises:
        AssertionError: a result differs from the oracle.
    """
    rng = np.random.default_rng(0)
    for number, share in enumerate((0.3, 0.6, 0.9)):
        check_removal(analysis, random_removal(analysis, share, rng), number, 1 + number, runner)


def check_single_units(analysis: Analysis, runner: Run | None = run) -> None:
    """Remove each of three units of each group by itself.

    Raises:
        AssertionError: a result differs from the oracle.
    """
    for group in analysis.groups:
        for unit in islice(group.units, 3 if len(group) > 1 else 0):
            removed = analysis.none_removed()
            removed[unit] = True
            check_removal(analysis, removed, run=runner)


def _runner(analysis: Analysis) -> Run | None:
    """What can run a model: onnxruntime, torch where that lacks an operator, or nothing."""
    proto = analysis.model.proto
    foreign = {node.domain for node in proto.graph.node} - {*_KNOWN_DOMAINS}
    if not foreign:
        return run
    with suppress(ModelError):  # a build of onnxruntime may know it
        run(analysis.model, random_feed(analysis, np.random.default_rng(0)))
        return run
    return _in_torch if _torch_rules(proto) else None


def _torch_rules(proto: onnx.ModelProto) -> bool:
    """Whether torch is there and every operator has a rule for it."""
    if find_spec("torch") is None:
        return False
    from onnxprune.torchnet.network import Network

    try:
        Network(load(proto))
    except ModelError:
        return False
    return True


def _in_torch(model: Model, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs in torch."""
    from onnxprune.torchnet.network import Network, import_torch

    network = Network(model)
    with import_torch().no_grad():
        outputs = network(network.inputs(feed))
    return [outputs[name].numpy() for name in network.outputs]


def followed() -> list[OpHandler]:
    """All handlers that follow channels, those of users too, each once."""
    return [handler for handler in dict.fromkeys(handlers().values()) if handler.follows]

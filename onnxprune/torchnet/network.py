"""Runs an ONNX graph in torch, with weights that can be trained.

Half-precision weights are computed with in single precision and written back in their own type. Subgraphs (If, Loop),
strings and sequences are not followed.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import first_line
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node, is_float, read_graph
from onnxprune.graph.order import last_uses, needed_nodes
from onnxprune.ops import handler_of
from onnxprune.ops.base import TorchRule
from onnxprune.ops.facts import fold_constants

if TYPE_CHECKING:
    import torch


class Network:
    """An ONNX model as a torch function of its inputs.

    Attributes:
        graph: the graph.
        outputs: tensors that a call returns.
        nodes: the nodes that a call runs, in order.
        rules: for each of them, its rule as it is and while training.
        parameters: trained constants, by name.
        buffers: other constants that the nodes read, by name; normalisation statistics among them.
        training: whether normalisations use the statistics of the batch.
        step: rows that the graph takes at a time; None where it takes any number.
        device: where floating-point tensors live.
    """

    def __init__(self, model: Model, outputs: Sequence[str] = (), device: str = "cpu") -> None:
        """Translate every node that the outputs depend on.

        Args:
            model: the model.
            outputs: tensor names; the graph's outputs by default.
            device: where floating-point tensors live.

        Raises:
            InputError: torch is missing.
            ModelError: an operator has no rule.
        """
        import_torch()
        self.graph = read_graph(model)
        self.outputs = tuple(outputs) or self.graph.outputs
        self.training = False
        self.step = fixed_batch(input_specs(model))
        self.device = device
        nodes = needed_nodes(self.graph.nodes, self.outputs, model.constants.__contains__)
        values = fold_constants(model, self.graph) if nodes else {}
        trained = _trained(self.graph, nodes, model, values)
        folded = _folded(nodes, trained, values)
        self.nodes = [node for node in nodes if not all(name in folded for name in node.outputs if name)]
        self.rules = [_rules(model, node) for node in self.nodes]
        self._last_use = _last_uses(self.nodes, self.outputs)
        read = {name for node in self.nodes for name in node.inputs} | set(self.outputs)
        constants = {**model.constants, **folded}
        self.parameters: dict[str, Any] = {}
        self.buffers: dict[str, Any] = {}
        for name in sorted(read & constants.keys()):
            tensor = _tensor(constants[name])
            if tensor.is_floating_point():
                tensor = tensor.to(device)
            if name in trained:
                self.parameters[name] = tensor.requires_grad_()
            else:
                self.buffers[name] = tensor

    def __call__(self, feed: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """Run the graph.

        Args:
            feed: a tensor an input, `(rows, ...)`; split where the graph takes fewer rows at a time.

        Returns:
            The outputs, `(rows, ...)` by name.
        """
        rows = len(next(iter(feed.values()))) if feed else 0
        if self.step is None or rows == self.step:
            return self._run(feed)
        # The last part is filled up with its own first rows, whose results are dropped.
        order = [
            *range(rows),
            *((rows - rows % self.step + i % max(rows % self.step, 1)) for i in range(-rows % self.step)),
        ]
        starts = range(0, len(order), self.step)
        parts = [self._run({n: x[order[s : s + self.step]] for n, x in feed.items()}) for s in starts]
        return {name: import_torch().cat([part[name] for part in parts])[:rows] for name in self.outputs}

    def free_batch(self, feed: Mapping[str, "torch.Tensor"]) -> None:
        """Use any batch size from now on, if results are the same as at the model's fixed batch size."""
        torch = import_torch()
        if self.step is None:
            return
        if all(len(tensor) == self.step for tensor in feed.values()):  # which would tell nothing: one row more
            feed = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in feed.items()}
        with torch.no_grad():
            apart = self(feed)
            try:
                together = self._run(feed)
            except (RuntimeError, ValueError, IndexError):  # a size that the graph spells out
                return
        same = [
            a.shape == b.shape and torch.allclose(a, b, 1e-4, 1e-5)
            for a, b in zip(apart.values(), together.values(), strict=True)
        ]
        if all(same):
            self.step = None

    def _run(self, feeds: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        values: dict[str, Any] = {**self.buffers, **self.parameters, **feeds}
        for position, node in enumerate(self.nodes):
            rule = self.rules[position][self.training]
            result = rule(*(values[name] if name else None for name in node.inputs))
            results = result if isinstance(result, tuple | list) else (result,)
            values.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)
            for name in self._last_use[position]:
                del values[name]
        return {name: values[name] for name in self.outputs}

    def inputs(self, feed: Mapping[str, np.ndarray]) -> dict[str, "torch.Tensor"]:
        """Arrays as tensors on the network's device; float16 becomes float32."""
        tensors = {name: _tensor(array) for name, array in feed.items()}
        return {name: t.to(self.device) if t.is_floating_point() else t for name, t in tensors.items()}

    def state(self) -> dict[str, "torch.Tensor"]:
        """A copy of all parameters and floating-point buffers."""
        both = {**self.parameters, **self.buffers}
        return {name: t.detach().clone() for name, t in both.items() if t.is_floating_point()}

    def load_state(self, state: Mapping[str, "torch.Tensor"]) -> None:
        """Set all parameters and buffers to those of `state`."""
        torch = import_torch()
        both = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for name, value in state.items():
                both[name].copy_(value)

    def written_back(self, model: Model) -> Model:
        """The model with trained weights put back; everything else as it was."""
        changed = {}
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.state().items()}
        for name, array in arrays.items():
            original = model.constants.get(name)
            # Constants that training left alone keep their bits.
            if original is not None and is_float(original) and not np.array_equal(_tensor(original).numpy(), array):
                changed[name] = array.astype(original.dtype)
        return model.with_constants(changed)


def bound_network(
    model: Model,
    outputs: Sequence[str],
    probe: Dataset,
    device: str = "cpu",
    tolerance: float = 1e-3,
) -> Network:
    """Translate a model to torch, and check that it computes the same as in onnxruntime.

    Args:
        model: the model.
        outputs: tensors that a call returns; the graph's outputs by default.
        probe: a few rows to compare on.
        device: where the network runs.
        tolerance: largest difference, relative to the output's scale; sums in another order differ by 1e-5 or so.

    Raises:
        InputError: torch is missing.
        ModelError: an operator has no rule, or the results differ.
    """
    torch = import_torch()
    network = Network(model, outputs, device)
    runner = Runner(model, network.outputs)
    expected = map(runner.run_feed, probe.batches(1)) if probe.whole else runner.run(probe, len(probe))
    for feed, reference in zip(probe.batches(len(probe)), expected, strict=True):
        tensors = network.inputs(feed)
        try:
            with torch.no_grad():
                results = network(tensors)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelError(f"{model.name}: the graph cannot be run in torch: {first_line(error)}") from error
        for name, array in reference.items():
            computed = results[name].cpu().numpy()
            scale = max(float(np.abs(array).max(initial=0.0)), 1e-3)
            if computed.shape != array.shape or not np.abs(computed - array).max(initial=0.0) <= tolerance * scale:
                raise ModelError(
                    f"{model.name}: output {name!r} in torch is not what onnxruntime gives; the model cannot be trained"
                )
        if not probe.whole:
            network.free_batch(tensors)
    return network


def import_torch() -> Any:
    """Import torch, with a clear error where it is missing.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("fine-tuning needs torch, which is missing (extra finetune): pip install torch") from None
    return torch


def _tensor(array: np.ndarray) -> "torch.Tensor":
    torch = import_torch()
    single = is_float(array) and array.dtype not in (np.float32, np.float64)
    copy = np.array(array, np.float32 if single else array.dtype)
    wide = copy.dtype.kind == "u" and copy.itemsize > 1  # torch computes little with these
    try:
        return torch.from_numpy(copy.astype(np.int64) if wide else copy)
    except TypeError as error:
        raise ModelError(f"torch has no tensors of type {array.dtype}; the model cannot be trained") from error


def _trained(graph: Graph, nodes: Sequence[Node], model: Model, folded: Mapping[str, np.ndarray]) -> set[str]:
    """The floating-point constants to train: those that handlers name as weights."""
    trained, constants = set(), {*model.constants, *folded}
    for node in nodes:
        handler = handler_of(node.op_type)
        for name in handler.trained(node):
            stored = _stored(name, graph, constants)
            array = model.constants.get(stored)
            if array is not None and is_float(array) and (array.size > 1 or handler.trains_numbers):
                trained.add(stored)
    return trained


def _stored(name: str, graph: Graph, constants: Collection[str]) -> str:
    """The tensor whose values nodes only move to make this one: a weight is trained where it is stored."""
    while (maker := graph.producer.get(name)) is not None and handler_of(maker.op_type).moves(maker) == (0,):
        if not all(other in constants for other in maker.reads[1:]):
            break
        name = maker.input(0)
    return name


def _folded(nodes: Sequence[Node], trained: set[str], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Constant tensors that nodes compute, except from trained weights."""
    moving = set(trained)
    for node in nodes:
        if moving.intersection(node.inputs):
            moving.update(node.outputs)
    return {name: value for name, value in values.items() if name not in moving}


def _rules(model: Model, node: Node) -> tuple[TorchRule, TorchRule]:
    handler = handler_of(node.op_type)
    plain, training = handler.torch(node), handler.torch_training(node)
    if plain is None or training is None:
        raise ModelError(
            f"{model.name}: node {node.name!r}: {node.op_type} cannot be trained: it has no rule for torch"
        )
    return plain, training


def _last_uses(nodes: Sequence[Node], outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """For each node, the tensors that no later node reads."""
    last = last_uses((node.reads for node in nodes), outputs)
    released: list[list[str]] = [[] for _ in nodes]
    for position, name in ((position, name) for position, node in enumerate(nodes) for name in node.outputs if name):
        if (end := last.get(name, position)) < len(nodes):
            released[end].append(name)
    return [tuple(names) for names in released]

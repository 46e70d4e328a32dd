"""LSTM, GRU and RNN: they sum over the input's channels, and their hidden units can be pruned."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Product, Reads, Recurrence, axis_factors

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Recurrent(OpHandler):
    """Weights `W (dirs, gates * H, I)`, `R (dirs, gates * H, H)`, `B (dirs, 2 * gates * H)`; directions share units."""

    op_types = ("LSTM", "GRU", "RNN")

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the weight rows of each hidden unit over all gates; the recurrence sums over the hidden units."""
        source, w, r, bias = (node.input(i) for i in range(4))
        if not (labels.is_constant(w) and labels.is_constant(r) and (not bias or labels.is_constant(bias))):
            labels.freeze_node(node, f"a weight of {node.op_type} is computed")
            return
        gates, hidden = _GATES[node.op_type], labels.shape(r)[2]
        incoming = labels.axis(source, 2)
        labels.set(w, 2, incoming)
        labels.contract(node, w, 2, incoming)
        units = labels.fresh(hidden, node, next(filter(None, node.outputs)))
        labels.set(w, 1, np.tile(units, gates))
        labels.set(r, 1, np.tile(units, gates))
        labels.set(r, 2, units)
        labels.contract(node, r, 2, units)
        if bias:
            labels.set(bias, 1, np.tile(units, 2 * gates))
        self._couple_states(node, labels, units)

    def _couple_states(self, node: Node, labels: Labels, units: Ids) -> None:
        for position, name in enumerate(node.inputs[5:], start=5):
            if not name:
                continue
            if position == 7:  # peepholes of LSTM: (dirs, 3 * H)
                labels.set(name, 1, np.tile(units, 3))
            elif labels.is_zero(name):
                labels.omit(node, position)  # as good as none
            elif labels.adapts(name, 2) or labels.axis(name, 2) is not None:
                labels.set(name, 2, units)
            else:
                labels.freeze_ids(units, name, "the initial state is not prunable", node)
        for name in filter(None, node.outputs):
            if labels.rank(name):
                labels.set(name, labels.rank(name) - 1, units)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """The product of the input with W, and of the hidden states with R.

        Where only the last hidden states are outputs, these stand for all.
        """
        w, r = node.input(1), node.input(2)
        if not (labels.is_constant(w) and labels.is_constant(r)):
            return ()
        states = next(filter(None, node.outputs))
        last = labels.rank(states) - 1
        return (
            Product(node.name, w, node.input(0), ((2, 2),), (1,)),
            Product(node.name, r, states, ((2, last),), (1,)),
        )

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of the input with W and of the hidden states with R, at each step of each sequence.

        Sequences count at their full length.
        """
        steps = labels.shape(node.input(0))[:2]
        return tuple((*steps, *axis_factors(labels, name)) for name in node.inputs[1:3])

    def recurrence(self, node: Node, labels: Labels) -> Recurrence | None:
        """Of sequences of one length, in the usual layout."""
        weights = [name for name in (*node.inputs[1:4], node.input(7)) if name]
        if node.input(4) or node.input(7) or node.int("layout", 0) or not all(map(labels.is_constant, weights)):
            return None
        before = node.input(5)
        return Recurrence(
            node=node.name,
            input=node.input(0),
            weight=node.input(1),
            recurrent=node.input(2),
            bias=node.input(3) or None,
            states="" if not before or labels.is_zero(before) else before,
            output=node.output(),
            backward=_directions(node),
            gates=_reading(node),
            reset=1 if node.op_type == "GRU" and not node.int("linear_before_reset", 0) else -1,
        )

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: as many hidden units as stay."""
        width = edit.width(node.input(2), 2)
        if width is not None:
            edit.set_attribute("hidden_size", width)

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: step by step; with the usual activations only, and without clipping, lengths and other layouts."""
        unusual = any(
            name in node.attributes for name in ("activations", "clip", "activation_alpha", "activation_beta")
        )
        return None if unusual or node.input(4) or node.int("layout", 0) or node.int("input_forget", 0) else _run(node)

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: weights and biases."""
        return (*node.inputs[1:4], *node.inputs[7:8])

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Each kind, one and two directions, with and without bias and initial state; two layers as exported."""
        for op_type, directions in (("LSTM", 1), ("LSTM", 2), ("GRU", 1), ("GRU", 2), ("RNN", 1)):
            direction = ', direction = "bidirectional"' if directions == 2 else ""
            rows = _GATES[op_type] * 5
            states = ", , start" if op_type == "GRU" else ""
            yield example(
                f"""g (float[7,1,6] x) => (float[7,{directions},1,3] y, float[{directions},1,3] z) {{
                e = MatMul (x, w0)
                h, last = {op_type} <hidden_size = 5{direction}> (e, w, r, b{states})
                y = MatMul (h, w1)
                z = MatMul (last, w2) }}""",
                {
                    "w0": (6, 8),
                    "w": (directions, rows, 8),
                    "r": (directions, rows, 5),
                    "b": (directions, 2 * rows),
                    "w1": (5, 3),
                    "w2": (5, 3),
                }
                | ({"start": (directions, 1, 5)} if states else {}),
            )
        for made, filler in (("ConstantOfShape (t)", {}), ("Expand (filler, t)", {"filler": (2, 1, 5)})):
            yield example(
                f"""g (float[7,N,6] x) => (float[N,3] y) {{
                s = Shape (x)
                n = Slice (s, one, two)
                t = Concat <axis = 0> (two, n, five)
                z = {made}
                a = Slice (z, zero, one)
                b = Slice (z, one, two)
                h, p = LSTM <hidden_size = 5> (x, w, r, c, , a, a)
                i = Squeeze (h, one)
                j, q = LSTM <hidden_size = 5> (i, v, u, c2, , b, b)
                k = Concat <axis = 0> (p, q)
                l = Gather (k, last)
                y = Gemm (l, w3) }}""",
                {
                    "w": (1, 20, 6),
                    "r": (1, 20, 5),
                    "c": (1, 40),
                    "v": (1, 20, 5),
                    "u": (1, 20, 5),
                    "c2": (1, 40),
                    "w3": (5, 3),
                }
                | filler,
                {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "five": np.array([5])}
                | {"last": np.array(-1)},
            )


def _directions(node: Node) -> tuple[bool, ...]:
    """Per direction, whether it goes backward."""
    direction = str(node.attributes.get("direction", "forward"))
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]


def _reading(node: Node) -> tuple[tuple[int, int, Reads], ...]:
    """See `Recurrence.gates`. The last gate of a GRU multiplies what it reads, or what it makes of that, by another."""
    if node.op_type != "GRU":
        return ((0, _GATES[node.op_type], Reads.BOTH),)
    states = Reads.STATES if node.int("linear_before_reset", 0) else Reads.RESET_STATES
    return (0, 2, Reads.BOTH), (2, 3, Reads.INPUT), (2, 3, states)


def _run(node: Node) -> TorchRule:
    import torch

    gates, backward = _GATES[node.op_type], _directions(node)
    step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[node.op_type]
    reset_last = bool(node.int("linear_before_reset", 0))

    def run(x: Any, w: Any, r: Any, b: Any = None, _: Any = None, h: Any = None, c: Any = None, p: Any = None) -> Any:
        hidden = r.shape[2]
        nothing = x.new_zeros(len(backward), x.shape[1], hidden)
        bias = x.new_zeros(len(backward), 2 * gates * hidden) if b is None else b
        peepholes = x.new_zeros(len(backward), 3 * hidden) if p is None else p
        sequences, last_h, last_c = [], [], []
        for d, turned in enumerate(backward):
            state = ((nothing if h is None else h)[d], (nothing if c is None else c)[d])
            from_input, from_states = bias[d].chunk(2)
            inputs = (x.flip(0) if turned else x) @ w[d].t() + from_input
            outputs = []
            for row in inputs:
                state = step(row, state, r[d], from_states, peepholes[d].chunk(3), reset_last)
                outputs.append(state[0])
            sequence = torch.stack(outputs)
            sequences.append(sequence.flip(0) if turned else sequence)
            last_h.append(state[0])
            last_c.append(state[1])
        return torch.stack(sequences, 1), torch.stack(last_h), torch.stack(last_c)

    return run


def _lstm(row: Any, state: Any, r: Any, bias: Any, peepholes: Any, _: bool) -> Any:
    i, o, f, g = (row + state[0] @ r.t() + bias).chunk(4, -1)
    c = (f + peepholes[2] * state[1]).sigmoid() * state[1] + (i + peepholes[0] * state[1]).sigmoid() * g.tanh()
    return (o + peepholes[1] * c).sigmoid() * c.tanh(), c


def _gru(row: Any, state: Any, r: Any, bias: Any, _: Any, reset_last: bool) -> Any:
    h, (z, reset, new) = state[0], row.chunk(3, -1)
    r_z, r_reset, r_new = (part.t() for part in r.chunk(3))
    b_z, b_reset, b_new = bias.chunk(3)
    z, reset = (z + h @ r_z + b_z).sigmoid(), (reset + h @ r_reset + b_reset).sigmoid()
    inner = reset * (h @ r_new + b_new) if reset_last else (reset * h) @ r_new + b_new
    h = (1 - z) * (new + inner).tanh() + z * h
    return h, h


def _rnn(row: Any, state: Any, r: Any, bias: Any, _: Any, __: bool) -> Any:
    h = (row + state[0] @ r.t() + bias).tanh()
    return h, h

"""LSTM, GRU and RNN: the input's channels are contracted, the hidden units are channels of their own."""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.labels import Ids, Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler, Rewriting
from onnxprune.ops.examples import example

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Recurrent(OpHandler):
    """Weights `W (dirs, gates * H, I)`, `R (dirs, gates * H, H)`, `B (dirs, 2 * gates * H)`; directions share units.

    Their multiply-adds do not count in `macs`.
    """

    op_types = ("LSTM", "GRU", "RNN")

    def couple(self, node: Node, labels: Labels) -> None:
        """Every gate has a row a hidden unit; the recurrence contracts over the hidden units."""
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
            elif labels.adapts(name, 2) or labels.axis(name, 2) is not None:
                labels.set(name, 2, units)
            else:
                labels.freeze_ids(units, name, "the initial state is not prunable", node)
        for name in filter(None, node.outputs):
            if labels.rank(name):
                labels.set(name, labels.rank(name) - 1, units)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many hidden units as stay."""
        width = edit.width(node.input(2), 2)
        if width is not None:
            edit.set_attribute("hidden_size", width)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Each kind, one and two directions, with and without bias and initial state."""
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

"""Says so where a file was exported in training mode: its outputs are not those that the trained model gives."""

from onnxprune.core.text import several
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis


def training_mode(analysis: Analysis) -> tuple[str, ...]:
    """A warning where nodes take their statistics from each batch, as in training; nothing where none does."""
    found = [node for node in analysis.graph.nodes if handler_of(node.op_type).trains(node)]
    if not found:
        return ()
    first = f"{found[0]} and {several(len(found) - 1, 'more node')}" if len(found) > 1 else str(found[0])
    return (
        f"{analysis.name} was exported in training mode: the results of {first} for a row depend on the other rows "
        "of a run; export the model after model.eval()",
    )

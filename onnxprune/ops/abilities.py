"""What is done with the nodes of an operator, read from which questions its handler answers."""

from dataclasses import dataclass

from onnxprune.ops.base import OpHandler

NONE = "–"


@dataclass(frozen=True, slots=True, order=True)
class Abilities:
    """What pruning does with an operator's nodes, in words of a table.

    Attributes:
        pruned: whether its own weights or products shrink, or channels pass through it.
        repaired: whether its weights are refitted after removal.
        timed: whether it is a kernel of its own in latency tables, or runs in that of the node before.
        trained: whether fine-tuning in torch changes its weights, passes through it, or cannot take it.
    """

    pruned: str
    repaired: str
    timed: str
    trained: str


def abilities(handler: OpHandler) -> Abilities:
    """What a handler's operators can do; some forms of a node can do less."""
    layer, product = _answers(handler, "linear", "recurrence"), _answers(handler, "multiply_adds")
    training = ("weights" if _answers(handler, "trained") else "passes") if _answers(handler, "torch") else NONE
    return Abilities(
        pruned="weights" if layer else "products" if product else "passes",
        repaired="refitted" if layer else NONE,
        timed="with the node before" if _answers(handler, "joins_kernel") else "kernel",
        trained=training,
    )


def _answers(handler: OpHandler, *questions: str) -> bool:
    return any(getattr(type(handler), name) is not getattr(OpHandler, name) for name in questions)

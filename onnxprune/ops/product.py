"""What MatMul and Einsum share: axes named by letters, tied where a letter repeats, contracted where it ends."""

from collections.abc import Hashable, Sequence

from onnxprune.graph.nodes import Node
from onnxprune.ops.labels import Labels

Letters = Sequence[Hashable | None]
"""A name per axis; None for an axis that takes no part (of size 1, broadcast)."""


def couple_product(node: Node, labels: Labels, operands: Sequence[tuple[str, Letters]], output: Letters) -> None:
    """Couple a sum of products over named axes.

    A letter that only constants have starts new channels where it reaches the output. A letter that does not reach the
    output is contracted.

    Args:
        node: the node.
        labels: the labels so far.
        operands: each operand's tensor and letters; no letter twice in one operand.
        output: letters of the node's first output.
    """
    named = [letter for _, letters in operands for letter in letters if letter is not None]
    for letter in dict.fromkeys(named):
        places = [(t, letters.index(letter)) for t, letters in operands if letter in letters]
        place = output.index(letter) if letter in output else None
        computed = [(t, axis) for t, axis in places if not labels.is_constant(t)]
        present = [ids for t, axis in computed if (ids := labels.axis(t, axis)) is not None]
        if not computed and place is not None:
            present = [labels.fresh(labels.shape(node.output())[place], node, node.output())]
        if not present:
            continue
        for tensor, axis in places:
            ids = labels.axis(tensor, axis)
            if labels.is_constant(tensor) or (ids is None and labels.adapts(tensor, axis)):
                labels.set(tensor, axis, present[0])
            elif ids is None:
                for one in present:
                    labels.freeze_ids(one, tensor, f"multiplied by {tensor!r}, which is not prunable", node)
            else:
                labels.tie(present[0], ids)
        if place is not None:
            labels.set(node.output(), place, present[0])
        else:
            tensor, axis = next(((t, a) for t, a in places if labels.is_constant(t)), places[0])
            labels.contract(node, tensor, axis, present[0])

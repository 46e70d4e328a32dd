"""Shared by MatMul and Einsum: products over named axes. Repeated letters are tied, missing ones are summed over."""

from collections.abc import Hashable, Sequence

from onnxprune.graph.nodes import Node
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Product

Letters = Sequence[Hashable | None]
"""A name per axis; None for an axis that takes no part (of size 1, broadcast)."""


def couple_product(node: Node, labels: Labels, operands: Sequence[tuple[str, Letters]], output: Letters) -> None:
    """Tie and sum channels as a product of sums over named axes does.

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


def named_products(
    node: Node, labels: Labels, operands: Sequence[tuple[str, Letters]], output: Letters
) -> tuple[Product, ...]:
    """The products of a node over named axes: each operand with the first computed operand before it.

    Args:
        node: the node.
        labels: the labels.
        operands: each operand's tensor and letters.
        output: letters of the node's first output.
    """
    computed = [(t, letters) for t, letters in operands if not labels.is_constant(t)]
    if not computed:
        return ()
    source, own = computed[0]
    found = []
    for tensor, letters in operands:
        if (tensor, letters) == computed[0]:
            continue
        ended = [axis for axis, letter in enumerate(letters) if letter is not None and letter not in output]
        contracted = tuple((axis, own.index(letters[axis])) for axis in ended if letters[axis] in own)
        made = tuple(axis for axis, letter in enumerate(letters) if letter in output and labels.is_constant(tensor))
        found.append(Product(node.name, tensor, source, contracted, made))
    return tuple(found)

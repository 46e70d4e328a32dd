"""Shared by MatMul and Einsum: products over named axes. Repeated letters are tied, missing ones are summed over."""

from collections.abc import Hashable, Sequence
from operator import itemgetter

from onnxprune.graph.nodes import Node
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Product, axis_factors

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
    products = []
    for tensor, letters in operands:
        if (tensor, letters) == computed[0]:
            continue
        ended = [axis for axis, letter in enumerate(letters) if letter is not None and letter not in output]
        contracted = tuple((axis, own.index(letters[axis])) for axis in ended if letters[axis] in own)
        made = tuple(axis for axis, letter in enumerate(letters) if letter in output and labels.is_constant(tensor))
        products.append(Product(node.name, tensor, source, contracted, made))
    return tuple(products)


def product_factors(
    node: Node, labels: Labels, operands: Sequence[tuple[str, Letters]], output: Letters
) -> tuple[Factors, ...]:
    """Multiply-adds of a product over named axes, where the operands are multiplied one after the other.

    A step makes one for each combination of positions of all axes that its two factors have; axes that neither a later
    operand nor the output has are then summed over.

    Args:
        node: the node.
        labels: the labels.
        operands: each operand's tensor and letters.
        output: letters of the node's first output.
    """
    sizes: dict[Hashable, list[tuple[int, bool, int | Ids]]] = {}
    for tensor, letters in (*operands, (node.output(), output)):
        for letter, size, factor in zip(letters, labels.shape(tensor), axis_factors(labels, tensor), strict=True):
            sizes.setdefault(letter, []).append((size, not isinstance(factor, int), factor))
    axes = {letter: max(given, key=itemgetter(0, 1))[2] for letter, given in sizes.items()}
    held, found = [letter for letter in operands[0][1] if letter is not None], []
    for number, (_, letters) in enumerate(operands[1:], start=2):
        both = [letter for letter in dict.fromkeys((*held, *letters)) if letter is not None]
        found.append(tuple(axes[letter] for letter in both))
        needed = {letter for _, later in operands[number:] for letter in later} | set(output)
        held = [letter for letter in both if letter in needed]
    return tuple(found)

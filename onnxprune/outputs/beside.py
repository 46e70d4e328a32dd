"""Parts of outputs that share their positions: which of two bounded ones are coordinates, and what scores weigh them.

A sigmoid makes scores, but also boxes and keypoints within an image. What stands beside it tells: a model that finds
things says where they are, and how sure it is.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from onnxprune.outputs.meaning import Kind, Part

_POINT, BOX = (2, 3), 4  # numbers that say where something is


def with_coordinates(parts: Sequence[Part], logits: Mapping[str, Kind], named: Collection[str] = ()) -> list[Part]:
    """Read bounded numbers that say where something is as quantities, and logits beside them as scores.

    That are boxes and points in pixels (a sigmoid times a size) beside scores, and boxes of any unit beside class
    scores, or beside logits, where no other boxes are: those of another width, or whose name says that they are scores.

    Args:
        parts: as each is read by itself.
        logits: outputs that as a whole come from layers without a function behind them, and what their values are if
            they are scores.
        named: outputs whose name says that they are scores.
    """

    def may_be_boxes(part: Part) -> bool:
        return part.kind == "quantities" and part.width == BOX and part.output not in named

    read = []
    scores: dict[int, Kind] = {}
    for part in parts:
        others = [(number, other) for number, other in enumerate(parts) if other is not part and _beside(part, other)]
        places = part.kind == "probabilities" and not part.is_sigmoid_missing
        if places and part.is_scaled and part.width in (*_POINT, BOX):
            places = any(_are_scores(other) for _, other in others)
        elif places and part.width == BOX and not any(may_be_boxes(other) for _, other in others):
            told = any(other.kind == "classes" for _, other in others)
            if not told and not any(other.kind == "probabilities" for _, other in others):
                found = {number: logits[o.output] for number, o in others if o.output in logits and o.width > 1}
                scores |= found
                told = bool(found)
            places = told
        else:
            places = False
        read.append(replace(part, kind="quantities", form="logits", scale=1.0, shift=0.0) if places else part)
    return [replace(part, kind=scores.get(number, part.kind)) for number, part in enumerate(read)]


def with_names(parts: Sequence[Part], named: Collection[str]) -> list[Part]:
    """Read outputs that are named so as class scores, where nothing else was told and no places stand beside them.

    Not where the model puts out independent probabilities of the same form too, which are made of them.

    Args:
        parts: as each is read so far.
        named: outputs whose name says that they are scores, of which a layer's channels are the classes.
    """
    return [
        replace(part, kind="classes")
        if part.kind == "quantities"
        and part.output in named
        and part.width > 1
        and not any(other.kind == "probabilities" and _alike(part, other) for other in parts)
        and not any(other.width in (*_POINT, BOX) and _beside(part, other) for other in parts if other is not part)
        else part
        for part in parts
    ]


def with_confidence(parts: Sequence[Part], selected: Iterable[Collection[str]] = ()) -> tuple[Part, ...]:
    """Link each part of quantities to the scores that tell how much its positions matter.

    They are those beside it in the same output, or a list of the same length in another output; of boxes, a map of the
    same places too.

    Args:
        parts: as each is read by itself.
        selected: tensors that an output is selected from together, whose maps show the same places.
    """
    together = [frozenset(names) for names in selected]
    linked = []
    for part in parts:
        beside = tuple(
            number
            for number, score in enumerate(parts)
            if score.kind in ("classes", "probabilities")
            and (_beside(part, score) or _maps_boxes(part, score) or _selected_together(part, score, together))
        )
        linked.append(replace(part, confidence=beside) if part.kind == "quantities" and beside else part)
    return tuple(linked)


def _alike(part: Part, other: Part) -> bool:
    return (part.width, part.positions) == (other.width, other.positions)


def _maps_boxes(part: Part, score: Part) -> bool:
    """Whether a box stands at each place of a map of scores: nothing else of four columns is shown beside scores."""
    return part.width == BOX and part.count > 1 and part.positions == score.positions


def _selected_together(part: Part, score: Part, together: Sequence[Collection[str]]) -> bool:
    same = part.count == score.count > 1
    return same and any({part.output, score.output} <= {*names} for names in together)


def _are_scores(part: Part) -> bool:
    return part.kind == "classes" or (part.kind == "probabilities" and not part.is_scaled)


def _beside(part: Part, other: Part) -> bool:
    """Whether two parts share their positions.

    Maps of two outputs are not matched: what one shows may have nothing to do with where the other is sure.
    """
    if part.count < 2 or other.count != part.count:
        return False
    if other.output == part.output:
        return other.axis == part.axis
    return all(sum(size > 1 for size in entry.positions) == 1 for entry in (part, other))

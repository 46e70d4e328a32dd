"""Which axis of a tensor has an entry for each row of a batch."""

from onnxprune.structure.analysis import Analysis


def row_axis(tensor: str, analysis: Analysis) -> int | None:
    """The axis of a tensor that has an entry for each row of a batch: the first of the batch's size.

    It must vary with the input's sizes where the batch does; where the batch is fixed, it is not the last of several: a
    list `(N, 1)` of a model that takes one row has a column there. None where no axis fits.
    """
    facts = analysis.facts
    shape = facts.shapes.get(tensor)
    if shape is None:
        return 0
    if any(0 in axes for axes in facts.free.values()):
        candidates = sorted(facts.free.get(tensor, ()))
    else:
        candidates = [*range(max(1, len(shape) - 1))]
    return next((axis for axis in candidates if axis < len(shape) and shape[axis] == facts.batch), None)

"""Which axis of a tensor has an entry for each row of a batch."""

from onnxprune.structure.analysis import Analysis


def row_axis(tensor: str, analysis: Analysis) -> int | None:
    """The axis of a tensor that has an entry for each row of a batch: the first of the batch's size.

    It must vary with the input's sizes where the batch does. None where no axis fits.
    """
    facts = analysis.facts
    shape = facts.shapes.get(tensor)
    if shape is None:
        return 0
    fitting = (axis for axis, size in enumerate(shape) if size == facts.batch)
    if any(0 in axes for axes in facts.free.values()):
        fitting = (axis for axis in fitting if axis in facts.free.get(tensor, ()))
    return next(fitting, None)

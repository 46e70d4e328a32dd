"""Compares the scale of two sets of rows for one model: bytes of 0 to 255 beside prepared numbers are one mistake."""

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import MADE_UP
from onnxprune.calibration.prepared import converted_values, is_image, scaling, stored_values
from onnxprune.core.errors import InputError

_APART = 40  # ratio of the largest values
_CLOSER = 3  # times as close as stored than as converted


def check_same_scale(calibration: Dataset | None, evaluation: Dataset | None) -> None:
    """Refuse images of two scales for one model: the figures would be of inputs that it never learnt.

    Numbers that are no images may have values of any size; they are looked at where one set is stored as integers and
    the other is not. Made-up numbers are of no scale, which their own warning tells.

    Raises:
        InputError: floats that look prepared already are prepared again beside integers that need it, or the largest
            values differ by a factor of 40 or more.
    """
    if (
        calibration is None
        or evaluation is None
        or not MADE_UP.keys().isdisjoint((calibration.source, evaluation.source))
    ):
        return
    for name, stored in calibration.arrays.items():
        other = evaluation.arrays.get(name)
        if other is None or stored.dtype.kind not in "iuf" or other.dtype.kind not in "iuf":
            continue
        alike = (stored.dtype.kind == "f") == (other.dtype.kind == "f")
        if not alike:
            pair = (calibration, evaluation)
            _check_prepared_once(name, *(pair if stored.dtype.kind == "f" else reversed(pair)))
        elif not is_image(calibration, name):
            continue
        ranges = [converted_values(data, name) for data in (calibration, evaluation)]
        sizes = sorted(max(abs(values.low), abs(values.high)) for values in ranges)
        if sizes[0] and sizes[1] >= _APART * sizes[0]:
            told = [f"of {a} in {data.source}" for a, data in zip(ranges, (calibration, evaluation), strict=True)]
            raise InputError(
                f"input {name!r} has values {told[0]} and {told[1]}: the model takes one scale; store both alike, or "
                "integers in both with --scale, --mean and --std as in training"
            )


def _check_prepared_once(name: str, floats: Dataset, integers: Dataset) -> None:
    """Refuse floats that options would prepare, where as stored they look like what these make of the integers.

    So do floats below 0 beside integers that have none: no image is below 0 before it is prepared.
    """
    if scaling(floats, name) is None:
        return
    stored, wanted = stored_values(floats, name), converted_values(integers, name)
    below = stored.low < 0 <= stored_values(integers, name).low
    if below or _CLOSER * stored.away(wanted) < converted_values(floats, name).away(wanted):
        raise InputError(
            f"{floats.source}: input {name!r} is stored as floats of {stored}, which look prepared already, and "
            f"--mean, --std and --scale, which the integers in {integers.source} need, would prepare them once more; "
            "store both as integers, or both prepared and leave these options out"
        )

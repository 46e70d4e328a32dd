"""Chooses the form of the paper's program: affine, decoupled or joint."""

from collections.abc import Sequence
from math import prod

import numpy as np

from onnxprune.config import OamipConfig
from onnxprune.core.errors import InputError, ModelError
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.norms import units_on
from onnxprune.importance.oamip.compile import logits_of, score_points
from onnxprune.importance.oamip.images import images_of_one
from onnxprune.importance.oamip.linearised import MOST_CLASSES
from onnxprune.structure.analysis import Analysis

_JOINT_POSITIONS = 20_000
"""Scored positions of one image, beyond the first scored tensor, up to which the joint program is small."""
_MOST_POSITIONS = 60_000
"""Above this a joint program takes more memory than a workstation has."""
_MOST_BYTES = 8e9
_IMAGES, _AFFINE_IMAGES = "10", "200"


def is_decoupled(config: OamipConfig) -> bool:
    """Whether the options ask for modules with auxiliary classifiers."""
    return config.decoupled or config.form == "decoupled"


def check_form(config: OamipConfig) -> None:
    """Check that the options can be combined.

    Raises:
        InputError: they do not.
    """
    if config.decoupled and config.form not in ("auto", "decoupled"):
        raise InputError(f"oamip: the form is both decoupled and {config.form}; give one of them")
    if config.form == "affine" and (config.bounds == "valid" or config.gates == "integer" or config.order != "joint"):
        raise InputError(
            "oamip: the affine form has no gates: it goes with neither valid bounds nor integer gates nor the order "
            "last-first; use the joint form for those"
        )


def areas_of(analysis: Analysis, layers: Sequence[np.ndarray], config: OamipConfig) -> tuple[float, ...] | None:
    """Per layer, the neurons that a unit counts for in the sparsity term; None where each is one.

    The authors' code counts a convolution's channel as often as its kernel has places.
    """
    if config.sparsity == "channels":
        return None
    areas = np.ones(analysis.units)
    for layer in analysis.layers:
        units = units_on(analysis, layer.weight, layer.out_axis)
        if units is not None and layer.window is not None:
            areas[units] = np.maximum(areas[units], prod(layer.window.kernel))
    return tuple(float(areas[units].mean()) for units in layers)


def images_asked_for(config: OamipConfig, form: str) -> str:
    """The choice of images, by form where the options leave it open."""
    return config.images if config.images != "auto" else _AFFINE_IMAGES if form == "affine" else _IMAGES


def chosen_form(context: ScoreContext, analysis: Analysis) -> tuple[str, tuple[str, ...]]:
    """The form of the program, and a note for the user about the choice.

    Raises:
        ModelError: the form that was asked for does not fit into memory.
    """
    config = context.oamip
    if is_decoupled(config):
        return "decoupled", ()
    sizes = [len(units) for units in score_points(analysis, config.normalisation).values()]
    positions = sum(sizes[1:])
    needs_gates = config.bounds == "valid" or config.gates == "integer" or config.order != "joint"
    joint = config.form == "joint" or needs_gates
    if config.form == "affine" or (not joint and positions > _JOINT_POSITIONS):
        _check_affine(context, analysis)
        note = (
            f"the program is in its affine form, since the joint one would have gates at {positions:,} positions of "
            "every image (--oamip-form)"
        )
        return "affine", () if config.form == "affine" else (note,)
    _check_joint(context, positions)
    return "joint", ()


def _check_joint(context: ScoreContext, positions: int) -> None:
    images, name = _images(context, "joint"), context.model.name
    if positions > _MOST_POSITIONS:
        raise ModelError(
            f"{name}: the joint program would have gates at {positions:,} positions of every image, more than memory "
            "holds; use --oamip-form affine"
        )
    # A row has about half of the scores in it, at 12 bytes each.
    size = 6.0 * positions * images * _units(context)
    if size > _MOST_BYTES:
        raise ModelError(
            f"{name}: the joint program of {images:,} images would take about {size / 1e9:.0f} GB; give fewer "
            "--oamip-images, or use --oamip-form affine"
        )


def _check_affine(context: ScoreContext, analysis: Analysis) -> None:
    images = _images(context, "affine")
    classes = min(MOST_CLASSES, prod(analysis.shape(logits_of(analysis))))
    size = 40.0 * images * (classes + 1) * _units(context)  # five arrays in double precision while it is solved
    if size > _MOST_BYTES:
        raise ModelError(
            f"{context.model.name}: the affine program of {images:,} images would take about {size / 1e9:.0f} GB; give "
            "fewer --oamip-images"
        )


def _images(context: ScoreContext, form: str) -> int:
    return images_of_one(images_asked_for(context.oamip, form), 0 if context.data is None else len(context.data))


def _units(context: ScoreContext) -> int:
    return sum(len(group) for group in context.analysis.groups)

"""Chooses the form of the paper's program: affine, decoupled or joint."""

from onnxprune.config import OamipConfig
from onnxprune.core.errors import InputError, ModelError
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import score_points
from onnxprune.structure.analysis import Analysis

_JOINT_POSITIONS = 20_000
"""Scored positions of one image, beyond the first scored tensor, up to which the joint program is small."""
_MOST_POSITIONS = 60_000
"""Above this a joint program takes more memory than a workstation has."""


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


def chosen_form(context: ScoreContext, analysis: Analysis) -> tuple[str, tuple[str, ...]]:
    """The form of the program, and a note for the user about the choice.

    Raises:
        ModelError: the form that was asked for does not fit.
    """
    config = context.oamip
    if is_decoupled(config):
        return "decoupled", ()
    if config.form == "affine":
        return "affine", ()
    sizes = [len(units) for units in score_points(analysis).values()]
    positions = sum(sizes[1:])
    needs_gates = config.bounds == "valid" or config.gates == "integer" or config.order != "joint"
    if config.form == "joint" or needs_gates:
        if positions > _MOST_POSITIONS:
            raise ModelError(
                f"{context.model.name}: the joint program would have gates at {positions:,} positions of every image, "
                "more than memory holds; use --oamip-form affine"
            )
        return "joint", ()
    if positions <= _JOINT_POSITIONS:
        return "joint", ()
    return "affine", (
        f"the program is in its affine form, since the joint one would have gates at {positions:,} positions of every "
        "image (--oamip-form)",
    )

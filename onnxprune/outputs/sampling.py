"""Which positions of a network's layers statistics are taken from: no padding, rather where outputs say something."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from onnxprune.calibration.layer_matrix import EVEN, Drawing
from onnxprune.calibration.replay import Feeds
from onnxprune.core.engine import Engine
from onnxprune.outputs.focus import Focus, focus_of
from onnxprune.outputs.meaning import Meaning, Outputs
from onnxprune.outputs.padding import Padding, real_positions
from onnxprune.structure.analysis import Analysis


@dataclass(frozen=True, slots=True)
class Sampling:
    """How positions are drawn, batch by batch.

    Attributes:
        padding: what is padding; None where nothing is.
        focus: where the original is sure; None where all positions count alike.
    """

    padding: Padding | None = None
    focus: Focus | None = None

    def of_batch(self, index: int) -> Drawing:
        """How positions of one batch are drawn."""
        return Drawing(
            EVEN.real if self.padding is None else self.padding.of_batch(index),
            EVEN.focus if self.focus is None else self.focus.of_batch(index),
        )


EVERYWHERE = Sampling()
"""All positions alike."""


def sampling_of(
    meaning: Meaning,
    analysis: Analysis,
    feeds: Feeds,
    engine: Engine,
    runs: Callable[[Sequence[str]], Iterable[Outputs]],
) -> Sampling:
    """How positions are best drawn.

    Args:
        meaning: of the outputs.
        analysis: of the original.
        feeds: the rows, batch by batch.
        engine: what the original runs on.
        runs: from names to these outputs on all rows, batch by batch.
    """
    real = real_positions(analysis.model, meaning, feeds.rows, engine)
    return Sampling(None if real is None else Padding(real, feeds.starts), focus_of(meaning, analysis, runs))

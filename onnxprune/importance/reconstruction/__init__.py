"""The default scorer: which units the other units can best replace, and how much their removal changes the outputs.

1. One run of the original collects second moments of every consumer's input columns (`moments`).
2. Each group's units are eliminated backwards, smallest loss after correction first (`elimination`): tasks of arrays
   for the executor.
3. A second run on rows kept apart measures, at a few widths, the divergence of the outputs with this group alone
   pruned and
   corrected (`curves`).

No labels are used.
"""

from onnxprune.importance.reconstruction.score import score

__all__ = ["score"]

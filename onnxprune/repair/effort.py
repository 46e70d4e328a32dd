"""What a repair may take: how many positions a layer is fitted to, and whether layers are fitted in pairs.

Trials compare candidates, for which a repair with a quarter of the positions and without pairs does: what it leaves is
a little more for each of them, and nearly always in the same order.
"""

from dataclasses import dataclass

ROW_BYTES = 192 << 20  # of columns, current and target values of a layer


@dataclass(frozen=True, slots=True)
class Effort:
    """What a repair may take.

    Attributes:
        rows: positions that a layer is fitted to, where there are as many.
        rows_per_column: as many times its inputs, where that is more.
        pairs: whether layers are also fitted together with those that read them.
    """

    rows: int
    rows_per_column: int
    pairs: bool

    def positions(self, matrix: tuple[int, ...]) -> int:
        """Number of positions to sample, for a weight matrix `(groups, K, C)`; bounded by memory."""
        groups, width, outputs = matrix
        return min(max(self.rows, self.rows_per_column * width), ROW_BYTES // (4 * groups * (width + 2 * outputs)))


FULL = Effort(rows=16384, rows_per_column=48, pairs=True)
QUICK = Effort(rows=4096, rows_per_column=12, pairs=False)

"""What a repair may take: how many positions a layer is fitted to, and whether layers are fitted in pairs.

Trials compare candidates, for which a repair with a quarter of the positions, few steps and no pairs does: what it
leaves is a little more for each of them, and nearly always in the same order. Where that is not enough to tell two of
them apart, nearly all of a repair does.
"""

from dataclasses import dataclass, replace

_FEW = 8  # rows a column below which a layer may take twice the memory


@dataclass(frozen=True, slots=True)
class Effort:
    """What a repair may take.

    Attributes:
        rows: positions that a layer is fitted to, where there are as many.
        rows_per_column: as many times its inputs, where that is more.
        memory: bytes of its inputs, present and wanted values, which wide layers have fewer positions for.
        scores: positions that a layer is fitted to by the divergence of the scores that it makes.
        pairs: share of the steps in which layers are fitted together with those that read them; 0 for none.
        steps: of the descent that leaves out errors beyond a layer's bounds.
    """

    rows: int
    rows_per_column: int
    memory: int
    scores: int
    pairs: float
    steps: int

    def positions(self, matrix: tuple[int, ...]) -> int:
        """Number of positions to sample, for a weight matrix `(groups, K, C)`.

        Very wide layers, which would have hardly more rows than columns, get twice the memory.
        """
        groups, width, outputs = matrix
        wanted, size = max(self.rows, self.rows_per_column * width), 4 * groups * (width + 2 * outputs)
        held = max(self.memory // size, min(_FEW * width, 2 * self.memory // size))
        return max(1, min(wanted, held))


FULL = Effort(rows=16384, rows_per_column=48, memory=256 << 20, scores=65536, pairs=1.0, steps=6)
QUICK = Effort(rows=4096, rows_per_column=12, memory=128 << 20, scores=16384, pairs=0.0, steps=2)
TRIED = replace(FULL, pairs=0.5)

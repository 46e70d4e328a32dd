"""The text of `docs/paper.md`: rows that were measured, and beside them those that the document had before."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paper.settings import NAMES, NETWORKS, SETTINGS, Setting

# What stands below this line in the document is written by hand, and kept.
BY_HAND = "<!-- Below: by hand. -->"
COLUMNS = ("original", "random", "critical", "snip", "pruned", "fine-tuned", "repaired", "removed")
_HEAD = (
    "",
    "original",
    "random",
    "most critical",
    "SNIP",
    "OAMIP",
    "OAMIP, fine-tuned",
    "OAMIP, weights repaired",
    "parameters removed",
    "rows, epochs, seeds",
)
_TRANSFERS = ("", "parameters removed", "sub-network", "whole network", "epochs, seeds")


@dataclass(frozen=True, slots=True)
class Measured:
    """A setting's figures.

    Attributes:
        setting: the row of the table.
        runs: the figures of each seed.
        rows: training rows at hand.
        epochs: of training.
        width: share of the units that VGG-16 has in each layer.
        transfer_epochs: of training on other data sets.
    """

    setting: Setting
    runs: Sequence[Mapping[str, float]]
    rows: int
    epochs: int
    width: float
    transfer_epochs: int

    def values(self, names: Sequence[str]) -> list[str]:
        """Mean and standard deviation over seeds, in percent; nothing where it was not measured."""
        return [spread([run[name] for run in self.runs]) if name in self.runs[0] else "" for name in names]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * float(np.std(values, ddof=1)):.1f}"


def document(measured: Sequence[Measured], before: str = "") -> str:
    """The text.

    Args:
        measured: what is known now.
        before: the document as it was: rows that are not in `measured` are kept, and what is written by hand.
    """
    parts = [
        "# The paper's experiments\n",
        "Written by `tools/reproduce_paper.py`. Top-1 accuracy on the whole test set in percent, mean ± standard",
        "deviation where there are several seeds; the last column has the training rows, epochs and seeds.\n",
        "- **OAMIP**: scores from the paper's program on ten held-out images, one a class, lambda 5; units below the",
        "  threshold (0.1 for fully connected networks, 0.2 for LeNet-5, 0.3 on CIFAR-10) go, or as many as a budget",
        "  on parameters asks; nothing is retrained. Its affine form takes 200 images.",
        "- **random**, **most critical**, **SNIP**: as many units a layer, chosen otherwise.",
        "- **fine-tuned**: one epoch on the training rows after removal. **weights repaired**: least-squares repair on",
        "  unlabelled held-out rows instead, which the paper does not have.",
        "- **trained greedily**: every convolution learns from a classifier of its own behind it, as the paper's deep",
        "  network does; the program of a module has that classifier (**its own heads**), whose units are scored too.",
        "- The paper's figures are from memory of its table and approximate; its training differs from ours.\n",
        *_table(_HEAD, _kept(before, len(_HEAD)) | dict(map(_row, measured)), _paper_rows()),
    ]
    transfers = _kept(before, len(_TRANSFERS)) | dict(row for one in measured for row in _transfers(one))
    if transfers:
        parts += [
            "\n## Generalisation\n",
            "The sub-network found on one data set is taken back to its initial weights and trained on another, beside",
            "the whole network trained alike. Top-1 accuracy on the other data set's test set. Images take the shape",
            "that the network was made for: grey or in three equal channels, cut to the middle or padded.\n",
            *_table(_TRANSFERS, transfers, {}),
        ]
    _, mark, by_hand = before.partition(BY_HAND)
    return "\n".join(parts) + "\n" + (f"\n{mark}{by_hand}" if mark else "")


def _row(one: Measured) -> tuple[str, str]:
    name = f"**{one.setting.name(one.width)}**"
    return name, _line([name, *one.values(COLUMNS), f"{one.rows:,}, {one.epochs}, {len(one.runs)}"])


def _transfers(one: Measured) -> list[tuple[str, str]]:
    setting, rows = one.setting, []
    for other in setting.transfer:
        if f"to {other}" in one.runs[0]:
            name = f"{setting.called(one.width)}: {NAMES[setting.dataset]} to {NAMES[other]}"
            values = one.values(("removed", f"to {other}", f"whole to {other}"))
            rows.append((name, _line([name, *values, f"{one.transfer_epochs}, {len(one.runs)}"])))
    return rows


def _paper_rows() -> dict[str, str]:
    """The paper's figures, by the name of our row for a network that is as wide."""
    rows = {}
    for setting in SETTINGS:
        if any(value is not None for value in setting.paper):
            shown = ["-" if value is None else f"{value:.1f}" for value in setting.paper]
            cells = [shown[0], shown[1], shown[2], "", shown[3], shown[4], "", shown[5], ""]
            rows[f"**{setting.name()}**"] = _line(["*the paper, about*", *cells])
    return rows


def _table(head: Sequence[str], rows: Mapping[str, str], beneath: Mapping[str, str]) -> list[str]:
    """A table in the order of the settings, with some rows beneath others."""
    order = [NAMES[setting.dataset] + ", " + NETWORKS[setting.network] for setting in SETTINGS]

    def place(name: str) -> int:
        return next((number for number, start in enumerate(order) if name.startswith(f"**{start}")), len(order))

    lines = [_line(head), "|---" * len(head) + "|"]
    for name in sorted(rows, key=place):
        lines += [rows[name], *([beneath[name]] if name in beneath else [])]
    return lines


def _kept(before: str, columns: int) -> dict[str, str]:
    """Our rows of the document's table of so many columns, by their first cell."""
    lines = before.partition(BY_HAND)[0].splitlines()
    rows = {
        line.split("|")[1].strip(): line for line in lines if line.startswith("|") and line.count("|") == columns + 1
    }
    return {name: line for name, line in rows.items() if re.match(r"\w|\*\*", name)}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

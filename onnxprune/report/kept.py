"""What the patterns of `inspect --keep` match, for the terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.allocation.keep import Kept
from onnxprune.core.text import several, visible


def keep_summary(kept: Iterable[Kept]) -> RenderableType:
    """Every pattern with the groups that it keeps, one a line."""
    lines = [Text(), Text("What --keep keeps", style="bold")]
    for each in kept:
        lines.append(Text(f"{visible(each.pattern)}: {several(len(each.groups), 'group')}"))
        lines += [Text(f"  {visible(name)}") for name in each.groups]
        if each.others:
            lines.append(
                Text(f"  and {several(len(each.others), 'name')} of what cannot be pruned anyway", style="dim")
            )
    return Group(*lines)

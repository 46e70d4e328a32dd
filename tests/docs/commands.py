"""The shell commands and Python snippets of the documentation."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCED = re.compile(
    r"(?P<mark><!-- not run: [^>]+ -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INDENTED = re.compile(r"^ {4}(?:onnxprune|python|pip|dask|make) .*", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: its file.
        kind: `sh`, `python`, `toml`, ...
        text: what stands in it.
        is_run: whether nothing says that it cannot be run.
    """

    page: Path
    kind: str
    text: str
    is_run: bool

    @property
    def commands(self) -> tuple[str, ...]:
        """The command lines of a shell block, with continued lines joined."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        return tuple(part.strip() for line in joined.splitlines() for part in _parts(line))

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.split(chr(10))[0][:60]}"


def _parts(line: str) -> list[str]:
    """The commands of a line, without comments; shell operators stand between them."""
    words = shlex.shlex(line, posix=False, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, "#"
    parts: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("&|;()") or word in (">", "<", ">>"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [" ".join(part) for part in parts if part]


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of code of a page, which stand between fences."""
    for match in _FENCED.finditer(page.read_text()):
        yield Block(page, match["kind"], match["text"], match["mark"] is None)


def outside_fences(page: Path) -> list[str]:
    """Commands in indented blocks, which no test would see."""
    return _INDENTED.findall(_FENCED.sub("", page.read_text()))


def arguments(command: str) -> list[str]:
    """The words of a command, as a shell splits them."""
    return shlex.split(command)

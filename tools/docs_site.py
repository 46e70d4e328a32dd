"""Hooks of mkdocs: pages outside of docs/ (README, CONTRIBUTING, CHANGELOG) become pages of the site.

The same files read well on a forge, so links between them are written for it, and are turned here.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?P<start>\]\()(?P<path>[^)#:\s]+)(?P<rest>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie beside docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = turned((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 (mkdocs gives these)
    """Turn the links of a page of docs/ that lead out of it."""
    return markdown if page.file.src_uri in PAGES.values() else turned(markdown, f"docs/{page.file.src_uri}")


def turned(text: str, source: str) -> str:
    """A page's text with links as the site needs them; what is no page of it loses its link.

    Args:
        text: Markdown.
        source: the page's file, from the root.
    """

    def turn(match: "re.Match[str]") -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        if path in PAGES:
            return f"]({PAGES[path]}{match['rest'] or ''})"
        if path.startswith("docs/") and (ROOT / path).is_file():
            return f"]({path.removeprefix('docs/')}{match['rest'] or ''})"
        return match[0]

    return _LINK.sub(turn, text)

"""The documentation as a site: every page is in its menu, links are turned, and it builds without a warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
assert spec is not None
assert spec.loader is not None
docs_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs_site)


def test_every_page_is_in_the_menu() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    pages = [path.name for path in (ROOT / "docs").glob("*.md")] + list(docs_site.PAGES.values())
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize(
    ("text", "source", "turned"),
    [
        ("[a](docs/cli.md#prune)", "README.md", "[a](cli.md#prune)"),
        ("[a](../CONTRIBUTING.md)", "docs/cli.md", "[a](contributing.md)"),
        ("[a](cli.md)", "docs/faq.md", "[a](cli.md)"),
        ("![a](docs/report.png)", "README.md", "![a](report.png)"),
        ("[a](https://example.com/docs/cli.md)", "README.md", "[a](https://example.com/docs/cli.md)"),
        ("[a](#results)", "README.md", "[a](#results)"),
    ],
)
def test_links_are_turned(text: str, source: str, turned: str) -> None:
    assert docs_site.turned(text, source) == turned


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "guides" / "index.html").exists()

"""Every documented command parses with the options that there are, and names files and extras that exist."""

import re
import tomllib

import pytest
import typer
from commands import PAGES, ROOT, arguments, blocks

import onnxprune
from onnxprune.cli import application
from onnxprune.cli.command import known_sections
from onnxprune.cli.commands import commands as known_commands
from onnxprune.cli.config_file import read
from onnxprune.cli.options import build
from onnxprune.core.errors import InputError

BLOCKS = [block for page in PAGES for block in blocks(page)]
LINES = sorted({line for block in BLOCKS if block.kind == "sh" for line in block.commands})
PRUNING = [line for line in LINES if line.startswith("onnxprune ")]
WORKFLOWS = sorted((ROOT / "docs" / "recipes" / "ci").glob("*.y*ml"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def check_command(line: str) -> None:
    """Refuse what the command line would refuse before it looks at any file."""
    plain = re.sub(r"\[(?=--)|\s*\](?=\s|$)", "", line).replace("--importance NAME", "--importance magnitude")
    name, *given = [word for word in arguments(plain)[1:] if word != "..."]
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    command = typer.main.get_command(application()).commands[name]
    positional = [p for p in command.params if p.param_type_name == "argument" and p.required]
    if "..." in arguments(line) and not any(word.lower().endswith(".onnx") for word in given):
        given = ["model.onnx"] * len(positional) + given
    context = command.make_context(name, given, resilient_parsing="--help" in given)
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in context.params.items()}
    build(known_commands()[name].sections, values, {}, "")


def test_there_are_commands() -> None:
    assert len(PRUNING) > 40


@pytest.mark.parametrize("line", PRUNING)
def test_a_documented_command_parses(line: str) -> None:
    if "COMMAND" in line:
        pytest.skip("stands for any command")
    if "--plugin" in line or "--importance peak" in line:
        pytest.skip("its plug-in is tried by test_contributing.py")
    check_command(line)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(("python ", "pip ", "make "))])
def test_other_commands_name_what_there_is(line: str) -> None:
    for path in re.findall(r"(?:docs|tools|models)/[\w/.-]+", line):
        assert (ROOT / path).exists(), path
    for extra in re.findall(r"\[([\w,]+)\]", line) if line.startswith("pip ") else ():
        assert set(extra.split(",")) <= EXTRAS.keys()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_of_workflows_parse(path) -> None:
    lines = re.findall(r"(?:run|entry): (onnxprune .*)", path.read_text())
    assert lines
    for line in lines:
        check_command(line)
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.kind == "toml" and "entry-points" not in b.text], ids=lambda b: b.name
)
def test_options_in_toml_are_known(block, tmp_path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(block.text)
    file = read(path, known_sections())
    assert file
    for command in known_commands().values():
        build(command.sections, {}, file, path.name)  # a wrong value raises
    path.write_text(re.sub(r"^([\w-]+) *=", r"\1-x =", block.text, count=1, flags=re.MULTILINE))
    with pytest.raises(InputError, match="-x"):
        read(path, known_sections())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=lambda b: b.name)
def test_python_snippets_use_names_that_there_are(block) -> None:
    compile(block.text, block.name, "exec")
    for name in re.findall(r"\bonnxprune\.(\w+)", block.text):
        assert hasattr(onnxprune, name) or name in ("ops", "testing", "importance")


def test_links_between_pages_lead_somewhere() -> None:
    """Files exist, and so do the headings that anchors name."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in _anchors(file.read_text()), f"{page.name}: {target}"


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""Functions of users: found, imported and called, and named where they fail."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxprune.core.errors import InputError
from onnxprune.core.user_code import UserFunction, module_file

CODE = """
import sys
def exits(): sys.exit(0)
def exits_with_text(): raise SystemExit("bye")
def raises(): raise ValueError("my file is missing\\nand more")
def is_wrong(): assert False
def nested(): return nested()
def grouped(): raise ExceptionGroup("several", [ValueError("a")])
class Mute(Exception):
    def __str__(self): raise RuntimeError
def mute(): raise Mute()
def closes(): raise GeneratorExit
def interrupted(): raise KeyboardInterrupt
def lazy():
    import beside_own_code
    return beside_own_code.VALUE
def yields():
    yield 1
    import beside_own_code
    yield beside_own_code.VALUE
    raise LookupError("the end")
def changes_the_path(): sys.path.clear()
no_function = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "own_code.py").write_text(CODE)
    (tmp_path / "beside_own_code.py").write_text("VALUE = 7\n")
    (tmp_path / "wrong_code.py").write_text("def f(:\n")
    (tmp_path / "leaving_code.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "failing_code.py").write_text("1 / 0\n")
    (tmp_path / "lacking_code.py").write_text("import no_such_module\n")
    (tmp_path / "nul_code.py").write_bytes(b"x = 1\0\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.endswith("_code"):
            del sys.modules[name]


FAILING = {
    "own_code:exits": "ended the program (SystemExit: 0); let it return",
    "own_code:exits_with_text": "ended the program (SystemExit: bye)",
    "own_code:raises": "failed: ValueError: my file is missing",
    "own_code:is_wrong": "failed: AssertionError",
    "own_code:nested": "failed: RecursionError",
    "own_code:grouped": "failed: ExceptionGroup",
    "own_code:mute": "failed: own_code.Mute",
    "own_code:closes": "failed: GeneratorExit",
    "own_code:nothing": "has no function 'nothing'",
    "own_code:no_function": "has no function 'no_function'",
    "wrong_code:f": "cannot be imported",
    "nul_code:f": "cannot be imported|failed",
    "leaving_code:f": "ended the program",
    "failing_code:f": "failed: ZeroDivisionError",
    "lacking_code:f": "No module named 'no_such_module'",
    "missing_code:f": "No module named 'missing_code'",
    "..:f": "not of the form",
}


@pytest.mark.parametrize("spec", FAILING)
def test_what_users_code_raises_names_the_function(folder: Path, spec: str) -> None:
    """SystemExit ended the command with exit code 0 and no output; others were internal errors."""
    with pytest.raises(InputError) as found, UserFunction(spec) as code:
        code.find()()
    text = str(found.value)
    assert text.startswith((f"{spec}", f"'{spec}'"))
    assert any(part in text for part in FAILING[spec].split("|"))
    assert "\n" not in text
    assert str(folder) not in sys.path


def test_ctrl_c_passes(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), UserFunction("own_code:interrupted") as code:
        code.find()()


def test_modules_beside_it_are_found_while_it_runs(folder: Path) -> None:
    """Only while the module itself was imported."""
    with UserFunction("own_code:lazy") as code:
        assert code.find()() == 7
    seen: list[int] = []
    with pytest.raises(InputError, match="LookupError: the end"), UserFunction("own_code:yields") as code:
        seen.extend(code.find()())
    assert seen == [1, 7]
    assert str(folder) not in sys.path


def test_code_that_changes_the_path_is_left_without_an_error(folder: Path) -> None:
    with UserFunction("own_code:changes_the_path") as code:
        assert str(folder) in sys.path
        code.find()()
    assert sys.path == []


def test_the_file_of_a_function(folder: Path) -> None:
    assert module_file("own_code:lazy") == folder / "own_code.py"
    assert module_file("missing_code:lazy") is None
    assert module_file("own_code.py") is None
    assert module_file("sys:exit") is None


@pytest.mark.parametrize("spec", ["measure.py:recall", "./measure.py:recall", "/measure.py:recall"])
def test_a_file_in_place_of_a_module_is_told_the_module(spec: str) -> None:
    """It was: "No module named 'measure.py'; 'measure' is not a package"."""
    with (
        pytest.raises(InputError, match=r"write the name of the module, measure:recall$"),
        UserFunction(spec) as function,
    ):
        function.find()

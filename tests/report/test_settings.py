import dataclasses

from onnxprune.cli.options import Section, options
from onnxprune.config import PruneConfig
from onnxprune.core.targets import Target
from onnxprune.report.html_report import html_report
from onnxprune.report.provenance import Provenance
from onnxprune.report.settings import settings_in_words


def test_settings_are_called_as_on_the_command_line() -> None:
    told = dict(settings_in_words(dataclasses.asdict(PruneConfig())))
    assert list(told) == [option.flag for option in options(Section("Pruning", PruneConfig))]


def test_values_are_written_as_the_command_line_takes_them() -> None:
    config = PruneConfig(targets=(Target("macs", 0.5), Target("bytes", 2e6)), keep=("a", "b"), lossless=False)
    told = dict(settings_in_words(dataclasses.asdict(config)))
    assert told["--target"] == "macs=0.5, bytes=2e+06"
    assert told["--keep"] == "a, b"
    assert told["--lossless"] == "off"
    assert told["--max-drop"] == "–"
    assert told["--oamip-lambda"] == "5"


def test_the_page_holds_no_python(result) -> None:
    """The page listed {'kind': 'macs', 'value': 0.5, 'layers': None}."""
    page = html_report(result(), Provenance())
    assert "'kind'" not in page
    assert "<code>--target</code>" in page

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.cli.options import Section, build, options
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.options import option
from onnxprune.core.targets import Target

PRUNING = Section("Pruning", PruneConfig)
IMAGES = Section("Images", PreprocessConfig, "preprocess")


def pruning(given_values: dict[str, object], file: dict[str, object] | None = None) -> PruneConfig:
    return build([PRUNING], given_values, file or {}, "options.toml").get(PruneConfig)


def test_nothing_given_is_the_dataclass_itself() -> None:
    assert pruning({"target": [], "keep": None}) == PruneConfig()


def test_names_of_the_design() -> None:
    flags = {o.flag for o in options(PRUNING)} | {o.flag for o in options(IMAGES)}
    names = "target max-drop importance threshold round-to keep repair images seed threads mean std scale layout size"
    oamip = "lambda epsilon images gates bounds decoupled"
    assert {f"--{name}" for name in names.split()} | {f"--oamip-{name}" for name in oamip.split()} <= flags


def test_every_option_has_help() -> None:
    assert all(o.help for section in (PRUNING, IMAGES) for o in options(section))


def test_command_line_over_file_over_default() -> None:
    file = {"seed": 4, "images": 50, "oamip": {"lambda": 2}}
    config = pruning({"seed": "9"}, file)
    assert (config.seed, config.images, config.oamip.lambda_, config.threads) == (9, 50, 2.0, 0)


def test_repeatable_options_of_the_command_line_replace_those_of_the_file() -> None:
    config = pruning({"target": ["macs=0.5", "bytes=2MB"]}, {"target": ["params=0.1"], "keep": "a*"})
    assert config.targets == (Target("macs", 0.5), Target("bytes", 2e6))
    assert config.keep == ("a*",)


def test_no_two_options_of_a_command_share_a_parameter() -> None:
    """validate had no --threads, and took --latency-threads for both."""
    from onnxprune.cli import bench, finetune, prune, score, sweep, validate

    for module in (bench, finetune, prune, score, sweep, validate):
        name = module.__name__.rpartition(".")[2]
        found = [o.parameter for section in getattr(module, name).sections for o in options(section)]
        assert len(found) == len({*found})


def test_numbers_and_words_of_one_option() -> None:
    assert pruning({}, {"threshold": 0.25}).threshold == "0.25"
    assert pruning({"threshold": "mean"}).threshold == "mean"


@given(st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=4))
def test_lists_of_numbers_read_the_same_from_text_and_toml(values: list[float]) -> None:
    text = build([IMAGES], {"mean": ",".join(map(repr, values))}, {}, "")
    toml = build([IMAGES], {}, {"preprocess": {"mean": values}}, "")
    assert text.get(PreprocessConfig).mean == toml.get(PreprocessConfig).mean == tuple(values)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"seed": "x"}, "options.toml: seed: 'x' is not a whole number"),
        ({"seed": 1.5}, "1.5 is not a whole number"),
        ({"seed": True}, "True is not a whole number"),
        ({"repair": 1}, "1 is not true or false"),
        ({"importance": ["a"]}, "is not text"),
        ({"oamip": {"lambda": "big"}}, "options.toml: oamip.lambda: 'big' is not a number"),
        ({"images": 0}, "use 1 or more"),
        ({"importance": "guess"}, "use one of"),
        ({"target": ["macs=-1"]}, "macs=-1"),
    ],
)
def test_wrong_values_say_where_and_what(file: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        pruning({}, file)
    assert message in str(caught.value)


@dataclass(frozen=True, slots=True)
class Example:
    """An example."""

    path: Path | None = option(None, "A path.")
    either: int | str = option(1, "A number or a word.")
    plain: tuple[str, ...] = option((), "Words.")


def test_paths_and_unions() -> None:
    section = Section("Example", Example)
    made = build([section], {"path": "a/b", "either": "auto", "plain": ["x", "y"]}, {}, "").get(Example)
    assert made == Example(Path("a/b"), "auto", ("x", "y"))
    assert build([section], {"either": "8"}, {}, "").get(Example).either == 8


def test_omitted_fields_are_no_options() -> None:
    section = Section("Scoring", PruneConfig, omit=("targets", "repair"))
    assert not {"--target", "--repair"} & {o.flag for o in options(section)}
    assert build([section], {}, {"target": ["macs=0.5"]}, "").get(PruneConfig) == PruneConfig()


def test_parameters_are_unique_within_the_prune_command() -> None:
    from onnxprune.cli.prune import prune

    names = [o.parameter for section in prune.sections for o in options(section)]
    flags = [o.flag for section in prune.sections for o in options(section)]
    assert len(names) == len(set(names))
    assert len(flags) == len(set(flags))
    assert all(dataclasses.is_dataclass(section.config) for section in prune.sections)

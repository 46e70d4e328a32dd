"""Measures of the user's own: what they get, what they may give, and what they decide."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from classifiers import dataset, linear, one_hot

from onnxprune.config import OutputConfig
from onnxprune.core.errors import InputError
from onnxprune.core.text import main_metric
from onnxprune.evaluation.metrics import compare


def measure(original, candidate, labels):
    error = float(np.abs(original["y"] - candidate["y"]).mean())
    return {"nearness": 1 - error, "rows": len(candidate["y"]), "labelled": labels is not None}


def test_a_measure_of_the_users_own_rules() -> None:
    model, other = linear(np.eye(4)), linear(0.9 * np.eye(4))
    data = dataset(model, (one_hot([0, 1, 2, 3], 4), np.array([0, 1, 2, 3])))
    changes = compare(model, other, data, config=OutputConfig(metric=measure))
    assert [*changes][:3] == ["nearness", "rows", "labelled"]
    assert (changes["nearness"].before, changes["nearness"].after) == (1, pytest.approx(0.975))
    assert (changes["rows"].after, changes["labelled"].after) == (4, 1)
    assert main_metric(changes) == "nearness"
    with pytest.raises(InputError, match="it must return a number, or figures by name"):
        compare(model, other, data, config=OutputConfig(metric=lambda *_: "good"))
    found = compare(model, other, data, config=OutputConfig(metric=lambda a, b, y: 0.5))
    assert found["metric"].after == 0.5


@pytest.mark.parametrize("given", [np.array(0.5), np.float16(0.5), Fraction(1, 2), {"metric": Decimal("0.5")}])
def test_a_measure_may_be_any_number(given: object) -> None:
    """A numpy scalar array, a fraction and a decimal number were refused as being no numbers."""
    model = linear(np.eye(4))
    data = dataset(model, one_hot([0, 1], 4))
    assert compare(model, model, data, config=OutputConfig(metric=lambda *_: given))["metric"].after == 0.5


@pytest.mark.parametrize("given", [None, {}, [], 1j, 10**400, {"a": None}, np.ones(3)])
def test_a_measure_that_is_no_number_names_the_function(given: object) -> None:
    def nonsense(*_: object) -> object:
        return given

    model = linear(np.eye(4))
    data = dataset(model, one_hot([0, 1], 4))
    with pytest.raises(InputError, match=r"^nonsense returned .*it must return a number, or figures by name"):
        compare(model, model, data, config=OutputConfig(metric=nonsense))


@pytest.mark.parametrize("name", ["top1", "agreement", "relative_error"])
def test_a_measure_of_the_users_own_keeps_a_name_that_others_use(name: str) -> None:
    """What was measured by labels, or as error, stood under the name of the user's figure, which was lost."""
    model, other = linear(np.eye(4)), linear(np.eye(4)[[1, 0, 2, 3]])
    data = dataset(model, (one_hot([0, 1, 2, 3], 4), np.array([0, 1, 2, 0])))
    config = OutputConfig(metric=lambda ours, others, labels: {name: 0.5 if ours is others else 0.25})
    changes = compare(model, other, data, config=config)
    assert (changes[name].before, changes[name].after) == (0.5, 0.25)
    assert main_metric(changes) == name
    assert {*changes} >= {"top1", "agreement", "relative_error"}

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.results import MetricChange, ProgramReport
from onnxprune.report.json_report import plain, prune_report, to_text
from onnxprune.report.provenance import FileMark, Provenance

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "report-schema.json").read_text())
KEYS = [
    *("schema", "onnxprune", "model", "before", "after", "metrics", "groups", "not_pruned", "program", "timings"),
    *("seed", "versions"),
]


def test_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_report_has_the_keys_of_schema_1_and_is_valid(result) -> None:
    report = json.loads(to_text(prune_report(result(), Provenance(files={"data": FileMark("random")}))))
    jsonschema.validate(report, SCHEMA)
    assert set(KEYS) <= set(report)
    assert report["schema"] == 1
    assert report["groups"][0].items() >= {"name": "layer1/Conv", "units": 16, "kept": 15}.items()
    assert report["settings"]["targets"] == [{"kind": "macs", "value": 0.5, "layers": None}]
    assert report["settings"]["oamip"]["lambda"] == 5.0


def test_oamip_is_reported_only_where_it_ran(result) -> None:
    assert "oamip" not in prune_report(result())
    report = plain(prune_report(result(oamip={"objective": 1.5, "lambda": 5.0, "scores": {"t": np.ones(2)}})))
    jsonschema.validate(report, SCHEMA)
    assert report["oamip"]["scores"] == {"t": [1.0, 1.0]}


def test_values_that_json_has_no_word_for_become_null(result) -> None:
    strange = result(
        metrics={"top1": MetricChange(float("nan"), float("inf"))}, program=ProgramReport("limit", float("inf"))
    )
    report = json.loads(to_text(prune_report(strange)))
    jsonschema.validate(report, SCHEMA)
    assert report["metrics"]["top1"] == {"before": None, "after": None}
    assert report["program"]["objective"] is None


@pytest.mark.parametrize("key", KEYS)
def test_schema_misses_no_key(result, key: str) -> None:
    report = plain(prune_report(result()))
    del report[key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, SCHEMA)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_plain_json_stays_as_it_is(value: object) -> None:
    assert plain(value) == value


def test_numpy_values_become_plain() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": (np.int64(2), np.bool_(True)), "d": Path("x")}
    assert json.loads(json.dumps(plain(value))) == {"a": 0.5, "b": [0, 1, 2], "c": [2, True], "d": "x"}

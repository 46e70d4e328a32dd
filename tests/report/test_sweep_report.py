import dataclasses
import json
from pathlib import Path

import jsonschema

from onnxprune.config import Target
from onnxprune.report.json_report import to_text
from onnxprune.report.sweep_report import sweep_report
from onnxprune.result import LatencyReport
from onnxprune.sweep import SweepPoint, SweepResult

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "report-schema.json").read_text())


def test_a_sweep_over_latency_fits_the_schema(result) -> None:
    made = result(latency=LatencyReport(before=2.0, predicted=1.1, measured=1.2, batch=1, threads=1, rounds=2))
    point = SweepPoint(Target("latency", 0.6), made, 1.2, {"macs": 0.5, "latency": 0.6}, 0.9)
    whole = SweepResult("m.onnx", "top1", 0.95, 2.0, (point,), {}, {"score": 1.0})
    report = json.loads(to_text(sweep_report(whole, [None])))
    jsonschema.validate(report, SCHEMA)
    assert report["points"][0]["latency"]["ratio"] == 0.6
    untimed = dataclasses.replace(whole, points=(dataclasses.replace(point, result=result()),))
    jsonschema.validate(json.loads(to_text(sweep_report(untimed, [None]))), SCHEMA)

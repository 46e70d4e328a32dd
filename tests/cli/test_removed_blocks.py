"""Branches that go as a whole, from the command line."""

import json
from pathlib import Path

import onnx
from residual import NETWORK, WEIGHTS

from onnxprune.ops.examples import example


def test_a_plan_takes_a_whole_block_and_the_reports_name_it(run, schema, tmp_path: Path) -> None:
    import jsonschema

    onnx.save(example(NETWORK, WEIGHTS), tmp_path / "m.onnx")
    units = {"s": 8, "h": 12}
    plan = {"schema": 1, "units": units, "removed": {"h": list(range(12)), "s": [3]}, "importance": "", "scores": {}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = run(
        *("prune", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--plan", tmp_path / "plan.json"),
        *("--keep", "h", "--no-branches"),
        *("--json", tmp_path / "r.json", "--html", tmp_path / "r.html"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, schema)
    assert report["removed_blocks"] == [{"group": "h", "nodes": ["h", "r", "k"]}]
    told = " ".join(done.stderr.split())
    assert "1 block went as a whole, with all units of 'h'" in told
    assert "--keep, --no-branches had no effect" in told
    assert "--no-branches keeps them" not in told
    assert "1 block went as a whole" in (tmp_path / "r.html").read_text()
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Conv", "Relu", "Flatten", "Gemm"]

"""Writes a case's rows, and measures models that any tool wrote: the same way for all. Runs in onnxprune's environment.

    python -m benchmark_peers.measure REQUEST.json

A request is `{"prepare": CASE, "corpus": DIR, "folder": DIR}` or
`{"measure": CASE, "folder": DIR, "models": {KEY: PATH}, "rows": "calibration" or "test", "full": BOOL, "skip": [KEY]}`;
the first model is what latency is compared with, `full` adds costs and latency, `skip` names models whose accuracy is
known. The answer is printed as JSON.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark_peers.cases import CASES, Case
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import Runner
from onnxprune.config import PreprocessConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.evaluation.metrics import evaluate
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.runtime import timing
from onnxprune.structure.costs import count_costs

LATENCY_S = 2.0  # seconds that measuring latency may take for a model


def prepare(case: Case, corpus: Path, folder: Path) -> dict[str, Any]:
    """Write the rows: as images for onnxprune, as the model's input for the peers, labels apart."""
    rows = case.data(corpus, case.images)
    model = load(corpus / case.path)
    np.savez(folder / "calibration.npz", x=rows.train_x)
    data = load_data(folder / "calibration.npz", model, _preprocess(case))
    if not case.labelled:
        np.savez(folder / "test.npz", x=rows.test_x)
        test = load_data(folder / "test.npz", model, _preprocess(case))
        rows = replace(rows, train_y=_classes(model, data), test_y=_classes(model, test))
    np.savez(folder / "calibration_labelled.npz", x=rows.train_x, y=rows.train_y)
    np.savez(folder / "test.npz", x=rows.test_x, y=rows.test_y)
    np.save(folder / "labels.npy", rows.train_y)
    (feed,) = (batch for batch in data.batches(len(data)))
    (inputs,) = feed.values()
    np.save(folder / "feeds.npy", inputs)
    return {"calibration": len(rows.train_x), "test": len(rows.test_x)}


def measured(case: Case, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of each model, and with `full` its costs, file size and latency."""
    models = {key: load(path) for key, path in request["models"].items()}
    rows = "test.npz" if request["rows"] == "test" else "calibration_labelled.npz"
    found: dict[str, Any] = {key: {} for key in models}
    for key, model in models.items():
        data = load_data(folder / rows, model, _preprocess(case))
        if key not in request.get("skip", ()):
            found[key] |= evaluate(model, data, engine=ONE_CORE)
    if request["full"]:
        seconds = LATENCY_S * len(models)
        times = timing.time_models(list(models.values()), engine=ONE_CORE, seconds=seconds, memory=False)
        for (key, model), time in zip(models.items(), times, strict=True):
            costs = count_costs(model)
            found[key] |= {"macs": costs.macs, "params": costs.params}
            found[key] |= {"file_bytes": Path(request["models"][key]).stat().st_size}
            found[key] |= {"latency_ms": round(time.median_ms, 4), "latency_ratio": round(time.ratio, 4)}
    return found


def _classes(model: Model, data: Dataset) -> np.ndarray:
    """The classes that a model itself gives."""
    (name,) = (value.name for value in model.proto.graph.output)
    return np.concatenate([found[name].argmax(-1) for found in Runner(model, [name], engine=ONE_CORE).run(data)])


def _preprocess(case: Case) -> PreprocessConfig:
    return PreprocessConfig(**case.preprocessing())  # type: ignore[arg-type]


def main() -> None:
    """Answer the request that the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text())
    case = next(c for c in CASES if c.name == request.get("prepare", request.get("measure")))
    folder = Path(request["folder"])
    done = prepare(case, Path(request["corpus"]), folder) if "prepare" in request else measured(case, folder, request)
    print(json.dumps(done))


if __name__ == "__main__":
    main()

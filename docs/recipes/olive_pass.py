"""onnxprune as a pass of Olive, so that pruning is one step of an Olive workflow.

pip install olive-ai requests && pip install .    # in a checkout of onnxprune
python docs/recipes/olive_pass.py MODEL.onnx OUT_FOLDER --data CALIB.npz --target macs=0.5
"""

import argparse
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import onnxprune


class OnnxPrune(Pass):
    """Removes channels until the targets are met, and repairs what remains."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:  # noqa: ARG003
        return {
            "data": PassConfigParam(type_=str, default_value=None, description="Calibration inputs, as prune --data."),
            "targets": PassConfigParam(type_=list, required=True, description="Budgets, such as macs=0.5."),
            "options": PassConfigParam(
                type_=dict, default_value={}, description="Further fields of onnxprune.PruneConfig."
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        options: dict[str, Any] = dict(config.options)
        onnxprune.prune(model.model_path, config.data, targets=tuple(config.targets), **options).save(path)
        return ONNXModelHandler(model_path=path)


def main() -> None:
    """Run the pass alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--importance", default="reconstruction")
    given = parser.parse_args()
    settings = {"data": given.data, "targets": given.target, "options": {"importance": given.importance}}
    step = create_pass_from_dict(OnnxPrune, settings, disable_search=True)
    result = step.run(ONNXModelHandler(model_path=str(given.model)), str(given.output))
    print(result.model_path)


if __name__ == "__main__":
    main()

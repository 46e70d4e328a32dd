"""How two plans and two written files differ, in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_SHOWN = 4


def plans(first: bytes, second: bytes) -> str:
    """What differs between two plans; empty where their bytes are the same."""
    if first == second:
        return ""
    old, new = json.loads(first), json.loads(second)
    if old["units"].keys() != new["units"].keys():
        gone, fresh = (sorted(a["units"].keys() - b["units"].keys()) for a, b in ((old, new), (new, old)))
        return f"other groups ({_names(gone)} gone, {_names(fresh)} new)"
    kept_old, kept_new = _kept(old), _kept(new)
    changed = [f"{name} {kept_old[name]} -> {kept_new[name]}" for name in kept_old if kept_old[name] != kept_new[name]]
    if changed:
        return f"kept units differ in {len(changed)} of {len(kept_old)} groups ({_names(changed)})"
    others = [name for name, positions in old["removed"].items() if new["removed"].get(name) != positions]
    if others:
        return f"other units of the same number go in {len(others)} groups ({_names(others)})"
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return f"same units go; {', '.join(keys) or 'only the order or the layout of the text'} differs"


def files(first: Path, second: Path) -> str:
    """What differs between two .onnx files; empty where their bytes are the same."""
    if first.read_bytes() == second.read_bytes():
        return ""
    old, new = onnx.load(first), onnx.load(second)
    told = [_weights(_tensors(old), _tensors(new))]
    for model in (old, new):
        del model.graph.initializer[:]
    fields = [
        f.name for f in old.DESCRIPTOR.fields if f.name != "graph" and getattr(old, f.name) != getattr(new, f.name)
    ]
    fields += [f.name for f in old.graph.DESCRIPTOR.fields if getattr(old.graph, f.name) != getattr(new.graph, f.name)]
    if fields:
        told.append(f"other {', '.join(fields)}")
    return "; ".join(text for text in told if text) or "only the order or the encoding of the same content"


def _weights(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> str:
    """What differs between initializers by name."""
    if old.keys() != new.keys():
        gone, fresh = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
        return f"other weights ({_names(gone)} gone, {_names(fresh)} new)"
    shapes = [f"{name} {old[name].shape} -> {new[name].shape}" for name in old if old[name].shape != new[name].shape]
    if shapes:
        return f"weights of other shapes ({_names(shapes)})"
    changed = [name for name in old if old[name].tobytes() != new[name].tobytes()]
    if not changed:
        return ""
    worst, largest = max(((name, _relative(old[name], new[name])) for name in changed), key=lambda pair: pair[1])
    return f"{len(changed)} of {len(old)} weights, by up to {largest:.1e} of the tensor's largest value ({worst})"


def _relative(old: np.ndarray, new: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    scale = float(np.abs(a).max(initial=0))
    return float(np.abs(a - b).max(initial=0)) / (scale or 1.0)


def _tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _kept(plan: Mapping[str, Any]) -> dict[str, int]:
    return {name: units - len(plan["removed"].get(name, ())) for name, units in plan["units"].items()}


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more

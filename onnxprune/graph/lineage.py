"""What a pruned file says of where it comes from: version, options, hashes, and the costs of its first original.

It stands as JSON in one entry of the file's metadata (`metadata_props`). It holds no paths and no names of users.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from onnxprune.core.costs import COUNTED
from onnxprune.graph.model import Model

KEY = "onnxprune"
"""The metadata's key."""

_MOST = 1 << 20  # characters
_LARGEST = 1 << 62


def lineage(proto: onnx.ModelProto) -> Mapping[str, Any] | None:
    """What a file says of the run that it came from; None where it says nothing, or nothing that can be read."""
    told = next((entry.value for entry in proto.metadata_props if entry.key == KEY), "")
    if not told or len(told) > _MOST:
        return None
    try:
        record = json.loads(told)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def first_costs(record: Mapping[str, Any]) -> Mapping[str, int] | None:
    """The costs of the first original, by kind; None where they are not told as whole numbers."""
    first = record.get("first")
    if not isinstance(first, Mapping):
        return None
    costs = {kind: first.get(kind) for kind in COUNTED}
    known = {kind: cost for kind, cost in costs.items() if type(cost) is int and 0 <= cost < _LARGEST}
    return known if len(known) == len(COUNTED) else None


def with_lineage(model: Model, record: Mapping[str, Any]) -> Model:
    """The model with a record in its metadata, in place of an older one; everything else is as it was."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    others = [entry for entry in model.proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(others)
    proto.metadata_props.add(key=KEY, value=json.dumps(record, sort_keys=True))
    return replace(model, proto=proto)


def noted(model: Model) -> Model:
    """The model, with a note where it is the result of a run: shares and figures are then of this file."""
    record = lineage(model.proto)
    costs = None if record is None else first_costs(record)
    if costs is None:
        return model
    note = (
        "the file was pruned before, and shares are of this file; its first original had "
        f"{costs['macs']:,} MACs, {costs['params']:,} parameters and {costs['bytes']:,} bytes of weights"
    )
    return replace(model, notes=(*model.notes, note))

"""Operator handlers, one family a file, discovered automatically."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from onnxprune.ops.base import OpHandler, Unknown


@functools.cache
def handlers() -> Mapping[str, OpHandler]:
    """All handlers by operator name.

    Raises:
        RuntimeError: two handlers claim one operator.
    """
    found: dict[str, OpHandler] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, OpHandler) and value.__module__ == module.__name__):
                continue
            if not hasattr(value, "op_types"):
                continue
            handler = value()
            for op_type in handler.op_types:
                if op_type in found:
                    raise RuntimeError(f"operator {op_type} has two handlers: {found[op_type]!r} and {handler!r}")
                found[op_type] = handler
    return found


def handler_of(op_type: str) -> OpHandler:
    """The handler of an operator; one that follows nothing where there is none."""
    return handlers().get(op_type, _UNKNOWN)


_UNKNOWN = Unknown()

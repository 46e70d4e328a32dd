"""Operator handlers, one family a file, discovered automatically; users register further ones."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onnxprune.core.errors import InputError
from onnxprune.core.plugins import installed, tell_workers
from onnxprune.ops.base import OpHandler, Unknown

ENTRY_POINTS = "onnxprune.operators"
"""The entry point group under which packages offer handlers: classes without arguments, or instances."""

_UNKNOWN = Unknown()
_ADDED: dict[str, OpHandler] = {}


def handlers() -> Mapping[str, OpHandler]:
    """All handlers by operator name, those of users too.

    Raises:
        RuntimeError: two handlers of this package claim one operator.
        InputError: an installed package's handler cannot be used.
    """
    _from_packages()
    return {**_built_in(), **_ADDED}


def handler_of(op_type: str) -> OpHandler:
    """The handler of an operator; one that follows nothing where there is none."""
    _from_packages()
    return _ADDED.get(op_type) or _built_in().get(op_type, _UNKNOWN)


def multiplies(op_type: str) -> bool:
    """Whether an operator may sum products: its handler has a rule for how many, or for what it is as a layer."""
    kind = type(handler_of(op_type))
    return kind.multiply_adds is not OpHandler.multiply_adds or kind.linear is not OpHandler.linear


def register_operator(handler: OpHandler) -> None:
    """Add a handler of your own: channels are followed through its operators from now on, in worker processes too.

    An operator of another domain is named with it, for example `com.microsoft.Gelu`. Registering an equal handler
    twice does nothing.

    Args:
        handler: an instance of your subclass of `onnxprune.ops.base.OpHandler`, which a module defines.

    Raises:
        InputError: one of its operators has another handler already, or it names none.

    Example:
        ```python
        from onnxprune.ops.base import OpHandler, pass_through

        class CastLike(OpHandler):
            op_types = ("CastLike",)

            def couple(self, node, labels):
                pass_through(labels, node, node.input(0), node.output())

        onnxprune.register_operator(CastLike())
        ```
    """
    if not isinstance(handler, OpHandler) or not getattr(handler, "op_types", ()):
        raise InputError(f"{handler!r} is no instance of a subclass of onnxprune.ops.base.OpHandler with op_types")
    present = [(op_type, _ADDED.get(op_type) or _built_in().get(op_type)) for op_type in handler.op_types]
    if all(_same(old, handler) for _, old in present):
        return
    for op_type, old in present:
        if old is not None and old.follows:
            raise InputError(f"operator {op_type} has a handler already: {type(old).__module__}.{type(old).__name__}")
    _ADDED.update(dict.fromkeys(handler.op_types, handler))
    tell_workers(register_operator, handler)


@contextmanager
def only_now(handler: OpHandler) -> Iterator[None]:
    """A handler that need not be registered, for the time of a block and in this process."""
    before = dict(_ADDED)
    _ADDED.update(dict.fromkeys(handler.op_types, handler))
    try:
        yield
    finally:
        _ADDED.clear()
        _ADDED.update(before)


def _same(first: OpHandler | None, second: OpHandler) -> bool:
    """Whether two handlers are of one class; what a script defines has another module's name in its workers."""
    return (
        first is not None
        and type(first).__qualname__ == type(second).__qualname__
        and (
            type(first).__module__.removeprefix("__mp_") == type(second).__module__.removeprefix("__mp_")
            or {type(first).__module__, type(second).__module__} <= {"__main__", "__mp_main__"}
        )
    )


@functools.cache
def _from_packages() -> None:
    """Register the handlers of installed packages, once."""
    for _, load in installed(ENTRY_POINTS):
        offered = load()
        handler = offered() if isinstance(offered, type) else offered
        if not all(_same(_ADDED.get(op_type), handler) for op_type in getattr(handler, "op_types", ())):
            register_operator(handler)


@functools.cache
def _built_in() -> Mapping[str, OpHandler]:
    by_operator: dict[str, OpHandler] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, OpHandler) and value.__module__ == module.__name__):
                continue
            if not hasattr(value, "op_types"):
                continue
            handler = value()
            for op_type in handler.op_types:
                if op_type in by_operator:
                    raise RuntimeError(f"operator {op_type} has two handlers: {by_operator[op_type]!r} and {handler!r}")
                by_operator[op_type] = handler
    return by_operator

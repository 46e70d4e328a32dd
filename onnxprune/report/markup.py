"""Builds HTML from Python calls. Text is always escaped; only `Markup` values are inserted as they are."""

import html
from collections.abc import Iterable
from typing import Any

from onnxprune.core.text import visible_lines

_VOID = {"meta", "link", "br", "hr", "rect", "path", "line", "polyline", "polygon"}


class Markup(str):
    """A string that is already HTML."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: Any) -> Markup:
    """An HTML element.

    Args:
        name: its tag.
        children: `Markup` is taken as it is, None is left out, anything else is text and escaped.
        attributes: `class_` is class and other underscores are hyphens; None leaves one out, True writes it bare.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{written}>") if name in ("meta", "link", "br", "hr") else Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Elements and texts joined together."""
    return Markup("".join(_text(child) for child in children if child is not None))


def _text(child: object) -> str:
    return child if isinstance(child, Markup) else html.escape(visible_lines(str(child)), quote=False)


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    key = name if name in ("viewBox", "preserveAspectRatio") else name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(visible_lines(str(value)))}"'

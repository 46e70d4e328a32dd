"""Matches the names of nodes and groups against the user's patterns."""

import difflib
import re
from collections.abc import Iterable

from onnxprune.core.errors import InputError
from onnxprune.core.text import NAME, visible

_MOST_COMPARED = 5000
_LEAST_LIKE = 0.5


def matching(pattern: str, names: Iterable[str], option: str) -> frozenset[str]:
    """The names that a pattern matches.

    Args:
        pattern: a name, as it is or as `inspect` prints it; only where there is none, a regular expression that may
            match anywhere in a name.
        names: all names.
        option: what the message calls the pattern.

    Raises:
        InputError: it is neither a name nor a regular expression.
    """
    known = frozenset(names)
    if pattern in known:
        return frozenset({pattern})
    if printed := frozenset(name for name in known if visible(name) == pattern):
        return printed
    try:
        return frozenset(name for name in known if re.search(pattern, name))
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{option} {pattern!r} is neither a name nor a regular expression ({error})") from error


def alike(pattern: str, names: Iterable[str]) -> str:
    """A hint for a pattern without a match: `; did you mean ...?`, or where to find the names."""
    shown = [visible(name) for name, _ in zip(dict.fromkeys(names), range(_MOST_COMPARED), strict=False)]
    near = difflib.get_close_matches(pattern[:NAME], shown, n=3, cutoff=_LEAST_LIKE)
    if not near:
        return "; `onnxprune inspect` lists the names"
    return f"; did you mean {' or '.join(map(repr, near))}?"

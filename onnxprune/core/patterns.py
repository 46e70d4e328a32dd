"""Matches the names of nodes and groups against the user's patterns.

One meaning everywhere, the first that fits: a name as it is or as `inspect` prints it; `re:EXPRESSION`, a regular
expression that may match anywhere in a name; else a shell pattern for the whole name, `/layer1/*`.
"""

import difflib
import re
from collections.abc import Iterable
from fnmatch import translate

from onnxprune.core.errors import InputError
from onnxprune.core.text import NAME, visible

EXPRESSION = "re:"
_SIGNS = re.compile(r"\.[*+?]|[\^$|(){}\\+]")  # of a regular expression
_MOST_COMPARED = 5000
_LEAST_LIKE = 0.5


def matching(pattern: str, names: Iterable[str], option: str) -> frozenset[str]:
    """The names that a pattern matches.

    Brackets of a shell pattern stand for themselves where a name has them, else for one of the characters in them.

    Args:
        pattern: see above.
        names: all names.
        option: what the message calls the pattern.

    Raises:
        InputError: what follows `re:` is no regular expression.
    """
    known = frozenset(names)
    if pattern in known:
        return frozenset({pattern})
    if printed := frozenset(name for name in known if visible(name) == pattern):
        return printed
    if pattern.startswith(EXPRESSION):
        return _searched(pattern.removeprefix(EXPRESSION), known, f"{option} {pattern!r}")
    for shell in (pattern.replace("[", "[[]"), pattern):
        whole = re.compile(translate(shell))
        if matched := frozenset(name for name in known if whole.match(name) or whole.match(visible(name))):
            return matched
    return frozenset()


def hint(pattern: str, names: Iterable[str]) -> str:
    """What a message says after a pattern without a match: how to write it, or `; did you mean ...?`.

    Patterns were regular expressions once, and a part of a name was enough.
    """
    known = list(dict.fromkeys(names))
    if pattern.startswith(EXPRESSION):
        return alike(pattern.removeprefix(EXPRESSION), known)
    if _SIGNS.search(pattern):
        return (
            f"; a regular expression is written {EXPRESSION + pattern!r}, and a shell pattern such as '/layer1/*' "
            "matches the whole name"
        )
    if inside := sum(pattern in name for name in known):
        return f"; {inside} of the names have it inside: write {f'*{pattern}*'!r} to match them"
    return alike(pattern, known)


def alike(pattern: str, names: Iterable[str]) -> str:
    """A hint for a name that is not there: `; did you mean ...?`, or where to find the names."""
    shown = [visible(name) for name, _ in zip(dict.fromkeys(names), range(_MOST_COMPARED), strict=False)]
    near = difflib.get_close_matches(pattern[:NAME], shown, n=3, cutoff=_LEAST_LIKE)
    if not near:
        return "; `onnxprune inspect` lists the names"
    return f"; did you mean {' or '.join(map(repr, near))}?"


def _searched(expression: str, names: Iterable[str], what: str) -> frozenset[str]:
    try:
        return frozenset(name for name in names if re.search(expression, name))
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{what}: {expression!r} is no regular expression ({error})") from error

"""Arguments of public functions, checked against their type hints: a wrong one is named at the door, not met within.

Numbers of numpy and others count as what they are, and go in as Python's own: see `is_integer`, `is_number`, `plain`.
"""

import functools
import inspect
import numbers
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")

_MOST_STEPS = 10**6  # of a process
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "None"}

_PLAIN = (numbers.Number, str, bytes, Mapping, Sequence, type(None))


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises ValueError for an argument of another type than its hint. Not for what is compiled."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = _hints(function)
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in hints:
                require(name, value, hints[name])
                bound.arguments[name] = plain(value)
        return function(*bound.args, **bound.kwargs)

    return outer


def check_fields(thing: object) -> None:
    """Raise ValueError for a field of a dataclass that is of another type than its hint; make its numbers plain."""
    hints = _hints(type(thing))
    for field in fields(thing):
        value = getattr(thing, field.name)
        require(field.name, value, hints[field.name])
        if plain(value) is not value:
            object.__setattr__(thing, field.name, plain(value))  # frozen or not


def is_integer(value: object) -> bool:
    """Whether the value is an integer of Python's, numpy's or another's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether the value is a real number of Python's, numpy's or another's, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A number as Python's int or float, also within a list or a tuple; anything else as it is."""
    if type(value) in (list, tuple):
        entries = [plain(each) for each in value]
        return value if all(map(operator.is_, entries, value)) else type(value)(entries)
    if isinstance(value, int | Enum) or type(value) is float:
        return value
    return int(value) if is_integer(value) else float(value) if is_number(value) else value


def require_length(name: str, num_steps: int) -> None:
    """Raise ValueError unless a process may have so many steps."""
    if not is_integer(num_steps) or not 2 <= num_steps <= _MOST_STEPS:
        raise ValueError(
            f"{name}={num_steps!r} must be an integer of at least 2, and at most {_MOST_STEPS}: the length T of the "
            "diffusion."
        )


def require(name: str, value: object, hint: Any) -> None:
    """Raise ValueError, naming the argument, unless the value is of this type.

    A float may be any number, an int any integer, and neither is a bool. Of a sequence every entry is looked
    at. Hints that say more than that are not checked further.
    """
    if not _fits(value, hint):
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= 60 else f"{type(value).__name__}"
        raise ValueError(f"{name}={shown} is not allowed: {name} must be {_said(hint)}.")


@functools.cache
def _hints(thing: Any) -> dict[str, Any]:
    return typing.get_type_hints(thing)


def _fits(value: object, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return is_integer(value)
    if hint is float:
        return is_number(value)
    if origin in (tuple, Sequence):
        entries = value.tolist() if hasattr(value, "tolist") else value  # of an array
        listed = isinstance(entries, Sequence) and not isinstance(entries, str)
        return listed and all(_fits(each, inner[0]) for each in entries)
    if origin is Callable:
        return callable(value)
    if hint is os.PathLike or origin is os.PathLike:
        return isinstance(value, os.PathLike)
    if getattr(hint, "_is_protocol", False):  # what fills it is for its user to say, but a plain value does not
        return not isinstance(value, _PLAIN)
    return not isinstance(hint, type) or isinstance(value, hint)


def _said(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_said(each) for each in inner)
    if origin in (tuple, Sequence):
        return f"a list, each entry {_said(inner[0])}"
    if origin is Callable:
        return "a function"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"

"""A state of the analysis as JSON and back: its dataclasses field by field, by their declared types.

The JSON is for a cache (store/kept_states.py), not for the record. Reading is strict: a field that is missing,
unknown or of another type raises, so that a state of another version is never taken for one of this version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def state_json(value: object) -> object:
    """Return a dataclass of the analysis as objects, lists, text, whole numbers, booleans and null."""
    if dataclasses.is_dataclass(value):
        return {field.name: state_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): state_json(each) for key, each in value.items()}
    if isinstance(value, tuple):
        # Most of a state are long rows of numbers.
        return list(value) if set(map(type, value)) == {int} else [state_json(each) for each in value]
    if value is None or type(value) in (bool, int, str):
        return value
    raise TypeError(f"a state has no {type(value).__name__}")


def state_from(kind: type[T], written: object) -> T:
    """Return the value of type `kind` that `state_json` wrote. Raises ValueError for anything else."""
    return cast(T, _read(kind, written))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: object, written: object) -> object:
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _read_object(kind, written)
    origin, of = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if written is None and NoneType in of:
            return None
        return _read(next(one for one in of if one is not NoneType), written)
    if origin is Literal:
        if written in of and isinstance(written, str):
            return written
    elif origin is tuple:
        if isinstance(written, list):
            return _read_list(of, written)
    elif origin is Mapping:
        if isinstance(written, dict):
            return {_read(of[0], key): _read(of[1], each) for key, each in written.items()}
    elif type(written) is kind:
        return written
    raise ValueError(f"no {kind}: {written!r}"[:200])


def _read_object(kind: type, written: object) -> object:
    hints = _hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(written, dict) or written.keys() != set(names):
        raise ValueError(f"no {kind.__name__}: {written!r}"[:200])
    return kind(**{name: _read(hints[name], written[name]) for name in names})


def _read_list(of: tuple[Any, ...], written: list[object]) -> tuple[object, ...]:
    if len(of) == 2 and of[1] is Ellipsis:
        if of[0] is int and set(map(type, written)) <= {int}:
            return tuple(written)
        return tuple(_read(of[0], each) for each in written)
    if len(of) != len(written):
        raise ValueError(f"{len(written)} values instead of {len(of)}")
    return tuple(_read(one, each) for one, each in zip(of, written, strict=True))

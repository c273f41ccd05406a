"""The shapes of the messages between nodes, as rules that a value fulfils or not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

MAX_DEPTH = 12
MAX_NUMBER = 2**53 - 1
Rule = Callable[[object], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 65_536 and "\0" not in value


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) <= MAX_NUMBER


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_flag_or_null(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_whole_or_null(value: object) -> bool:
    return value is None or _is_whole(value)


def _texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 1000 and all(map(_is_text, value))


def _map_of(rule: Rule) -> Rule:
    return lambda value: (
        isinstance(value, dict) and len(value) <= 1000 and all(_is_text(key) and rule(value[key]) for key in value)
    )


def _list_of(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and len(value) <= 10_000 and all(map(rule, value))


def _object(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    known = {**required, **(optional or {})}
    return lambda value: (
        isinstance(value, dict)
        and required.keys() <= value.keys() <= known.keys()
        and all(known[key](value[key]) for key in value)
    )


def _is_fact(value: object, depth: int = 0) -> bool:
    """Whether a value is fit for the record: text, whole numbers, lists and mappings of them."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return all(_is_text(key) and _is_fact(value[key], depth + 1) for key in value)
    if isinstance(value, list):
        return all(_is_fact(one, depth + 1) for one in value)
    return _is_flag_or_null(value) or _is_whole(value) or _is_text(value)


def _is_mapping_of_facts(value: object) -> bool:
    return isinstance(value, dict) and _is_fact(value)


_TLS = _object({"version": _is_text, "cipher": _is_text, "fingerprint": _is_text, "not_after": _is_whole_or_null})
_ATTEMPT = _object(
    {"start": _is_whole, "end": _is_whole, "peer": _is_text, "phases_us": _map_of(_is_whole)},
    {
        "cause": _is_text,
        "failed_phase": _is_text,
        "detail": _is_text,
        "replies": _texts,
        "tls": _TLS,
        "facts": _is_mapping_of_facts,
    },
)
_GUARD = _object(
    {"asked": _is_whole, "online": _is_flag_or_null, "controls": _map_of(_is_text)},
    {
        "answered": _is_whole,
        "online4": _is_flag,
        "online6": _is_flag,
        "resolver": _is_text,
        "lie": _texts,
    },
)
_CLOCK = _object({"boot": _is_text, "end": _is_whole, "start": _is_whole}, {"bound": _is_whole})
_OBSERVATION = _object(
    {
        "target": _is_text,
        "scheduled": _is_whole,
        "start": _is_whole,
        "end": _is_whole,
        "outcome": _is_text,
        "login": _is_flag,
        "attempts": _list_of(_ATTEMPT),
        "clock": _CLOCK,
    },
    {
        "cause": _is_text,
        "failed_phase": _is_text,
        "detail": _is_text,
        "addresses": _texts,
        "partial": _texts,
        "guard": _GUARD,
        "facts": _is_mapping_of_facts,
    },
)
JOB = _object(
    {
        "job": _is_whole,
        "target": _is_text,
        "digest": _is_text,
        "login": _is_flag,
        "every": _is_flag,
        "diagnose": _is_flag,
        "due": _is_whole,
        "within": _is_whole,
    }
)
REFUSAL = _object({"job": _is_whole, "refused": _is_text})
_CERTIFICATE = _object(
    {"not_after": _is_whole_or_null, "unreadable": _is_text, "issuer": _is_text, "names": _texts}
)
RESULT = _object(
    {"job": _is_whole, "observation": _OBSERVATION, "offset": _is_whole},
    {"attributed": _OBSERVATION, "certificates": _map_of(_CERTIFICATE)},
)
MESSAGE = _object(
    {
        "sent": _is_whole,
        "series": _is_text,
        "received": lambda value: (
            value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)))
        ),
        "items": _list_of(lambda value: isinstance(value, dict)),
    }
)

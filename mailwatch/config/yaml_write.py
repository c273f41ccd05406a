"""Writes values as YAML that a person would write: plain where that is unambiguous, else in JSON's quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from mailwatch.config.yaml_file import YamlValue

_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._@+/-]*|[0-9]+(?:ms|s|m|h|d)")
_WORDS = frozenset({"true", "false", "null"})
_INDENT = 2


def scalar(value: YamlValue, *, plain: bool = True) -> str:
    """Return a text, number or truth value as a scalar; texts always in quotes unless `plain`."""
    if isinstance(value, str):
        if plain and _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
            return value
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def flow(value: YamlValue, *, plain: bool = True) -> str:
    """Return a value on one line: {key: value, list: [a, b]}; as JSON unless `plain`."""
    if isinstance(value, Mapping):
        pairs = (f"{scalar(key, plain=plain)}: {flow(item, plain=plain)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(flow(item, plain=plain) for item in value)}]"
    return scalar(value, plain=plain)


def block_pair(key: str, value: YamlValue, column: int) -> Iterator[str]:
    """Yield the lines of a key and its value, indented by `column`."""
    head = f"{' ' * column}{scalar(key)}:"
    inner = column + _INDENT
    if isinstance(value, Mapping) and value:
        yield head
        for name, item in value.items():
            yield from block_pair(name, item, inner)
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) and item for item in value):
        yield head
        for item in value:
            yield from block_item(item, inner)
    elif isinstance(value, str) and _is_literal(value):
        yield f"{head} |-"
        yield from (f"{' ' * inner}{line}" if line else "" for line in value.split("\n"))
    else:
        yield f"{head} {flow(value)}"


def block_item(value: YamlValue, column: int, remarks: Sequence[str] = (), title: str = "") -> Iterator[str]:
    """Yield the lines of an entry of a list, its dash in `column`, and below it the remarks as comments.

    `title`: a comment on its first line, of one line, "" for none.
    """
    inner = column + _INDENT
    beside = f"  # {title}" if title else ""
    if isinstance(value, Mapping) and value:
        lines = (line for key, item in value.items() for line in block_pair(key, item, inner))
        for number, line in enumerate(lines):
            yield line if number else f"{' ' * column}- {line[inner:]}{beside}"
    else:
        yield f"{' ' * column}- {flow(value)}{beside}"
    yield from (f"{' ' * inner}# {remark}" for remark in remarks)


def _is_literal(text: str) -> bool:
    """Whether a text of several lines can stand as it is, below "|-"."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and all(line == line.strip() and line.isprintable() for line in lines)
        and all((lines[0], lines[-1]))
    )

"""Changes single places of a YAML text and keeps every other byte: comments, order, quotes, blank lines.

Adding an entry and removing it again gives the same text. An added entry follows the last one of its list; a new
section follows the comment that has it as an example, else everything else. Comments outside of an entry stay.
Places are found by the parser's own marks (yaml.Node), so that only YAML that MailWatch reads is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import yaml

from mailwatch.config.errors import KeyPath
from mailwatch.config.yaml_file import YamlValue, compose
from mailwatch.config.yaml_write import block_item, block_pair, flow, scalar

_BLANK = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_COMMENT = re.compile(r"([ \t]*)#[^\n]*(?:\n|\Z)")


class UneditableError(Exception):
    """The text is written in a way in which the change cannot be made."""


class NewItem(NamedTuple):
    """An entry to add to a list, with a comment on its first line, and lines of comment below it.

    A list on one line takes no comments.
    """

    value: YamlValue
    remarks: Sequence[str] = ()
    title: str = ""


def append_items(text: str, place: KeyPath, entries: Sequence[NewItem]) -> str:
    """Add entries to the list at a place, which is created if it is missing. Raises UneditableError."""
    found = _find(text, place)
    if found is None:
        return _add_list(text, place, entries)
    key, node = found
    if not isinstance(node, yaml.SequenceNode):
        raise UneditableError
    if node.flow_style:
        if not node.value and key and (line := _commented_empty(text, key, node, "[]")):
            return _insert(line[0], line[1], _item_lines(entries, key.start_mark.column + 2))
        plain = not _is_json(text)
        return _append_flow(text, node, [flow(item.value, plain=plain) for item in entries])
    at = _end_of_entry(text, node.value[-1], node.start_mark.column)
    return _insert(text, at, _item_lines(entries, node.start_mark.column))


def _item_lines(entries: Sequence[NewItem], column: int) -> Iterator[str]:
    for item in entries:
        yield from block_item(item.value, column, item.remarks, item.title)


def remove_item(text: str, place: KeyPath) -> str:
    """Remove an entry of a list; the last one with its section, unless that has comments.

    Raises UneditableError.
    """
    (key, node), number = _find(text, place[:-1]) or (None, None), place[-1]
    if not isinstance(node, yaml.SequenceNode) or not isinstance(number, int):
        raise UneditableError
    if node.flow_style:
        return _remove_flow(text, [(item, item) for item in node.value], number)
    start = _dash(text, node.value[number], node.start_mark.column)
    end = _end_of_entry(text, node.value[number], node.start_mark.column)
    if len(node.value) == 1 and key is not None:
        return _remove_last(text, key, start, end, "[]")
    return _cut(text, start, end)


def set_value(text: str, place: KeyPath, value: YamlValue) -> str:
    """Give a key a value; sections above it are created if they are missing. Raises UneditableError."""
    found = _find(text, place)
    if found is not None:
        return _replace(text, found, value)
    name = str(place[-1])
    if len(place) == 1:
        return _add_section(text, name, value)
    above = _find(text, place[:-1])
    if above is None:
        return set_value(text, place[:-1], {name: value})
    _, node = above
    if not isinstance(node, yaml.MappingNode):
        raise UneditableError
    if node.flow_style:
        plain = not any(known.style == '"' for known, _ in node.value) and not _is_json(text)
        return _append_flow(text, node, [f"{scalar(name, plain=plain)}: {flow(value, plain=plain)}"])
    at = _line_end(text, _content_end(text, node))
    return _insert(text, at, block_pair(name, value, node.start_mark.column))


def remove_key(text: str, place: KeyPath) -> str:
    """Remove a key and its value; the last one of a section with it. Raises UneditableError."""
    above = _find(text, place[:-1])
    if above is None:
        return text
    section, node = above
    if not isinstance(node, yaml.MappingNode):
        raise UneditableError
    number = next((number for number, (known, _) in enumerate(node.value) if known.value == place[-1]), None)
    if number is None:
        return text
    if node.flow_style:
        return _remove_flow(text, node.value, number)
    key, value = node.value[number]
    if not _begins_line(text, key):
        # The key stands behind the dash of its entry, where the next one takes its place.
        if number + 1 == len(node.value):
            raise UneditableError
        return text[: key.start_mark.index] + text[node.value[number + 1][0].start_mark.index :]
    start, end = _line_start(text, key.start_mark.index), _line_end(text, _content_end(text, value))
    if len(node.value) == 1 and section is not None:
        return _remove_last(text, section, start, end, "{}")
    return _cut_section(text, start, end) if len(place) == 1 else _cut(text, start, end)


def comment_of(text: str, place: KeyPath) -> str:
    """Return the comment on the line of a value, "" without one."""
    found = _find(text, place)
    if found is None:
        return ""
    end = _content_end(text, found[1])
    rest = text[end : _line_end(text, end)].strip()
    return rest if rest.startswith("#") else ""


_Found = tuple[yaml.Node | None, yaml.Node]


def _find(text: str, place: KeyPath) -> _Found | None:
    """Return the key, if it has one, and the value at a place; None if there is none."""
    node, key = compose(text), None
    if node is None:
        return None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((known, value) for known, value in node.value if known.value == part), None)
            if pair is None:
                return None
            key, node = pair
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            key, node = None, node.value[part]
        else:
            return None
    return key, node


def _is_json(text: str) -> bool:
    root = compose(text)
    return isinstance(root, yaml.MappingNode) and bool(root.flow_style)


# Lists and mappings on one line


def _append_flow(text: str, node: yaml.CollectionNode, written: Sequence[str]) -> str:
    if not node.value:
        at = node.start_mark.index + 1
        return text[:at] + ", ".join(written) + text[at:]
    last, first = node.value[-1], node.value[0]
    if isinstance(node, yaml.MappingNode):
        last, first = last[1], first[0]
    at = last.end_mark.index
    between = ", "
    start = _line_start(text, first.start_mark.index)
    if not text[start : first.start_mark.index].strip():
        # Each entry has a line of its own.
        between = f",{_newline(text)}{text[start : first.start_mark.index]}"
    return text[:at] + "".join(f"{between}{one}" for one in written) + text[at:]


def _remove_flow(text: str, pairs: Sequence[tuple[yaml.Node, yaml.Node]], number: int) -> str:
    """Remove an entry of a list or mapping in brackets, with the comma before it, else the one behind it."""
    first, last = pairs[number]
    start, end = first.start_mark.index, last.end_mark.index
    if number > 0:
        start = pairs[number - 1][1].end_mark.index
    elif len(pairs) > 1:
        end = pairs[number + 1][0].start_mark.index
    return text[:start] + text[end:]


# Lists and mappings in lines


def _add_list(text: str, place: KeyPath, entries: Sequence[NewItem]) -> str:
    if len(place) != 1 or not isinstance(place[0], str):
        raise UneditableError
    if _is_json(text):
        return set_value(text, place, [item.value for item in entries])
    return _insert_section(text, place[0], [f"{place[0]}:", *_item_lines(entries, 2)])


def _add_section(text: str, name: str, value: YamlValue) -> str:
    root = compose(text)
    if isinstance(root, yaml.MappingNode) and root.flow_style:
        return _append_flow(text, root, [f"{scalar(name, plain=False)}: {flow(value, plain=False)}"])
    return _insert_section(text, name, block_pair(name, value, 0))


def _insert_section(text: str, name: str, lines: Iterable[str]) -> str:
    """Insert the lines of a section below its commented example, else at the end, with a blank line before it."""
    root = compose(text)
    is_plain = root is None or (isinstance(root, yaml.MappingNode) and not root.start_mark.column)
    if not is_plain or re.search(r"^(\.\.\.|---|%)", text, re.MULTILINE):
        raise UneditableError
    at = _end_of_example(text, name)
    if at is None:
        at = len(text)
        while at > 0 and not text[_line_start(text, at - 1) : at].strip():
            at = _line_start(text, at - 1)
    return _insert(text, at, ["", *lines] if at > 0 and _BLANK.match(text, at) else lines)


def _end_of_example(text: str, name: str) -> int | None:
    """Return the end of the comment that has a section as an example: "# accounts:" and the comment below it."""
    for found in re.finditer(rf"^# ?{re.escape(name)}:", text, re.MULTILINE):
        at = found.start()
        while (line := _COMMENT.match(text, at)) and line.end() > at:
            at = line.end()
        follows = re.match(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*", text[at:])
        # Not in the middle of another section.
        if follows and text[at + follows.end() : at + follows.end() + 1] not in (" ", "\t", "-"):
            return at
    return None


def _remove_last(text: str, key: yaml.Node, start: int, end: int, empty: str) -> str:
    """Remove the last entry of a section, with the section; if that has comments of its own, it stays `empty`."""
    if not _begins_line(text, key):
        raise UneditableError
    colon = text.index(":", key.end_mark.index) + 1
    if text[colon:start].strip():
        return text[:colon] + f" {empty}" + _cut(text[colon:], start - colon, end - colon)
    return _cut_section(text, _line_start(text, key.start_mark.index), end)


def _cut_section(text: str, start: int, end: int) -> str:
    """Remove the lines of a section, and the blank line before it if another follows."""
    if start > 0 and _BLANK.match(text, end):
        above = _line_start(text, start - 1)
        if not text[above:start].strip():
            start = above
    return _cut(text, start, end)


def _begins_line(text: str, key: yaml.Node) -> bool:
    return not text[_line_start(text, key.start_mark.index) : key.start_mark.index].strip()


def _replace(text: str, found: _Found, value: YamlValue) -> str:
    key, node = found
    end = _content_end(text, node)
    style = node.style if isinstance(node, yaml.ScalarNode) else None
    is_flow = node.flow_style if isinstance(node, yaml.CollectionNode) else style not in ("|", ">")
    if key is not None and _begins_line(text, key) and not _is_json(text):
        lines = list(block_pair(key.value, value, key.start_mark.column))
        if not is_flow or len(lines) > 1:
            at = _line_start(text, key.start_mark.index)
            rest = _cut(text, at, _line_end(text, end))
            return _insert(rest, min(at, len(rest)), lines)
    if not is_flow:
        raise UneditableError
    plain = not _is_json(text) and style != '"'
    return text[: node.start_mark.index] + flow(value, plain=plain) + text[end:]


def _commented_empty(text: str, key: yaml.Node, node: yaml.Node, empty: str) -> tuple[str, int] | None:
    """Return the text without an empty list that only stands before a comment, and where its entries go."""
    colon, end = text.index(":", key.end_mark.index) + 1, node.end_mark.index
    if text[colon:end] != f" {empty}" or not text[end : _line_end(text, end)].strip().startswith("#"):
        return None
    if not _begins_line(text, key):
        return None
    line = _line_end(text, end)
    while (comment := _COMMENT.match(text, line)) and len(comment[1]) > key.start_mark.column:
        line = comment.end()
    return text[:colon] + text[end:], line - (end - colon)


def _content_end(text: str, node: yaml.Node) -> int:
    """Return where the last value within a node ends, without the blanks and comments behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _content_end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
    end: int = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        end = len(text[:end].rstrip())
    return end


def _end_of_entry(text: str, item: yaml.Node, column: int) -> int:
    """Return the end of the lines of an entry, with the comments directly below it that are indented deeper."""
    at = _line_end(text, _content_end(text, item))
    while (line := _COMMENT.match(text, at)) and line.end() > at and len(line[1]) > column:
        at = line.end()
    return at


def _dash(text: str, item: yaml.Node, column: int) -> int:
    """Return the start of the line with the dash of an entry."""
    at = _line_start(text, item.start_mark.index)
    while text[at + column : at + column + 1] != "-" or text[at : at + column].strip():
        if at == 0:
            raise UneditableError
        at = _line_start(text, at - 1)
    return at


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, max(at, 0)) + 1


def _line_end(text: str, at: int) -> int:
    """Return where the next line starts, or the text ends."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _insert(text: str, at: int, lines: Iterable[str]) -> str:
    """Insert whole lines; at the end of a text without a final line break, the new text has none either."""
    newline = _newline(text)
    if at == len(text) and text and not text.endswith("\n"):
        return text + "".join(f"{newline}{line}" for line in lines)
    return text[:at] + "".join(f"{line}{newline}" for line in lines) + text[at:]


def _cut(text: str, start: int, end: int) -> str:
    """Remove whole lines; from the end of a text without a final line break, the one before them too."""
    if end == len(text) and start > 0 and not text.endswith("\n"):
        start -= len(_newline(text)) if text[:start].endswith(_newline(text)) else 1
    return text[:start] + text[end:]

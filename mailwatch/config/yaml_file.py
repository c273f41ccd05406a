"""Parses YAML with line numbers, and only the subset of YAML that a config needs.

Words stay words: `off`, `no` and `12:30` are text here (YAML 1.1 would make False and 750 of them). Anchors,
aliases, tags and duplicate keys are refused: with each, the text may mean something other than it seems, and
aliases can make a small file huge.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mailwatch.config.errors import ConfigError, ConfigNotFoundError, ConfigProblem, FieldError, KeyPath
from mailwatch.config.files import read_file

MAX_CONFIG_BYTES = 4_000_000
_MAX_DEPTH = 20
MAX_NODES = 400_000
"""Keys and values; each takes a KiB of memory and tens of microseconds. Ten thousand targets have half."""

YamlValue = dict[str, "YamlValue"] | list["YamlValue"] | str | int | float | bool | None


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the scalars of YAML 1.2 only, without the C parts of libyaml."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _syntax_error(event.start_mark, "anchors and aliases are not supported; write the value again")
        if getattr(event, "tag", None):
            raise _syntax_error(
                event.start_mark, "tags are not supported; put the text in quotes if it begins with !"
            )
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _syntax_error(event.start_mark, f"more than {MAX_NODES} values; is it the right file?")
        if self.depth >= _MAX_DEPTH:
            raise _syntax_error(event.start_mark, f"more than {_MAX_DEPTH} levels deep; flatten it")
        self.depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        return node


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]{0,18})$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]{1,18}\.[0-9]{1,18}$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def compose(text: str) -> yaml.Node | None:
    """Return the tree of a text, whose nodes know their places, None without content. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        root: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return root


class YamlDocument:
    """A config file as plain data, with the line of each place.

    `raw`: its content, instead of what the file holds.
    """

    def __init__(self, path: Path, raw: bytes | None = None) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {(): 1}
        self.problems: list[ConfigProblem] = []
        self.data: YamlValue = None
        text = _decode(path, read_config(path) if raw is None else raw)
        try:
            loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError([ConfigProblem(path, line, "control character; remove it")]) from None
        try:
            root = loader.get_single_node()
            if root is not None:
                self.data = self._plain(loader, root, ())
        except yaml.MarkedYAMLError as error:
            raise ConfigError([_syntax_problem(path, error)]) from None
        finally:
            loader.dispose()

    def line(self, place: KeyPath) -> int:
        """Return the line of a place, or of the nearest existing section around it."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def problem(self, path: KeyPath, what: str) -> ConfigProblem:
        """Return a problem at a place."""
        return ConfigProblem(self.path, self.line(path), what)

    def _plain(self, loader: _Loader, node: yaml.Node, place: KeyPath) -> YamlValue:
        if isinstance(node, yaml.SequenceNode):
            items: list[YamlValue] = []
            for number, item in enumerate(node.value):
                self.lines[(*place, number)] = item.start_mark.line + 1
                items.append(self._plain(loader, item, (*place, number)))
            return items
        if not isinstance(node, yaml.MappingNode):
            value: YamlValue = loader.construct_object(node)
            return self._clean_text(value, node.start_mark.line + 1) if isinstance(value, str) else value
        section: dict[str, YamlValue] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(ConfigProblem(self.path, line, "a key must be a word; write key: value"))
                continue
            here = (*place, self._clean_text(key.value, line))
            if here in self.lines:
                what = f"key '{key.value}' is already on line {self.lines[here]}; keep one"
                self.problems.append(ConfigProblem(self.path, line, what))
                continue
            self.lines[here] = line
            section[str(here[-1])] = self._plain(loader, item, here)
        return section

    def _clean_text(self, text: str, line: int) -> str:
        """Join surrogate pairs, as JSON writes them, and report characters that no text has."""
        if "\0" in text:
            self.problems.append(ConfigProblem(self.path, line, "contains a NUL character (\\0); remove it"))
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            what = "contains half a character (\\ud800 to \\udfff); write the character itself"
            self.problems.append(ConfigProblem(self.path, line, what))
            return text.encode("utf-8", "replace").decode()


def read_config(path: Path) -> bytes:
    """Return the content of a config file. Raises ConfigNotFoundError."""
    try:
        return read_file(path, MAX_CONFIG_BYTES + 1, "create it (see config.example.yaml), or name another")
    except FieldError as fault:
        what = str(fault).removeprefix(f"{path} ").replace("name the file", "name the YAML file")
        raise ConfigNotFoundError([ConfigProblem(path, 1, what)]) from None


def _decode(path: Path, raw: bytes) -> str:
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(
            [ConfigProblem(path, 1, f"is larger than {MAX_CONFIG_BYTES} bytes; is it the right file?")]
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([ConfigProblem(path, line, "is not UTF-8; save the file as UTF-8")]) from None


def _syntax_error(mark: yaml.Mark, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


def _syntax_problem(path: Path, error: yaml.MarkedYAMLError) -> ConfigProblem:
    mark = error.problem_mark or error.context_mark
    # The text that YAML quotes in a message may be part of a password.
    problem = re.sub(r"'[^']*'|\"[^\"]*\"", _hide_quoted, error.problem or "cannot be read")
    advice = "indent with spaces" if r"'\t'" in problem else "check indentation and quotes"
    what = problem if ";" in problem else f"not YAML: {problem}; {advice}"
    return ConfigProblem(path, mark.line + 1 if mark else 1, what)


def _hide_quoted(quoted: re.Match[str]) -> str:
    """Return a quoted text if it is a single character or a token name such as '<block end>', else "..."."""
    return quoted[0] if len(quoted[0]) <= 4 or quoted[0][1] == "<" else "..."

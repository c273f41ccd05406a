"""No text, key or rule of style that nothing uses, or that stands twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT

WEB = ROOT / "mailwatch" / "web"
STYLES = sorted((WEB / "static").glob("*.css"))
_STATED = "up down suspect recovering unknown paused maintenance nodata unread undecided closed ended danger"
_STEPS = "passed failed good"
_PHASES = "resolve connect tls greeting auth mailbox fetch submit deliver whole"
GIVEN = {*_STATED.split(), *_STEPS.split(), *_PHASES.split()}
"""Classes that templates take from the data."""


def _shipped() -> list[Path]:
    folders = ("mailwatch", "grafana", "prometheus", "deploy", ".github")
    found = [*ROOT.glob("*.y*ml"), *(path for name in folders for path in (ROOT / name).rglob("*.y*ml"))]
    return sorted(path for path in found if path.name != "config.yaml")


def _keys_twice(text: str) -> list[str]:
    """Return each key that stands more than once in one mapping, with its line."""
    found: list[str] = []
    nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            found += [f"{key} (line {node.start_mark.line + 1})" for key, count in keys.items() if count > 1]
            nodes += [value for _, value in node.value]
    return found


def test_no_key_stands_twice_in_a_yaml_file() -> None:
    """PyYAML silently takes the last of them."""
    files = _shipped()
    assert len(files) > 30
    assert {str(path): twice for path in files if (twice := _keys_twice(path.read_text(encoding="utf-8")))} == {}
    assert _keys_twice("c:\n- a: {b: 1, b: 2}") == ["b (line 2)"]


def _source(*suffixes: str) -> str:
    return "\n".join(path.read_text() for path in WEB.rglob("*") if path.suffix in suffixes)


def _rules(css: str) -> Iterator[tuple[str, ...]]:
    """Yield each selector with the queries that it stands in."""
    within: list[str] = []
    for before, brace in re.findall(r"([^{}]*)([{}])", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)):
        if brace == "}":
            within.pop()
            continue
        within.append(" ".join(before.rpartition(";")[2].split()))
        if not within[-1].startswith("@"):
            yield tuple(within)


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_each_rule_of_style_stands_once_and_has_its_class(path: Path) -> None:
    rules = list(_rules(path.read_text()))
    assert [rule for rule, count in Counter(rules).items() if count > 1] == []
    templates, scripts = _source(".html"), _source(".js")
    written = re.findall(r'class="((?:[^"{]|\{\{.*?\}\}|\{%.*?%\})*)"', templates, re.DOTALL)
    classes = set(re.findall(r"[\w-]+", " ".join(written)))
    made = re.findall(r'(?:className = |classList\.\w+\()"(.*?)"', scripts)
    classes |= set(" ".join(made).split())
    named = set(re.findall(r"\.([a-z][\w-]*)", " ".join(rule[-1] for rule in rules)))
    assert named - classes - GIVEN == set()

"""The texts of the pages hold nothing that no page shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import jinja2
from jinja2 import nodes

import mailwatch.web
from mailwatch.web.templating import texts


def test_every_text_of_the_pages_is_used() -> None:
    """A key counts only where a template of these pages, or their code, takes it from their texts."""
    web = Path(mailwatch.web.__file__).parent
    taken = _taken_in_templates(web / "templates") | _taken_in_code(web)
    unused = [
        f"{section}.{key}" if key else section
        for section, text in texts("en").items()
        for key in ["", *(text if isinstance(text, dict) else ())]
        if not ({(section, key), (section, ANY)} if key else {(section,), (ANY,)}) & taken
    ]
    assert unused == []


ANY = "*"
"""A key that is known only when the page is made: that of a state, a cause, a phase."""


def _taken_in_templates(folder: Path) -> set[tuple[str, ...]]:
    """The keys that the templates take from `w`, also by another name for one of its sections."""
    found: set[tuple[str, ...]] = set()
    for file in (one for one in folder.iterdir() if one.suffix in (".html", ".atom")):
        tree = jinja2.Environment(autoescape=True).parse(file.read_text())
        sections: dict[str, tuple[str, ...]] = {"w": ()}
        for assign in tree.find_all(nodes.Assign):
            if isinstance(assign.target, nodes.Name) and (keys := _keys(assign.node, sections)):
                sections[assign.target.name] = keys
        taken = (_keys(one, sections) for one in tree.find_all((nodes.Getattr, nodes.Getitem)))
        found |= {keys for keys in taken if keys}
    return found


def _keys(node: nodes.Node, sections: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    if isinstance(node, nodes.Name):
        return sections.get(node.name)
    if not isinstance(node, nodes.Getattr | nodes.Getitem):
        return None
    before = _keys(node.node, sections)
    if isinstance(node, nodes.Getattr):
        # {{ w.cause.get(cause, cause) }}
        key = ANY if node.attr == "get" else node.attr
    else:
        key = node.arg.value if isinstance(node.arg, nodes.Const) else ANY
    return None if before is None else (*before, key)


def _taken_in_code(folder: Path) -> set[tuple[str, ...]]:
    """The keys in brackets in the code of the pages: w["badge"]["uptime"], texts(language)["problem"][why]."""
    found: set[tuple[str, ...]] = set()
    for file in folder.glob("*.py"):
        walked = list(ast.walk(ast.parse(file.read_text())))
        sections = dict(_named_sections(walked))
        for node in (one for one in walked if isinstance(one, ast.Subscript)):
            key, value = _constant(node.slice), node.value
            if key:
                found.add((key,))
            if isinstance(value, ast.Subscript):
                found.add((_constant(value.slice) or "", key or ANY))
            elif isinstance(value, ast.Name) and value.id in sections:
                found.add((sections[value.id], key or ANY))
    return found


def _named_sections(walked: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """The names to which code assigns a section, as in `text, percent = texts(language)["starting"], 0`."""
    for node in (one for one in walked if isinstance(one, ast.Assign)):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                key = _constant(value.slice) if isinstance(value, ast.Subscript) else None
                if isinstance(name, ast.Name) and key:
                    yield name.id, key


def _constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

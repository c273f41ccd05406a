"""The checker of words finds what it must, leaves alone what is right, and the enforced folders are clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import prose

REJECTED = prose.Word.read({"reject": "look(s|ed)?", "instead": "probe", "allow": ["look(s|ed)? up"]})
PRODUCT = prose.Word.read({"reject": "outlook", "instead": "read model", "case": True})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the last look at it", ["look"]),
        ("Looked at once", ["Looked"]),
        ("look up a name, then look", ["look"]),
        ("a lookup of an overlooked name", []),
        ("the look-ahead", []),
    ],
)
def test_a_rejected_word_is_found_as_a_whole_word_and_not_in_an_allowed_phrase(
    text: str, found: list[str]
) -> None:
    assert list(REJECTED.found(text)) == found


def test_the_name_of_a_product_is_not_a_word() -> None:
    assert list(PRODUCT.found("Outlook and the outlook")) == ["outlook"]


def test_in_markdown_code_and_addresses_are_no_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one `look`\n\n    look()\n\n```\nlook\n```\n[a look](look.md) <look>\n")
    assert [(number, list(REJECTED.found(line))) for number, line in prose.prose(page)] == [
        (1, []),
        (2, []),
        (4, []),
        (8, ["look"]),
    ]


def test_in_python_docstrings_and_comments_are_prose_and_names_are_not(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""A look.\n\nA look."""\nlook = "look"  # a look\n"""What a look is."""\n')
    hits = [number for number, line in prose.prose(module) for _ in REJECTED.found(line)]
    assert sorted(hits) == [1, 3, 4, 5]


def test_in_texts_for_people_the_values_are_prose(tmp_path: Path) -> None:
    texts = tmp_path / "en.yaml"
    texts.write_text("look: nothing\nother: a look\n")
    assert [number for number, line in prose.prose(texts) for _ in REJECTED.found(line)] == [2]


def test_a_line_of_markdown_that_could_be_shorter_is_too_long(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{'word ' * 30}\n| {'cell ' * 30} |\n{'x' * 200}\n")
    assert list(prose.too_long(page)) == [1]


def test_a_private_name_is_found_by_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def _told(untold: str) -> str:\n    return untold.told  # told\n")
    assert list(prose.private_names(file, frozenset({"told"}))) == [(1, "_told"), (2, "told")]

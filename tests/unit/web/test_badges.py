"""Badges, drawn as pictures that other sites show."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from mailwatch.web.badges import _COLOURS, Badge, draw


@pytest.mark.parametrize("text", ["up", "", "<script>alert(1)</script>", 'a"b&c', "è " * 30, "\u202e"])
def test_a_badge_parses_as_xml_and_is_as_wide_as_its_parts(text: str) -> None:
    root = ET.fromstring(draw(Badge(text, text, "up")))
    width = int(root.attrib["width"])
    parts = [int(one.attrib["width"]) for one in root[2]]
    assert sum(parts) == width
    assert [element.text or "" for element in root[3]] == [text, text]


def test_the_label_can_be_replaced() -> None:
    assert ">Mail</text>" in draw(Badge("libero imap", "up", "up"), "Mail")


@pytest.mark.parametrize("colour", _COLOURS.values())
def test_white_text_has_enough_contrast(colour: str) -> None:
    def linear(part: str) -> float:
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[at : at + 2]) for at in (1, 3, 5))
    assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 4.5

"""A change of a config keeps every byte that it does not concern, and can be undone to the byte."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.config.errors import KeyPath
from mailwatch.config.yaml_edit import (
    NewItem,
    UneditableError,
    append_items,
    comment_of,
    remove_item,
    remove_key,
    set_value,
)
from mailwatch.config.yaml_file import YamlDocument, YamlValue
from tests.helpers.paths import ROOT

ACCOUNT: YamlValue = {
    "address": "mario.rossi@libero.it",
    "password_file": "secrets/mario.rossi@libero.it",
    "channels": ["imap", "smtp"],
}
EXAMPLE = (ROOT / "config.example.yaml").read_text(encoding="utf-8")


def append_item(text: str, place: KeyPath, value: YamlValue, remarks: Sequence[str] = ()) -> str:
    return append_items(text, place, [NewItem(value, remarks)])


def data(text: str) -> YamlValue:
    return YamlDocument(Path("config.yaml"), text.encode()).data


def comments(text: str) -> list[str]:
    """The comments of a text, each with what stands before it on its line."""
    found = (line.strip() for line in text.splitlines())
    return [line[line.index("#") :] for line in found if "#" in line]


def test_an_account_is_added_where_its_example_stands() -> None:
    changed = append_item(EXAMPLE, ("accounts",), ACCOUNT)
    lines = changed.splitlines()
    begin = lines.index("accounts:")
    assert lines[begin - 1] == ""
    assert lines[begin - 2].startswith("#       # ca_file: ca.pem")
    assert lines[begin + 1 : begin + 6] == [
        "  - address: mario.rossi@libero.it",
        "    password_file: secrets/mario.rossi@libero.it",
        "    channels: [imap, smtp]",
        "",
        "targets:                          # the long form: any server",
    ]
    assert remove_item(changed, ("accounts", 0)) == EXAMPLE


def test_an_added_entry_follows_the_last_one_and_its_comments() -> None:
    text = (
        "accounts:                # the family\n"
        "  # first\n"
        "  - address: a@libero.it   # Anna's\n"
        "    password_env: A\n"
        "    # interval: 60s\n"
        "  # - address: example@libero.it\n"
        "\n"
        "targets: []\n"
    )
    changed = append_item(text, ("accounts",), ACCOUNT, ["left out: pop3"])
    assert changed.splitlines()[4:10] == [
        "    # interval: 60s",
        "  - address: mario.rossi@libero.it",
        "    password_file: secrets/mario.rossi@libero.it",
        "    channels: [imap, smtp]",
        "    # left out: pop3",
        "  # - address: example@libero.it",
    ]
    assert remove_item(changed, ("accounts", 1)) == text
    only = remove_item(changed, ("accounts", 0))
    assert comments(only) == ["# the family", "# first", "# left out: pop3", "# - address: example@libero.it"]
    none = remove_item(only, ("accounts", 0))
    assert none.startswith("accounts: []                # the family\n  # first\n  # - address")
    assert append_item(none, ("accounts",), ACCOUNT, ["left out: pop3"]).count("\n") == only.count("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accounts: [{address: a}]\n", "accounts: [{address: a}, {address: b}]\n"),
        ("accounts: [{address: a,}, ]\n", "accounts: [{address: a,}, {address: b}, ]\n"),
        ("accounts: []\n", "accounts: [{address: b}]\n"),
        ("accounts: []  # none\nx: 1\n", "accounts:  # none\n  - address: b\nx: 1\n"),
        ("accounts:\n- address: a\nx: 1\n", "accounts:\n- address: a\n- address: b\nx: 1\n"),
        ("accounts:\n    -   address: a\n", "accounts:\n    -   address: a\n    - address: b\n"),
        ("accounts:\n  -\n    address: a\n", "accounts:\n  -\n    address: a\n  - address: b\n"),
        ("accounts:\r\n  - address: a\r\n", "accounts:\r\n  - address: a\r\n  - address: b\r\n"),
        ("x: 1\naccounts:\n  - address: a", "x: 1\naccounts:\n  - address: a\n  - address: b"),
        ("x: 1", "x: 1\n\naccounts:\n  - address: b"),
        ("x: 1\n\n\n", "x: 1\n\naccounts:\n  - address: b\n\n\n"),
        ("", "accounts:\n  - address: b\n"),
        ("# only\n", "# only\n\naccounts:\n  - address: b\n"),
        ('{"x": 1}', '{"x": 1, "accounts": [{"address": "b"}]}'),
        ('{"accounts": [\n  {"address": "a"}\n]}', '{"accounts": [\n  {"address": "a"},\n  {"address": "b"}\n]}'),
    ],
)
def test_each_way_of_writing_a_list_is_kept(text: str, expected: str) -> None:
    changed = append_item(text, ("accounts",), {"address": "b"})
    assert changed == expected
    made = data(changed)
    assert isinstance(made, dict)
    assert isinstance(made["accounts"], list)
    back = remove_item(changed, ("accounts", len(made["accounts"]) - 1))
    if not text.startswith("{") or "accounts" in text:
        assert back == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accounts:\n  - address: a\n    # note\n", "accounts:\n  - address: a\n    paused: true\n    # note\n"),
        ("accounts:\n  - {address: a}  # note\n", "accounts:\n  - {address: a, paused: true}  # note\n"),
        ('{"accounts": [{"address": "a"}]}', '{"accounts": [{"address": "a", "paused": true}]}'),
        ('accounts: [{"address": "a"}]', 'accounts: [{"address": "a", "paused": true}]'),
        (
            "accounts:\n  - address: a\n    oauth2:\n      client_id: b  # c\n",
            "accounts:\n  - address: a\n    oauth2:\n      client_id: b  # c\n    paused: true\n",
        ),
    ],
)
def test_a_key_is_added_to_an_entry_and_removed(text: str, expected: str) -> None:
    changed = set_value(text, ("accounts", 0, "paused"), True)
    assert changed == expected
    assert remove_key(changed, ("accounts", 0, "paused")) == text


def test_a_value_is_replaced_and_nothing_beside_it() -> None:
    text = "web:\n  listen:   '127.0.0.1:8080'   # here\n  hosts: [a, b]\n"
    changed = set_value(text, ("web", "listen"), "0.0.0.0:80")
    assert changed == text.replace("'127.0.0.1:8080'", '"0.0.0.0:80"')
    assert set_value(text, ("web", "hosts"), ["c"]) == text.replace("[a, b]", "[c]")
    assert comment_of(text, ("web", "listen")) == "# here"
    lines = set_value(text, ("web", "text"), "One.\n\nTwo: three # four.")
    assert lines.endswith("  text: |-\n    One.\n\n    Two: three # four.\n")
    assert remove_key(lines, ("web", "text")) == text
    assert set_value(lines, ("web", "text"), "One.\nTwo.").endswith("  text: |-\n    One.\n    Two.\n")


def test_a_section_is_added_with_its_key_and_removed_with_it() -> None:
    text = "# web:\n#   listen: x\n\nx: 1\n"
    changed = set_value(text, ("web", "title"), "Mail")
    assert changed == "# web:\n#   listen: x\n\nweb:\n  title: Mail\n\nx: 1\n"
    assert remove_key(changed, ("web", "title")) == text
    assert remove_key("paused: true\nx: 1\n", ("paused",)) == "x: 1\n"
    assert remove_key("a:\n  - paused: true\n    x: 1\n", ("a", 0, "paused")) == "a:\n  - x: 1\n"


words = st.text(st.characters(exclude_characters="#", exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=12)
scalars = st.one_of(words, st.integers(-99, 99), st.booleans(), st.just("true"), st.just("1.5"), st.just("a: b"))
keys = st.sampled_from(["address", "name", "x-y", "a b", "é", "true", "1"])
entries = st.dictionaries(
    keys,
    st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(keys, scalars, min_size=1, max_size=2)),
    min_size=1,
    max_size=3,
)
notes = st.sampled_from(["", "  # a note", " # - address: x", "   # accounts: {"])
blanks = st.sampled_from(["", "\n", "# a comment\n", "  # deeper\n\n", "#accounts:\n#  - x: 1\n", "\n\n"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A config as people write it: sections in lines or brackets, comments anywhere, any indentation."""
    parts = [draw(blanks)]
    for section in draw(st.permutations(["web", "accounts", "zeta"])):
        if draw(st.booleans()):
            continue
        column = draw(st.sampled_from([0, 2, 4]))
        parts.append(f"{section}:{draw(notes)}\n")
        if section != "accounts":
            parts.append(f"  one: 1{draw(notes)}\n{draw(blanks)}  two: [a, 'b']{draw(notes)}\n")
        elif draw(st.booleans()):
            parts[-1] = f"accounts: [{{address: 'q', a: \"b\"}}]{draw(notes)}\n"
        else:
            for number in range(draw(st.integers(1, 3))):
                inner = " " * (column + 2)
                parts.append(f"{draw(blanks)}{' ' * column}- address: n{number}{draw(notes)}\n")
                parts.append(f"{inner}more: {{k: [1, 2]}}{draw(notes)}\n")
                parts.append(draw(st.sampled_from(["", f"{inner}# in\n"])))
        parts.append(draw(blanks))
    text = "".join(parts)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


@settings(max_examples=300)
@given(texts(), entries, st.sampled_from([(), ("left out: pop3", "why")]))
def test_what_is_added_and_removed_leaves_the_same_bytes(
    text: str, entry: dict[str, YamlValue], remarks: tuple[str, ...]
) -> None:
    before = data(text) or {}
    assert isinstance(before, dict)
    listed = before.get("accounts", [])
    assert isinstance(listed, list)
    changed = append_item(text, ("accounts",), entry, remarks)
    assert data(changed) == {**before, "accounts": [*listed, entry]}
    assert [one for one in comments(changed) if one.removeprefix("# ") not in remarks] == comments(text)
    assert remove_item(changed, ("accounts", len(listed))) == text


@settings(max_examples=300)
@given(texts(), scalars, st.sampled_from([("web", "new"), ("accounts", 0, "paused"), ("new",), ("web", "one")]))
def test_a_value_is_set_and_removed_without_a_trace(
    text: str, value: YamlValue, place: tuple[str | int, ...]
) -> None:
    found = data(text) or {}
    assert isinstance(found, dict)
    if place[0] == "accounts" and "accounts" not in found:
        return
    changed = set_value(text, place, value)
    here: YamlValue = data(changed)
    for part in place:
        here = here[part]  # type: ignore[index]
    assert here == value
    assert comments(changed) == comments(text) or isinstance(value, str)
    if place != ("web", "one"):
        assert remove_key(changed, place) == text


@settings(max_examples=200)
@given(texts(), st.integers(0, 2))
def test_comments_outside_of_an_entry_survive_its_removal(text: str, number: int) -> None:
    found = data(text) or {}
    assert isinstance(found, dict)
    listed = found.get("accounts", [])
    assert isinstance(listed, list)
    if number >= len(listed):
        return
    changed = remove_item(text, ("accounts", number))
    rest = [item for place, item in enumerate(listed) if place != number]
    after = data(changed) or {}
    assert isinstance(after, dict)
    assert (after.get("accounts") or []) == rest
    assert {key: after[key] for key in after if key != "accounts"} == {
        key: found[key] for key in found if key != "accounts"
    }
    lines, left = text.splitlines(), changed.splitlines()
    gone = [line for line in lines if line.strip().startswith("#") and lines.count(line) > left.count(line)]
    # Only what is indented below the entry, or lies within it, is gone.
    assert all(line.startswith(" ") for line in gone)


def test_what_cannot_be_changed_is_refused() -> None:
    for text in ("- a\n", "a: 1\n...\n", "accounts: x\n"):
        with pytest.raises(UneditableError):
            append_item(text, ("accounts",), ACCOUNT)
    with pytest.raises(UneditableError):
        remove_item("accounts: 1\n", ("accounts", 0))
    assert remove_key("a: 1\n", ("b",)) == "a: 1\n"


def test_the_texts_are_yaml_to_other_parsers_too() -> None:
    changed = append_item(EXAMPLE, ("accounts",), ACCOUNT)
    changed = append_item(changed, ("notify",), {"url": "json://localhost:8000/", "name": "x"})
    assert yaml.safe_load(changed)["notify"] == [{"url": "json://localhost:8000/", "name": "x"}]
    for number in itertools.count():
        if number == 3:
            break
        changed = append_item(changed, ("accounts",), {"address": f"{number}@libero.it"})
    assert len(yaml.safe_load(changed)["accounts"]) == 4

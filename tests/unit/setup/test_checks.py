"""What is wrong with a single answer, in the words of the config."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.config.zones import find_zone, similar_zones
from mailwatch.setup.checks import ADDRESS, HOST, LOCATION, NAME, PORT, Check, ca_file_problem
from mailwatch.setup.pages import password_problem


@pytest.mark.parametrize(
    ("check", "value", "wrong"),
    [
        (ADDRESS, "mario.rossi@libero.it", ""),
        (ADDRESS, "mario", "is not a mail address; write for example mario.rossi@libero.it"),
        (ADDRESS, "<b>x</b>@libero.it", "is not a mail address; write for example mario.rossi@libero.it"),
        (ADDRESS, "x@<b>libero</b>.it", "is not a mail address; write for example mario.rossi@libero.it"),
        (ADDRESS, "Mario <m@libero.it>", "is not a mail address; write for example mario.rossi@libero.it"),
        (ADDRESS, "a;b@libero.it", "is not a mail address; write for example mario.rossi@libero.it"),
        (ADDRESS, "o'brien+x/y=z@[192.0.2.1]", ""),
        (ADDRESS, "jörg@münchen.example", ""),
        (ADDRESS, "a@" + "b" * 300, "is longer than 255 characters; shorten it"),
        (NAME, "", "is empty; write it"),
        (NAME, " a", "must be printable, without a space at either end; correct it"),
        (LOCATION, "", ""),
        (HOST, "a b", "is not a host name; write for example imap.example.org, without scheme or port"),
        (PORT, 0, "is not a port from 1 to 65535"),
        (PORT, 65536, "is not a port from 1 to 65535"),
    ],
)
def test_an_answer_is_checked_as_the_config_is(check: Check, value: object, wrong: str) -> None:
    assert check(value) == wrong


@pytest.mark.parametrize(
    ("password", "key"),
    [
        ("        ", "blank"), (" abcdefg ", "blank"), ("abcdefg", "short"), ("", "short"), ("x" * 1001, "short"),
        ("abcdefgh", ""), (" abcd efgh ", ""),
    ],
)  # fmt: skip
def test_blanks_make_no_password_of_the_pages(password: str, key: str) -> None:
    assert password_problem(SecretStr(password)) == key


def test_a_file_of_certificates_is_read_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("none")
    assert ca_file_problem(str(tmp_path / "none")) == "holds no certificate (PEM)"
    assert ca_file_problem(str(tmp_path / "gone")).startswith("cannot be read: ")
    assert ca_file_problem("\0") == "is not the path of a file"


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("Europe/Rome", "Europe/Rome"),
        ("europe/rome", "Europe/Rome"),
        ("Rome", "Europe/Rome"),
        ("roma", "Europe/Rome"),
        ("new york", "America/New_York"),
        ("UTC", "UTC"),
        ("Springfield", ""),
        ("", ""),
        ("../../etc/passwd", ""),
    ],
)
def test_a_time_zone_is_found_by_its_city(text: str, zone: str) -> None:
    assert find_zone(text) == zone


def test_a_mistyped_time_zone_has_suggestions() -> None:
    assert "Europe/Rome" in similar_zones("Europe/Rom")
    assert similar_zones("") == []

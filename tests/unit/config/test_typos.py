"""Which domain a mistyped one means."""

from __future__ import annotations

import pytest

from mailwatch.config import catalogue
from mailwatch.config.typos import COMMON, meant_domain


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gmial.com", "gmail.com"),
        ("gmai.com", "gmail.com"),
        ("gmail.con", "gmail.com"),
        ("gmail.co", "gmail.com"),
        ("gmail.it", "gmail.com"),
        ("Gmial.Com", "gmail.com"),
        ("liberi.it", "libero.it"),
        ("libero.com", "libero.it"),
        ("lbero.it", "libero.it"),
        ("virgiloi.it", "virgilio.it"),
        ("hotmial.it", "hotmail.it"),
        ("outlok.com", "outlook.com"),
        ("fastwebnte.it", "fastwebnet.it"),
        ("tiscli.it", "tiscali.it"),
        ("libero", "libero.it"),
        ("GMAIL", "gmail.com"),
    ],
)
def test_a_mistyped_domain_is_recognised(typed: str, meant: str) -> None:
    assert meant_domain(typed) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "example.org",
        "mail.gmail.com",
        "tim.de",
        "comune.milano.it",
        "x" * 500,
        "me.it",
        "rossi.it",
        "localhost",
        "tim",
        "nas",
    ],
)
def test_a_domain_of_ones_own_is_no_typing_error(typed: str) -> None:
    assert meant_domain(typed) == ""


def test_no_domain_of_the_catalogue_is_a_typing_error_of_another() -> None:
    every = [domain for provider in catalogue.providers() for domain in provider.domains]
    assert [domain for domain in (*every, *COMMON) if meant_domain(domain)] == []

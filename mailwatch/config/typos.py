"""Recognises the mail domain that a mistyped one most likely means."""

from __future__ import annotations

from functools import cache

from mailwatch.config import catalogue

COMMON = (
    "gmail.com", "libero.it", "virgilio.it", "outlook.it", "outlook.com", "hotmail.it", "hotmail.com", "yahoo.it",
    "yahoo.com", "icloud.com", "tiscali.it", "alice.it", "tim.it", "tin.it", "live.it", "live.com", "aruba.it",
    "pec.it", "inwind.it", "iol.it", "fastwebnet.it", "email.it", "gmx.com", "gmx.net", "web.de", "fastmail.com",
    "proton.me", "aol.com", "msn.com", "me.com",
)  # fmt: skip
"""Domains that many people use, the most likely first: of two that are equally near, the earlier one is meant."""
_LONG = 9
"""Characters from which a domain may have two mistakes: in a short one, two make another word."""
_NAME_CHARS = 5
"""Characters of a name that is well known with any ending: gmail.it means gmail.com."""


def meant_domain(domain: str) -> str:
    """Return the well-known domain that `domain` is a typing error of, "" if it is none.

    >>> meant_domain("gmial.com")
    'gmail.com'
    >>> meant_domain("libero.com")
    'libero.it'
    >>> meant_domain("libero")
    'libero.it'
    >>> meant_domain("gmail.com")
    ''
    """
    typed = domain.casefold()
    if not typed or len(typed) > 100 or typed in _known():
        return ""
    if "." not in typed:
        # A host of one's own network may have any other name.
        return next((other for other in COMMON if _name(other) == typed and len(typed) >= _NAME_CHARS), "")
    most = 2 if len(typed) >= _LONG else 1
    near = [(distance, other) for other in _known() if (distance := _distance(typed, other, most)) <= most]
    # A right name with a wrong ending is the likelier mistake: gmail.it is nearer to email.it than to gmail.com.
    same = [other for other in COMMON if _name(other) == _name(typed)]
    if same and typed.count(".") == 1 and len(_name(typed)) >= _NAME_CHARS:
        return min(same, key=lambda other: _distance(typed, other, most))
    # Of equally near ones the first in the list.
    return min(near, key=lambda pair: pair[0])[1] if near else ""


def _name(domain: str) -> str:
    return domain.partition(".")[0]


@cache
def _known() -> dict[str, None]:
    """Return all well-known domains, the common ones first."""
    return dict.fromkeys((*COMMON, *(domain for provider in catalogue.providers() for domain in provider.domains)))


def _distance(one: str, other: str, most: int) -> int:
    """Return how many signs were left out, added, replaced or swapped with the next one; above `most`, `most + 1`.

    The optimal string alignment distance, a restricted Damerau-Levenshtein distance.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, sign in enumerate(one, start=1):
        row = [i]
        for j, its in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (sign != its))
            if i > 1 and j > 1 and sign == other[j - 2] and one[i - 2] == its:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return last[-1]

"""Canonical JSON (RFC 8785): one value, one sequence of bytes."""

from __future__ import annotations

import hashlib

import orjson

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical(value: object) -> str:
    """Write `value` as RFC 8785 does, for what entries hold: text, whole numbers, booleans, null.

    Entries hold no fractions, whose canonical form is the hard part of RFC 8785, and their keys are
    sorted alike by code point and by UTF-16 unit, being ASCII. tests/unit/ledger/test_ledger.py compares with
    rfc8785.
    Raises TypeError for text that is not Unicode, and for numbers beyond 2**53, which RFC 8785 cannot write.
    """
    return orjson.dumps(value, option=_OPTIONS).decode()


def digest(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes in hex."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Canonical JSON (RFC 8785): exactly one sequence of bytes for each value."""

from __future__ import annotations

import hashlib

import orjson

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical(value: object) -> str:
    """Return `value` in canonical JSON (RFC 8785), for the types in entries: text, integers, booleans, null.

    Entries have no fractions, whose canonical form is the hard part of RFC 8785. Their keys are ASCII, so sorting
    by code point equals sorting by UTF-16 unit. tests/unit/ledger/test_ledger.py compares with rfc8785. Raises
    TypeError for text that is not Unicode, and for numbers beyond 2**53, which RFC 8785 cannot represent.
    """
    return orjson.dumps(value, option=_OPTIONS).decode()


def digest(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes in hex."""
    return hashlib.sha256(text.encode()).hexdigest()

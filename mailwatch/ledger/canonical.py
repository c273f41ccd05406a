"""Canonical JSON (RFC 8785): one value, one sequence of bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: Any) -> str:
    """Write `value` as RFC 8785 does, for what entries hold: text, whole numbers, booleans, null.

    Entries hold no fractions, whose canonical form is the hard part of RFC 8785, and their keys are
    sorted alike by code point and by UTF-16 unit, being ASCII. tests/test_ledger.py compares with rfc8785.
    """
    return _encode(value)


def digest(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes in hex."""
    return hashlib.sha256(text.encode()).hexdigest()

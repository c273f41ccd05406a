"""An entry as a line of text, in entries.jsonl of a bundle and in a push: its only form in canonical JSON."""

from __future__ import annotations

import re

ENTRY_LINE = re.compile(
    rb'\{"header":(\{(?:"boot":"([0-9a-f]{16})","clock":(0|[1-9][0-9]{0,15}),)?"index":(0|[1-9][0-9]{0,15}),'
    rb'"kind":"([a-z]{1,20})","number":(null|[1-9][0-9]{0,15}),"payload":"([0-9a-f]{64})",(?:"run":"([0-9a-f]{16})",)?'
    rb'"target":(?:null|"([0-9a-f]{16})"),"time":(0|[1-9][0-9]{0,13}|-[1-9][0-9]{0,11}),"v":([12])\})'
    rb'(?:,"payload":(\{[^\n]*\}))?\}\n'
)
"""The line with its end (RFC 8785), for the years 1938 to 5138; anything else is rejected.

Groups: header, boot, clock, index, kind, number, digest of the payload, run, target, time, version, payload.
"""


def entry_line(header: str, payload: str | None) -> bytes:
    """Return the line of an entry, without its payload if that is None."""
    shown = "" if payload is None else f',"payload":{payload}'
    return f'{{"header":{header}{shown}}}\n'.encode()

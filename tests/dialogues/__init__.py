"""Dialogues of real mail servers, from public reports, with the verdicts that were written down before.

They are played by tests/integration/probes/test_dialogues.py. Where a report names a command that no probe
sends (SELECT, UID FETCH, DATA), the words are said to the nearest one that it does send.
"""

from __future__ import annotations

from tests.dialogues import imap, mx, pop3, smtp
from tests.dialogues.dialogue import Dialogue

DIALOGUES: tuple[Dialogue, ...] = (*imap.DIALOGUES, *pop3.DIALOGUES, *smtp.DIALOGUES, *mx.DIALOGUES)

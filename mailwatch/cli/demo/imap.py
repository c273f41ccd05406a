"""IMAP of the fake provider (RFC 9051): enough for a probe or a mail program to read the dates of three
messages.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from mailwatch.cli.demo.line_connection import (
    PASSWORD,
    USERNAME,
    Behaviour,
    HangupError,
    LineConnection,
    is_plain_login,
)

MESSAGE_COUNT = 3
_CAPABILITIES = "CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR"
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s"]+)')
_LITERAL = re.compile(r"\{(\d{1,4})(\+?)\}$")


async def serve_imap(dialogue: LineConnection) -> None:
    """Serve one IMAP connection, from the greeting to LOGOUT."""
    if dialogue.behaviour is Behaviour.BYE:
        await dialogue.write_lines("* BYE the stand-in is closed for repairs")
        return
    await dialogue.write_lines(f"* OK [{_CAPABILITIES}] stand-in ready")
    known, opened = False, False
    while True:
        tag, command, words = await _command(dialogue)
        match command:
            case "CAPABILITY":
                await dialogue.write_lines(f"* {_CAPABILITIES}", f"{tag} OK done")
            case "NOOP":
                await dialogue.write_lines(f"{tag} OK done")
            case "LOGOUT":
                await dialogue.write_lines("* BYE until next time", f"{tag} OK done")
                return
            case "LOGIN":
                known = await _login(dialogue, tag, words == [USERNAME, PASSWORD])
            case "AUTHENTICATE":
                known = await _login(dialogue, tag, await _plain(dialogue, words))
            case "EXAMINE" | "SELECT" if known:
                opened = await _open(dialogue, tag, words)
            case "FETCH" if opened:
                await _fetch(dialogue, tag, words[0] if words else "")
            case _:
                await dialogue.write_lines(f"{tag} BAD not now, or not known to the stand-in")


async def _command(dialogue: LineConnection) -> tuple[str, str, list[str]]:
    """Return tag, command in capitals, and arguments, with literals read and filled in."""
    line = await dialogue.read_line()
    tag, _, rest = line.partition(" ")
    words: list[str] = []
    while found := _LITERAL.search(rest):
        words += _split(rest[: found.start()])
        if not found[2]:
            await dialogue.write_lines("+ go on")
        words.append(await dialogue.read_bytes(int(found[1])))
        rest = await dialogue.read_line()
    words += _split(rest)
    if not words:
        raise HangupError
    return tag, words[0].upper(), words[1:]


def _split(text: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", m[1]) if m[1] is not None else m[2] for m in _WORD.finditer(text)]


async def _plain(dialogue: LineConnection, words: list[str]) -> bool:
    if not words or words[0].upper() != "PLAIN":
        return False
    if len(words) == 1:
        await dialogue.write_lines("+ ")
        words = [*words, await dialogue.read_line()]
    return is_plain_login(words[1])


async def _login(dialogue: LineConnection, tag: str, right: bool) -> bool:
    if dialogue.behaviour is Behaviour.UNAVAILABLE:
        await dialogue.write_lines(f"{tag} NO [UNAVAILABLE] the mailboxes cannot be reached, try again later")
        return False
    if not right:
        await dialogue.write_lines(f"{tag} NO [AUTHENTICATIONFAILED] wrong user name or password")
        return False
    await dialogue.write_lines(f"{tag} OK [{_CAPABILITIES}] welcome")
    return True


async def _open(dialogue: LineConnection, tag: str, words: list[str]) -> bool:
    if [word.upper() for word in words[:1]] != ["INBOX"]:
        await dialogue.write_lines(f"{tag} NO [NONEXISTENT] there is INBOX only")
        return False
    await dialogue.write_lines(
        f"* {MESSAGE_COUNT} EXISTS",
        "* 0 RECENT",
        r"* FLAGS (\Seen \Deleted)",
        r"* OK [PERMANENTFLAGS ()] read only",
        "* OK [UIDVALIDITY 1] always",
        f"* OK [UIDNEXT {MESSAGE_COUNT + 1}] never comes",
        f"{tag} OK [READ-ONLY] opened",
    )
    return True


async def _fetch(dialogue: LineConnection, tag: str, wanted: str) -> None:
    """Answer any FETCH with the date, the only item that the fake provider keeps of a message."""
    first, _, last = wanted.replace("*", str(MESSAGE_COUNT)).partition(":")
    if not first.isdecimal() or not (last or first).isdecimal():
        await dialogue.write_lines(f"{tag} BAD not a sequence set")
        return
    lines = []
    for number in range(max(1, int(first)), min(MESSAGE_COUNT, int(last or first)) + 1):
        sent = format_datetime(datetime.now(UTC).replace(microsecond=0) - timedelta(hours=MESSAGE_COUNT - number))
        header = f"Date: {sent}\r\n\r\n"
        lines.append(f"* {number} FETCH (BODY[HEADER.FIELDS (DATE)] {{{len(header)}}}\r\n{header})")
    await dialogue.write_lines(*lines, f"{tag} OK done")

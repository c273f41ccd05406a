"""SMTP submission of the fake provider (RFC 6409) with STARTTLS. It accepts no message: probes send none."""

from __future__ import annotations

import ssl

from mailwatch.cli.demo.line_connection import (
    PASSWORD,
    USERNAME,
    Behaviour,
    LineConnection,
    decode_base64,
    is_plain_login,
)

_HOST = "provider.example"


async def serve_smtp(dialogue: LineConnection, tls: ssl.SSLContext) -> None:
    """Serve one SMTP connection, from the greeting to QUIT."""
    if dialogue.behaviour is Behaviour.BYE:
        await dialogue.write_lines(f"421 4.3.2 {_HOST} is closed for repairs")
        return
    await dialogue.write_lines(f"220 {_HOST} ESMTP stand-in ready")
    secure, known = False, False
    while True:
        line = await dialogue.read_line()
        command = line[:4].upper()
        match command:
            case "EHLO":
                await _answer_ehlo(dialogue, secure)
            case "STAR" if not secure:
                await dialogue.write_lines("220 2.0.0 go ahead")
                await dialogue.writer.start_tls(tls)
                secure, known = True, False
            case "AUTH":
                known = await _auth(dialogue, line, secure)
            case "MAIL" | "RCPT" if not known:
                await dialogue.write_lines("530 5.7.0 log in first")
            case "HELO" | "MAIL" | "RCPT" | "RSET" | "NOOP":
                await dialogue.write_lines("250 2.0.0 fine")
            case "QUIT":
                await dialogue.write_lines("221 2.0.0 until next time")
                return
            case _:
                await dialogue.write_lines("502 5.5.1 not now, or not known to the stand-in")


async def _answer_ehlo(dialogue: LineConnection, secure: bool) -> None:
    offered = "AUTH PLAIN LOGIN" if secure else "STARTTLS"
    await dialogue.write_lines(f"250-{_HOST}", f"250-{offered}", "250 ENHANCEDSTATUSCODES")


async def _auth(dialogue: LineConnection, line: str, secure: bool) -> bool:
    if not secure:
        await dialogue.write_lines("530 5.7.0 STARTTLS first")
        return False
    right = await _credentials(dialogue, line.split()[1:])
    if dialogue.behaviour is Behaviour.UNAVAILABLE:
        await dialogue.write_lines("454 4.7.0 the login service cannot be reached, try again later")
        return False
    if not right:
        await dialogue.write_lines("535 5.7.8 wrong user name or password")
        return False
    await dialogue.write_lines("235 2.7.0 welcome")
    return True


async def _credentials(dialogue: LineConnection, words: list[str]) -> bool:
    """Read user name and password and return whether they are right. The first may be on the AUTH line already."""
    match [word.upper() for word in words[:1]]:
        case ["PLAIN"]:
            return is_plain_login(words[1] if len(words) > 1 else await _challenge(dialogue, ""))
        case ["LOGIN"]:
            name = words[1] if len(words) > 1 else await _challenge(dialogue, "VXNlcm5hbWU6")
            password = await _challenge(dialogue, "UGFzc3dvcmQ6")
            return [decode_base64(name), decode_base64(password)] == [USERNAME, PASSWORD]
        case _:
            return False


async def _challenge(dialogue: LineConnection, challenge: str) -> str:
    await dialogue.write_lines(f"334 {challenge}")
    return await dialogue.read_line()

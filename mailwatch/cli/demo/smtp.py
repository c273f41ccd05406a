"""The stand-in's SMTP submission (RFC 6409) with STARTTLS; it takes no message, a probe sends none."""

from __future__ import annotations

import ssl

from mailwatch.cli.demo.line_connection import PASSWORD, USERNAME, Dialogue, Mood, decoded, is_plain_login

_HOST = "provider.example"


async def serve_smtp(dialogue: Dialogue, tls: ssl.SSLContext) -> None:
    """Hold one SMTP conversation, from the greeting to QUIT."""
    if dialogue.mood is Mood.BYE:
        await dialogue.say(f"421 4.3.2 {_HOST} is closed for repairs")
        return
    await dialogue.say(f"220 {_HOST} ESMTP stand-in ready")
    secure, known = False, False
    while True:
        line = await dialogue.hear()
        command = line[:4].upper()
        match command:
            case "EHLO":
                await _hello(dialogue, secure)
            case "STAR" if not secure:
                await dialogue.say("220 2.0.0 go ahead")
                await dialogue.writer.start_tls(tls)
                secure, known = True, False
            case "AUTH":
                known = await _auth(dialogue, line, secure)
            case "MAIL" | "RCPT" if not known:
                await dialogue.say("530 5.7.0 log in first")
            case "HELO" | "MAIL" | "RCPT" | "RSET" | "NOOP":
                await dialogue.say("250 2.0.0 fine")
            case "QUIT":
                await dialogue.say("221 2.0.0 until next time")
                return
            case _:
                await dialogue.say("502 5.5.1 not now, or not known to the stand-in")


async def _hello(dialogue: Dialogue, secure: bool) -> None:
    offered = "AUTH PLAIN LOGIN" if secure else "STARTTLS"
    await dialogue.say(f"250-{_HOST}", f"250-{offered}", "250 ENHANCEDSTATUSCODES")


async def _auth(dialogue: Dialogue, line: str, secure: bool) -> bool:
    if not secure:
        await dialogue.say("530 5.7.0 STARTTLS first")
        return False
    right = await _credentials(dialogue, line.split()[1:])
    if dialogue.mood is Mood.UNAVAILABLE:
        await dialogue.say("454 4.7.0 the login service cannot be reached, try again later")
        return False
    if not right:
        await dialogue.say("535 5.7.8 wrong user name or password")
        return False
    await dialogue.say("235 2.7.0 welcome")
    return True


async def _credentials(dialogue: Dialogue, words: list[str]) -> bool:
    """Hear the user name and password, of which the first may stand on the command's line already."""
    match [word.upper() for word in words[:1]]:
        case ["PLAIN"]:
            return is_plain_login(words[1] if len(words) > 1 else await _asked(dialogue, ""))
        case ["LOGIN"]:
            name = words[1] if len(words) > 1 else await _asked(dialogue, "VXNlcm5hbWU6")
            password = await _asked(dialogue, "UGFzc3dvcmQ6")
            return [decoded(name), decoded(password)] == [USERNAME, PASSWORD]
        case _:
            return False


async def _asked(dialogue: Dialogue, challenge: str) -> str:
    await dialogue.say(f"334 {challenge}")
    return await dialogue.hear()

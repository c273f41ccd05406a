"""The page that the owner's browser shows at the end of a login, in Italian or English."""

from __future__ import annotations

import re

_WORDS = {
    ("it", True): ("Accesso concesso", "MailWatch può ora accedere alla casella. Puoi chiudere questa finestra."),
    ("it", False): ("Accesso non concesso", "Il motivo è scritto nel terminale. Puoi chiudere questa finestra."),
    ("en", True): ("Access granted", "MailWatch can now log in to the mailbox. You can close this window."),
    ("en", False): ("Access not granted", "The reason is in the terminal. You can close this window."),
}
_STYLE = """\
:root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;place-items:center;
font:1.1rem/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}
main{max-width:28rem;padding:2rem;text-align:center}b{display:block;font-size:4rem;line-height:1}
.good b{color:#18794e}.bad b{color:#c62a2f}h1{font-size:1.5rem;margin:.5rem 0}"""
_HEAD = """\
HTTP/1.1 200 OK\r
Content-Type: text/html; charset=utf-8\r
Content-Length: {length}\r
Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r
Cache-Control: no-store\r
Referrer-Policy: no-referrer\r
Connection: close\r
\r
"""


def page(*, granted: bool, head: str) -> bytes:
    """Write the answer to the request with that head."""
    language = _language(head)
    title, words = _WORDS[language, granted]
    look, mark = ("good", "✓") if granted else ("bad", "✗")
    body = (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title} · MailWatch</title>'
        f"<style>{_STYLE}</style>"
        f'<main class="{look}"><b aria-hidden="true">{mark}</b><h1>{title}</h1><p>{words}</p></main></html>'
    ).encode()
    return _HEAD.format(length=len(body)).encode() + body


def _language(head: str) -> str:
    """Take Italian where the browser names it before English (RFC 9110, section 12.5.4, without weights)."""
    asked = re.search(r"^accept-language:(.*)$", head, re.IGNORECASE | re.MULTILINE)
    known = re.findall(r"\b(it|en)\b", asked[1].lower()) if asked else []
    return known[0] if known else "en"

"""Requests to the pages and the API of a MailWatch process."""

from __future__ import annotations

import base64
import http.client
from pathlib import Path
from typing import Any

from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess

UNREACHABLE_TARGET = {"name": "nobody", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}
PASSWORD = "perché no"
TOKEN = "0123456789abcdef-token"
HTML = {"Accept": "text/html,application/xhtml+xml"}
Answer = tuple[int, http.client.HTTPMessage, str]


def whole_names(page: str) -> str:
    """Return a page without the places where a name may break, so that names can be searched in it."""
    return page.replace("<wbr>", "")


def ask(
    process: MailWatchProcess, path: str, headers: dict[str, str] | None = None, *, form: str | None = None
) -> Answer:
    """Send one request and follow nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
    try:
        given = dict(headers or {})
        if form is None:
            connection.request("GET", path, headers=given)
        else:
            given["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request("POST", path, form.encode(), given)
        answer = connection.getresponse()
        return answer.status, answer.headers, whole_names(answer.read().decode(errors="replace"))
    finally:
        connection.close()


def basic(password: str, user: str = "mailwatch") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def watching_with(folder: Path, **web: Any) -> MailWatchProcess:
    """A MailWatch with a `web:` section, and files for what it names."""
    for name, text in (("secret-web", PASSWORD), ("secret-token", TOKEN)):
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o600)
    process = MailWatchProcess(folder, [UNREACHABLE_TARGET])
    process.settings["web"] |= web
    process.write_config()
    return process

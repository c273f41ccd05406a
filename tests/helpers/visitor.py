"""A visitor of the pages without JavaScript: keeps cookies, follows redirects, sends forms with their token."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from tests.helpers.patience import PATIENCE, tries
from tests.helpers.process import MailWatchProcess

_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


class Visitor:
    """`page` is the last page, as text; `seen` is all that was ever answered, headers included."""

    def __init__(self, process: MailWatchProcess, language: str = "en") -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{process.port}",
            follow_redirects=True,
            timeout=PATIENCE,
            headers={"accept": "text/html", "accept-language": language},
        )
        self.page = ""
        self.status = 0
        self.path = ""
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> str:
        """Open a page and return it."""
        return self._note(self._client.get(path))

    def post(self, path: str, headers: Mapping[str, str] | None = None, /, **fields: str) -> str:
        """Send a form with the token of the last page, if it has one, and return the page that it leads to."""
        token = _TOKEN.search(self.page)
        given = {"form_token": token[1] if token else ""} | fields
        return self._note(
            self._client.post(path, data=given, headers={"sec-fetch-site": "same-origin", **(headers or {})})
        )

    def wait_for(self, words: str) -> str:
        """Load the page anew until it has these words."""
        for _ in tries(PATIENCE):
            if words in self.get(self.path):
                return self.page
        raise AssertionError(f"never {words!r}:\n{self.page}")

    @property
    def title(self) -> str:
        """The first heading of the page, without tags."""
        found = re.search(r"<h1[^>]*>(.*?)</h1>", self.page, re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", "", found[1])).split()) if found else ""

    @property
    def wrong(self) -> list[str]:
        """What the page says is wrong with the form."""
        found = re.findall(r'<p class="wrong"[^>]*>(.*?)</p>', self.page, re.DOTALL)
        return [" ".join(html.unescape(re.sub(r"<[^>]+>", "", one)).split()).lstrip("▲ ") for one in found]

    def _note(self, answer: httpx.Response) -> str:
        for each in (*answer.history, answer):
            self.seen += f"{each.url}\n{each.headers}\n{each.text}\n"
        self.page, self.status, self.path = answer.text, answer.status_code, answer.url.path
        return self.page

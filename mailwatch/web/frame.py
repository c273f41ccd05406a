"""The frame of all pages: who they are rendered for, their language, navigation, and the problem and login pages.

Each page is a module with a function `routes(frame)` that returns its routes; pages.py adds them to the app.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from mailwatch.config.appearance import PLAIN, Appearance
from mailwatch.i18n import LANGUAGES
from mailwatch.store.queries import Part
from mailwatch.times import now
from mailwatch.web.errors import TEXTS_BY_STATUS
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import (
    COOKIE,
    THEME_COOKIE,
    THEMES,
    choose_language,
    template_environment,
    texts,
    zone_key,
    zone_text,
)

T = TypeVar("T")
NAVIGATION = tuple((name, "" if name == "overview" else name) for name in
               ("overview", "outages", "incidents", "observations", "ledger", "about"))  # fmt: skip
PUBLIC_PLACES = ("overview", "outages", "incidents", "about")
"""Entries of the navigation that anonymous clients see."""
ITEMS_PER_PAGE = 50
KEPT_SECONDS = 31_536_000
"""Seconds that a browser keeps the language and the theme: a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The visitors that the pages are rendered for."""

    public: bool = False
    """Whether they are anonymous: the page then says that it omits details."""
    account: str = ""
    """Which account link to show: "login", "logout", or "" for none."""
    hint: bool = False
    """Whether to explain how to see more."""
    appearance: Appearance = PLAIN
    """The title, texts and logo that the owner chose."""
    manages: bool = False
    """Whether the navigation has the management page."""
    public_view: ReadModel | None = None
    """What anonymous visitors get, for addresses that the owner gives to them; None for these themselves."""
    setup: Callable[[], bool] = lambda: False
    """Returns whether the set-up of a first mailbox is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRoute:
    """A route of a page. `public`: anonymous clients have it too. `live`: the page updates while it is open.

    A live page takes the change token before it reads any data, so that it misses no change.
    """

    path: str
    answer: Callable[..., Any]
    public: bool = False
    live: bool = False
    methods: Sequence[str] = ("GET",)


class Frame:
    """Renders templates within the frame, for one audience."""

    def __init__(self, read_model: ReadModel, audience: Audience) -> None:
        self.read_model, self.audience = read_model, audience
        self.app: FastAPI | None = None
        """The app that has the routes; None until they are added."""
        self.paths: Sequence[str] = ()
        """The paths of the pages that this audience has."""
        self._places = [(name, path) for name, path in NAVIGATION if name in PUBLIC_PLACES or not audience.public]
        if audience.manages:
            self._places.insert(-1, ("manage", "manage"))

    def has_page(self, path: str) -> bool:
        """Return whether this audience has a page whose path begins like this."""
        return any(known.startswith(path) for known in self.paths)

    def respond(self, request: Request, template: str, here: str, status: int = 200, **facts: object) -> Response:
        """Render a template as the answer. `here`: the entry of the navigation that is current."""
        language = self.language(request)
        text = self.render(request, template, language, here, **{"query": kept_query(request), **facts})
        return self.answer(request, text.encode(), language, status)

    def render(self, request: Request, template: str, language: str, here: str, **facts: object) -> str:
        """Render a template as text."""
        vantage = ", ".join(filter(None, (self.read_model.vantage_point, self.read_model.place)))
        # Not request.url: it raises for a query that is not UTF-8.
        # As it was sent: the browser resolves links by that, and a slash of a name may be escaped in it.
        sent: bytes = request.scope.get("raw_path") or str(request.scope["path"]).encode()
        path = sent.partition(b"?")[0].removeprefix(str(request.scope.get("root_path", "")).encode())
        root = "../" * (path.count(b"/") - 1) or "./"
        return (
            template_environment(language, self.read_model.zone)
            .get_template(template)
            .render(
                root=root,
                here=here,
                places=self._places,
                vantage=vantage,
                standby=self.read_model.standby(),
                waiting=self.read_model.waiting(),
                whom=self.audience,
                site=self.audience.appearance,
                theme=self.theme(request),
                zone=zone_key(self.read_model.zone),
                zone_text=zone_text(self.read_model.zone, now()),
                **{"bare": here == "login", "pulse": getattr(request.state, "change_token", ""), **facts},
            )
        )

    def answer(self, request: Request, page: bytes, language: str, status: int = 200) -> Response:
        """Return a rendered page as the answer; a language and a theme asked for are remembered in cookies."""
        answer = HTMLResponse(page, status, {"vary": "accept-language, cookie", "content-language": language})
        if request.query_params.get("lang") in LANGUAGES:
            answer.set_cookie(COOKIE, language, max_age=KEPT_SECONDS, samesite="lax", httponly=True)
        if (theme := request.query_params.get("theme")) in THEMES:
            answer.set_cookie(THEME_COOKIE, theme, max_age=KEPT_SECONDS, samesite="lax", httponly=True)
        elif theme is not None:
            answer.delete_cookie(THEME_COOKIE, samesite="lax", httponly=True)
        return answer

    def language(self, request: Request) -> str:
        """Return the language of the answer."""
        asked, kept = request.query_params.get("lang", ""), request.cookies.get(COOKIE, "")
        return choose_language(asked, kept, request.headers.get("accept-language", ""))

    def theme(self, request: Request) -> str:
        """Return the theme that the visitor has chosen, "" for the system's."""
        asked = request.query_params.get("theme", request.cookies.get(THEME_COOKIE, ""))
        return asked if asked in THEMES else ""

    def problem(self, request: Request, status: int, advice: str = "", why: str = "") -> Response:
        """Render an error page. Under an unknown host name (421), and of a link, it shows nothing of ours."""
        text = texts(self.language(request))["problem"][why or TEXTS_BY_STATUS.get(status, "asked")]
        bare = status == 421 or str(request.scope["path"]).startswith("/share/")
        return self.respond(request, "problem.html", "", status, problem=text, advice=advice, bare=bare, pulse="")

    def login(self, request: Request, *, to: str = "", who: str = "", status: int = 200) -> Response:
        """Render the login page. `to`: the page requested first. `who`: an AuthResult value, wrong or
        rate-limited.
        """
        return self.respond(request, "login.html", "login", status, to=to, who=who)


def kept_query(request: Request) -> str:
    """Return the query of a request without language and theme, for links that change these alone."""
    others = [(key, text) for key, text in request.query_params.multi_items() if key not in ("lang", "theme")]
    return urlencode(others) + "&" if others else ""


def page_of(items: Iterable[T], page: int) -> tuple[list[T], int]:
    """Return the items of a page, and the number of pages."""
    listed = list(items)
    first = (page - 1) * ITEMS_PER_PAGE
    return listed[first : first + ITEMS_PER_PAGE], count_pages(len(listed))


def part_of_page(page: int) -> Part:
    """Return which items a page lists."""
    return Part(ITEMS_PER_PAGE, (page - 1) * ITEMS_PER_PAGE)


def count_pages(items: int) -> int:
    """Return the number of pages of a list."""
    return max(1, math.ceil(items / ITEMS_PER_PAGE))

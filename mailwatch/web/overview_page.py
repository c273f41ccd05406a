"""The route of the overview. It is rendered once for all clients that ask at about the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

from fastapi import Query, Request
from fastapi.responses import Response
from markupsafe import Markup

from mailwatch.times import Millis, now
from mailwatch.web.cache import ResponseCache, accepts_gzip
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.overview import (
    OverviewQuery,
    collapsed_in,
    group_state,
    headline,
    list_targets,
    provider_groups,
)
from mailwatch.web.overview_row import RowCache
from mailwatch.web.public_shapes import PublicTargetJson
from mailwatch.web.read_model import TargetGoneError

LATEST_OUTAGES = 5
MOST_CARDS = 12
"""Providers whose cards are always visible; those of the others are behind a disclosure."""


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of this page."""
    return [PageRoute(path="/", answer=OverviewPage(frame).overview, public=True)]


class OverviewPage:
    """Answers with the overview."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model
        self._cache = ResponseCache()
        self._rows = RowCache(frame.read_model, linked=lambda: frame.has_page("/targets/"))

    async def overview(
        self,
        request: Request,
        q: Annotated[str, Query(max_length=200)] = "",
        state: Annotated[str, Query(pattern="^(down|unknown|up|paused)?$")] = "",
        provider: Annotated[str | None, Query(max_length=200)] = None,
        collapse: Annotated[str | None, Query(max_length=10_000)] = None,
        page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    ) -> Response:
        """Answer one request."""
        language = self._frame.language(request)
        root = request.scope.get("root_path", "")
        collapsed = None if collapse is None else collapsed_in(collapse)
        asked = OverviewQuery(q.strip(), state, provider, collapsed, page)
        key = (language, asked, root, self._frame.theme(request))
        made = await self._cache.get(key, lambda: [self.render(request, language, asked).encode()])
        packed = accepts_gzip(request.headers)
        answer = self._frame.answer(request, made.packed if packed else b"".join(made.unpacked()), language)
        answer.headers.update({"content-encoding": "gzip"} if packed else {})
        answer.headers["vary"] = "accept-language, cookie, accept-encoding"
        return answer

    def render(self, request: Request, language: str, asked: OverviewQuery) -> str:
        """Render the overview as text."""
        pulse, at = self._read_model.change_token(), now()
        targets, since = self._read_model.targets(), self._read_model.open_since()
        offline_since = self._read_model.offline_since()
        stale = bool(self._read_model.stale_reasons())
        groups = provider_groups(targets, since)
        return self._frame.render(
            request,
            "overview.html",
            language,
            "overview",
            now=at,
            headline=headline(targets, stale=stale, offline_since=offline_since),
            offline_since=offline_since,
            cards=groups,
            most_cards=MOST_CARDS,
            asked=asked,
            listed=list_targets(targets, asked, since),
            grouped=len(groups) > 1,
            row=partial(self._row, since, at, language),
            counts=Counter(group_state(target) for target in targets),
            total=len(targets),
            latest=self._read_model.recent_outages(LATEST_OUTAGES),
            unguarded=self._read_model.is_unguarded(),
            pulse=pulse,
            # Not the request's own: the page is shared by all who ask for the same.
            query=f"{asked.url()[1:]}&" if asked != OverviewQuery() else "",
        )

    def _row(
        self, since: Mapping[str, Millis], at: Millis, language: str, target: PublicTargetJson
    ) -> Markup | Literal[""]:
        try:
            return self._rows.row(target, since.get(target["target"]), at, language)
        except TargetGoneError:
            # A reload removed it meanwhile: all others stay.
            return ""

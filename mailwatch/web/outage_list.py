"""The list of outages, as a page and as an Atom feed (RFC 4287)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import Response

from mailwatch.store.queries import Part
from mailwatch.times import now, rfc3339
from mailwatch.web.frame import ITEMS_PER_PAGE, Frame, PageRoute, count_pages, part_of_page
from mailwatch.web.read_model import OutageQuery


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of this page."""
    pages = OutageList(frame)
    return [
        PageRoute(path="/outages", answer=pages.outages, public=True, live=True),
        PageRoute(path="/outages.atom", answer=pages.feed, public=True),
    ]


class OutageList:
    """Answers with the list of outages."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def outages(
        self,
        request: Request,
        page: Annotated[int, Query(ge=1, le=10_000)] = 1,
        target: Annotated[str, Query(max_length=200)] = "",
        provider: Annotated[str, Query(max_length=100)] = "",
        state: Annotated[str, Query(pattern="^(open|closed|unwatched)?$")] = "",
    ) -> Response:
        """Answer with the page."""
        unknown = bool(target and self._read_model.unknown_reason(target))
        wanted = OutageQuery(target=target, provider=provider, state=state)
        found = self._read_model.list_outages(wanted, part_of_page(page))
        given = {"target": target, "provider": provider, "state": state}
        return self._frame.respond(
            request,
            "outages.html",
            "outages",
            list=found.outages,
            page=page,
            pages=count_pages(found.count),
            target=target,
            unknown=unknown,
            provider=provider,
            state=state,
            providers=found.providers,
            kept=urlencode({key: value for key, value in given.items() if value}),
            # The API filters by target alone, and calls a target of the public view by another name.
            csv_has_all=bool(unknown or provider or state or (target and self._frame.audience.public)),
            this_month=f"{datetime.fromtimestamp(now() // 1000, self._read_model.zone):%Y-%m}",
        )

    def feed(self, request: Request) -> Response:
        """Answer with the feed."""
        outages = self._read_model.outages(part=Part(ITEMS_PER_PAGE))
        updated = max((outage["first_good"] or outage["first_bad"] for outage in outages), default=rfc3339(0))
        language = self._frame.language(request)
        feed = self._frame.render(request, "outages.atom", language, "outages", list=outages, updated=updated)
        return Response(feed, media_type="application/atom+xml", headers={"vary": "accept-language, cookie"})

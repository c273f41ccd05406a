"""The page of one target: its state, response times, days, outages, latest checks, certificate and settings."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from mailwatch.analysis.response_times import Period
from mailwatch.store import StoreError
from mailwatch.times import Millis, now
from mailwatch.web.cache import ResponseCache, accepts_gzip
from mailwatch.web.charts import DayBar, day_bars
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.read_model import ObservationQuery, TargetCard
from mailwatch.web.response_chart import draw
from mailwatch.web.target_detail import TargetDetail
from mailwatch.web.templating import TargetInPath

LATEST_OUTAGES = 5
LATEST_CHECKS = 8
MAX_FINISHING = 4
"""Histories that are read to their end at the same time."""
PAUSE_SECONDS = 0.2


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of this page."""
    # A pseudonym has no slash: for a name with one, an anonymous visitor is asked to log in.
    path = "/targets/{name}" if frame.audience.public else "/targets/{name:path}"
    return [PageRoute(path=path, answer=TargetPage(frame).target, public=True, live=True)]


class TargetPage:
    """Answers with the page of a target, made once for all who ask for it at about the same time."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model
        self._cache = ResponseCache()
        self._unfinished: set[tuple[str, Period]] = set()
        """What was not read to its end when its page was made."""
        self._finished = Counter[tuple[str, Period]]()
        """How often each was then read to its end."""
        self._finishing: dict[tuple[str, Period], asyncio.Task[None]] = {}

    async def target(
        self,
        request: Request,
        name: TargetInPath,
        period: Annotated[str, Query(max_length=4)] = Period.DAY.value,
    ) -> Response:
        """Answer one request."""
        language = self._frame.language(request)
        asked = Period(period) if period in tuple(Period) else Period.DAY
        path = str(request.scope.get("raw_path", b""))
        # A page of which a part was unread is not reused once that is read.
        key = (language, name, asked, self._frame.theme(request), path, self._finished[name, asked])
        made = await self._cache.get(key, lambda: [self._render(request, language, name, asked).encode()])
        self._finish_later(name, asked)
        if not made.packed or not (text := b"".join(made.unpacked())):
            return self._frame.problem(request, 404)
        packed = accepts_gzip(request.headers)
        answer = self._frame.answer(request, made.packed if packed else text, language)
        answer.headers.update({"content-encoding": "gzip"} if packed else {})
        answer.headers["vary"] = "accept-language, cookie, accept-encoding"
        return answer

    def _finish_later(self, name: str, period: Period) -> None:
        """Go on reading what was not read in time, so that the next page has it."""
        key = name, period
        if key in self._unfinished and key not in self._finishing and len(self._finishing) < MAX_FINISHING:
            task = self._finishing[key] = asyncio.create_task(self._finish(name, period))
            task.add_done_callback(lambda _: self._finishing.pop(key, None))

    async def _finish(self, name: str, period: Period) -> None:
        while (name, period) in self._unfinished:
            # Each step is short; between them others may read, and probes have the processor.
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                history = await asyncio.to_thread(self._read_model.response_times, name, period, now())
            except StoreError:
                # The next page says what is wrong.
                history = None
            if history is None or history.is_complete:
                self._unfinished.discard((name, period))
                self._finished[name, period] += 1

    def _render(self, request: Request, language: str, name: str, period: Period) -> str:
        """Render the page as text, "" for a target that is neither watched nor on record."""
        at = now()
        detail = self._read_model.target_detail(name, at)
        if detail is None:
            return ""
        history = self._read_model.response_times(name, period, at)
        if history and not history.is_complete:
            self._unfinished.add((name, period))
        card = self._read_model.target_card(name, at) if detail.is_watched else None
        bars = _bars(card)
        checks = self._read_model.observations(ObservationQuery(target=name, limit=LATEST_CHECKS))
        return self._frame.render(
            request,
            "target.html",
            language,
            "overview",
            d=detail,
            t=detail.target,
            at=at,
            chart=draw(history, detail.outages, self._read_model.zone) if history else None,
            periods=tuple(Period),
            card=card,
            bars=bars,
            listed=[bar for bar in bars if bar.state not in ("up", "nodata") or bar is bars[-1]][::-1],
            checks=checks,
            slowest=max((sum(check["phases"].values()) for check in checks), default=0.0) or 1.0,
            outages=detail.outages[:LATEST_OUTAGES],
            more=len(detail.outages) - LATEST_OUTAGES + detail.more_outages,
            days_left=_days_left(detail, at),
            # A pause and the end of monitoring are our own acts: they stay known.
            stale=detail.is_watched
            and detail.target["state"] != "paused"
            and bool(self._read_model.stale_reasons()),
            # Not the request's own: the page is shared by all who ask for the same.
            query="" if period is Period.DAY else f"period={period.value}&",
        )


def _bars(card: TargetCard | None) -> Sequence[DayBar]:
    return day_bars(card.days) if card and not card.is_filling else ()


def _days_left(detail: TargetDetail, at: Millis) -> int | None:
    """Return the whole days until the certificate expires, negative since it has; None if that is not known."""
    until = detail.certificate.not_after if detail.certificate else None
    return None if until is None else (until - at) // 86_400_000

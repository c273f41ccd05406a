"""The page of one outage: how long, why, what the server answered, whose line it was, and the documents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Request
from fastapi.responses import Response

from mailwatch.i18n import Formatter
from mailwatch.times import now
from mailwatch.web import charts
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.read_model import SharedIncident


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of this page."""
    return [PageRoute(path="/outages/{outage_id}", answer=OutagePage(frame).outage, public=True, live=True)]


class OutagePage:
    """Answers with the page of an outage."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def outage(self, request: Request, outage_id: str) -> Response:
        """Answer one request."""
        facts = self._facts(request, outage_id)
        if facts is None:
            return self._frame.problem(request, 404)
        incident, older, newer = self._neighbours(outage_id)
        share = "" if self._frame.audience.public else self._share_path(outage_id)
        return self._frame.respond(
            request,
            "outage.html",
            "outages",
            **facts,
            incident=incident,
            older=older,
            newer=newer,
            share=share,
            shared="",
        )

    def shared(self, request: Request, outage_id: str, token: str) -> Response:
        """Answer with an outage to someone who has a link to it alone."""
        facts = self._facts(request, outage_id)
        if facts is None:
            return self._frame.problem(request, 404)
        alone = {"incident": None, "older": "", "newer": "", "share": "", "shared": token}
        facts |= {**alone, "bare": True, "pulse": ""}
        return self._frame.respond(request, "outage.html", "outages", **facts)

    def _facts(self, request: Request, outage_id: str) -> dict[str, Any] | None:
        """Return what the template shows of an outage; None if there is none with this id."""
        detail = self._read_model.outage(outage_id)
        if detail is None:
            return None
        outage = detail.outage
        marks = charts.timeline_marks((outage.last_good, outage.first_bad, outage.last_bad, outage.first_good))
        # An ended outage under a checkpoint no longer changes.
        settled = outage.state != "open" and (self._frame.audience.public or detail.range is not None)
        language = self._frame.language(request)
        return {
            "o": outage,
            "detail": detail,
            "marks": marks,
            "at": dict.fromkeys(charts.TIMES, "") | mark_times(marks, language, self._read_model.zone),
            "form": "clock" if on_one_day(marks, self._read_model.zone) else "date-minute",
            "stretches": charts.timeline_segments(marks),
            "here_name": self._read_model.vantage_point,
            "place": self._read_model.place,
            "pulse": "" if settled else getattr(request.state, "change_token", ""),
        }

    def _neighbours(self, outage_id: str) -> tuple[SharedIncident | None, str, str]:
        """Return the incident that the outage is part of with others, and the outages of its target beside it."""
        found = self._read_model.neighbours(outage_id)
        return found.incident, found.older, found.newer

    def _share_path(self, outage_id: str) -> str:
        from mailwatch.web.share import last_day, share_token

        key = self._read_model.share_key()
        return f"share/{share_token(key, outage_id, last_day(now()))}" if key else ""


def on_one_day(marks: Sequence[charts.TimelineMark], zone: ZoneInfo) -> bool:
    """Return whether all marks are on the same day in a zone."""
    return len({datetime.fromtimestamp(mark.at // 1000, zone).date() for mark in marks}) == 1


def mark_times(marks: Sequence[charts.TimelineMark], language: str, zone: ZoneInfo) -> dict[str, str]:
    """Return the short local time of each mark: with its date where they are not all of one day."""
    moments = {mark.name: datetime.fromtimestamp(mark.at // 1000, zone) for mark in marks}
    if on_one_day(marks, zone):
        return {name: f"{moment:%H:%M:%S}" for name, moment in moments.items()}
    form = Formatter(language, zone, tenths=False)
    return {name: f"{form.format_date(moment, year=False)} {moment:%H:%M}" for name, moment in moments.items()}

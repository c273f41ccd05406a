"""The page of the observations, with its filter form."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.observation_filter import ObservationFilter, page_of
from mailwatch.web.query_parameters import MAX_NUMBER


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of this page."""
    return [PageRoute(path="/observations", answer=ObservationPage(frame).observations, live=True)]


class ObservationPage:
    """Answers with the observations that match the filter."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def observations(
        self,
        request: Request,
        target: Annotated[str, Query(max_length=200)] = "",
        outcome: Annotated[str, Query(pattern="^(up|down|unknown)?$")] = "",
        from_: Annotated[str, Query(alias="from", max_length=40)] = "",
        to: Annotated[str, Query(max_length=40)] = "",
        before: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    ) -> Response:
        """Answer one request."""
        asked = ObservationFilter(target, outcome, from_, to, self._read_model.zone)
        unknown = bool(target and self._read_model.unknown_reason(target))
        found, older = ([], None) if unknown else page_of(self._read_model.observations, asked, before)
        names = {t["target"] for t in self._read_model.targets()} | ({target} if target and not unknown else set())
        return self._frame.respond(
            request, "observations.html", "observations", list=found, names=sorted(names), asked=asked,
            older=older, unknown=unknown, newer=before is not None,
            pulse=request.state.change_token if before is None else "",
        )  # fmt: skip

"""The query parameters of the API, and how they are parsed.

A parameter that a path does not have is rejected, since an answer that ignores it would mislead.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

from fastapi import HTTPException, Query, Request
from fastapi.dependencies.models import Dependant

from mailwatch.i18n import LANGUAGES
from mailwatch.model import Outcome
from mailwatch.times import Millis, check_bounds, parse_rfc3339, rfc3339
from mailwatch.web.read_model import ObservationQuery

MAX_PART = 1_000_000
MAX_NUMBER = 2**53
"""Upper bound of numbers in queries."""
TIME_DESCRIPTION = "RFC 3339 time with its offset, from 1970 to 2100"
_TIME_ADVICE = "write a time between 1970-01-01 and 2100-01-01 with its offset, such as 2026-01-22T21:55:00Z"
FromParameter = Annotated[str | None, Query(alias="from", description=TIME_DESCRIPTION, max_length=40)]
ToParameter = Annotated[str | None, Query(description=TIME_DESCRIPTION, max_length=40)]
RequiredFromParameter = Annotated[str, Query(alias="from", description=TIME_DESCRIPTION, max_length=40)]
RequiredToParameter = Annotated[str, Query(description=TIME_DESCRIPTION, max_length=40)]
TargetParameter = Annotated[
    str | None, Query(max_length=200, description="only this target; 404 where there is none")
]
OpenOutagesParameter = Annotated[bool, Query(description="only those that are open")]
OpenIncidentsParameter = Annotated[bool, Query(description="only those in which something is down")]
LimitParameter = Annotated[int, Query(ge=1, le=10_000)]
BeforeParameter = Annotated[int | None, Query(ge=0, le=MAX_NUMBER, description="only those of a lower index")]
ListLimitParameter = Annotated[
    int | None, Query(ge=1, le=10_000, description="at most so many; the header Link names the next ones")
]
BeforeOutageParameter = Annotated[
    str | None, Query(pattern="^[0-9a-f]{12}$", description="only what the list has after the outage with this id")
]
BeforeIncidentParameter = Annotated[
    str | None,
    Query(pattern="^[0-9a-f]{12}$", description="only what the list has after the incident with this id"),
]
PartParameter = Annotated[
    int, Query(ge=1, le=MAX_PART, description="which 200 of its outages and stages, oldest first")
]
LanguageParameter = Annotated[str, Query(pattern=f"^({'|'.join(sorted(LANGUAGES))})$")]


def observation_query(
    target: TargetParameter = None,
    from_: FromParameter = None,
    to: ToParameter = None,
    limit: LimitParameter = 100,
    outcome: Outcome | None = None,
    before: BeforeParameter = None,
) -> ObservationQuery:
    """Return the query for observations. Raises HTTPException."""
    start, end = window(from_, to)
    return ObservationQuery(target=target, outcome=outcome, start=start, end=end, before=before, limit=limit)


def window(from_: str | None, to: str | None) -> tuple[Millis | None, Millis | None]:
    """Parse a window of time. Raises HTTPException."""
    start, end = _time(from_, "from"), _time(to, "to")
    if start is not None and end is not None and end <= start:
        raise HTTPException(422, f"to ({rfc3339(end)}) must be later than from ({rfc3339(start)})")
    return start, end


def _time(text: str | None, name: str) -> Millis | None:
    if text is None:
        return None
    try:
        # The "+" of an offset arrives as a space if the client did not escape it.
        return check_bounds(parse_rfc3339(text.replace(" ", "+")), text)
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}; {_TIME_ADVICE}") from None


async def refuse_unknown_parameters(request: Request) -> None:
    """Reject a parameter that the matched route does not have. Pages ignore it: programs do not request pages."""
    if not request.scope["path"].startswith("/api/v1/"):
        return
    known = set(_parameters(request.scope["route"].dependant))
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is None:
        return
    near = get_close_matches(unknown, sorted(known), n=1)
    advice = f"is it {near[0]}?" if near else f"there are {', '.join(sorted(known))}" if known else "there is none"
    raise HTTPException(422, f"there is no parameter {unknown[:100]!r}; {advice}")


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for further in dependant.dependencies:
        yield from _parameters(further)

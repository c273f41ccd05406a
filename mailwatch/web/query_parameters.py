"""What may be asked of the API: a parameter that it does not know is refused, since the answer would mislead."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from fastapi import HTTPException, Request
from fastapi.dependencies.models import Dependant


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse what the route that was found has no parameter for. Pages are not asked by programs; they go on."""
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

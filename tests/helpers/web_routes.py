"""Every route that the web application has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from mailwatch.web.app import full_app
from mailwatch.web.frame import Audience
from mailwatch.web.read_model import ReadModel


def routes_of(routes: Iterable[Any]) -> Iterator[str]:
    for route in routes:
        if path := getattr(route, "path", None):
            yield path
        else:
            yield from routes_of(route.original_router.routes)


ROUTES = sorted({*routes_of(full_app(cast(ReadModel, None), Audience()).routes), "/login"})

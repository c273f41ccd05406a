"""Badges of a target for other sites, as SVG: its state, its availability, its response time.

Anyone may get them only where the pages are public and `web.badges` is on. A badge states no more than is known:
what was not observed is "unknown", and a share is rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import Response

from mailwatch.times import now
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.public_shapes import PublicTargetJson
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import TargetInPath, format_duration, format_share, texts

KEPT_SECONDS = 60
"""Seconds that a browser or a proxy may keep a badge."""
_COLOURS = {"up": "#15743f", "down": "#b81f1a", "unknown": "#6b7684", "figure": "#0a58b5"}
"""Each has a contrast of at least 4.5 with white text (WCAG 2.2, 1.4.3)."""
_HEIGHT, _FONT = 20, 11
_WIDE, _NARROW = "mwMWABCDEFGHKNOPQRSUVXYZ%@", "iljtfrI1.,:;|!'() "


@dataclass(frozen=True, slots=True)
class Badge:
    """What a badge says, and the key of its colour."""

    label: str
    message: str
    colour: str


def routes(frame: Frame) -> list[PageRoute]:
    """Return the route of the badges."""
    public = frame.audience.appearance.badges
    return [PageRoute(path="/badges/{target:path}/{kind}.svg", answer=Badges(frame).badge, public=public)]


class Badges:
    """Answers with badges."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def badge(
        self,
        request: Request,
        target: TargetInPath,
        kind: Literal["state", "uptime", "response"],
        label: Annotated[str, Query(max_length=60)] = "",
    ) -> Response:
        """Answer one request."""
        language = self._frame.language(request)
        made = self._badge(target, kind, language)
        if made is None:
            return self._frame.problem(request, 404)
        headers = {"cache-control": f"max-age={KEPT_SECONDS}", "vary": "accept-language, cookie"}
        return Response(draw(made, label), media_type="image/svg+xml", headers=headers)

    def _badge(self, name: str, kind: str, language: str) -> Badge | None:
        w = texts(language)
        model, public = self._read_model, self._frame.audience.public
        target = _named(model, name)
        if target is None and (view := self._frame.audience.public_view) is not None:
            # The owner, logged in, sees the badge as the site shows it in which he put its public address.
            model, public, target = view, True, _named(view, name)
        if target is None:
            return None
        name, stale = target["target"], bool(model.stale_reasons())
        if kind == "state":
            return _state_badge(name, "unknown" if stale and target["state"] != "paused" else target["state"], w)
        if kind == "uptime":
            ratio = model.target_card(name, now()).ratio.lower
            message = w["badge"]["nothing"] if ratio is None else format_share(language, ratio, decimals=2)
            return Badge(w["badge"]["uptime"], message, "unknown" if ratio is None else "figure")
        if public:
            return Badge(w["badge"]["response"], w["badge"]["private"], "unknown")
        known_times = [one for one in model.response_series(name, now()) if one is not None]
        if stale or not known_times:
            return Badge(w["badge"]["response"], w["badge"]["nothing"], "unknown")
        return Badge(w["badge"]["response"], format_duration(language, known_times[-1] / 1000), "figure")


def _named(model: ReadModel, name: str) -> PublicTargetJson | None:
    """Return the target of a name, however its letters are written in an address."""
    found = [one for one in model.targets() if one["target"].casefold() == name.casefold()]
    return next((one for one in found if one["target"] == name), found[0] if len(found) == 1 else None)


def _state_badge(name: str, state: str, w: Mapping[str, Any]) -> Badge:
    # A target that is being rechecked has just failed: its colour is not that of up.
    known = "down" if state == "recovering" else state
    return Badge(name, w["state"].get(state, state), known if known in ("up", "down") else "unknown")


def draw(badge: Badge, label: str = "") -> str:
    """Return a badge as SVG. `label` replaces its own."""
    left, right = label or badge.label, badge.message
    split, width = _width(left) + 12, _width(left) + _width(right) + 24
    words = escape(f"{left}: {right}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" role="img"'
        f' aria-label="{words}">'
        f"<title>{words}</title>"
        f'<clipPath id="r"><rect width="{width}" height="{_HEIGHT}" rx="4"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{split}" height="{_HEIGHT}" fill="#3a424c"/>'
        f'<rect x="{split}" width="{width - split}" height="{_HEIGHT}" fill="{_COLOURS[badge.colour]}"/></g>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="{_FONT}">'
        f'<text x="6" y="14" textLength="{split - 12}">{escape(left)}</text>'
        f'<text x="{split + 6}" y="14" textLength="{width - split - 12}">{escape(right)}</text></g></svg>'
    )


def _width(text: str) -> int:
    """Return about how wide a text is, in pixels; `textLength` then makes it exactly so."""
    return round(sum(9.5 if char in _WIDE else 4.2 if char in _NARROW else 7.0 for char in text))

"""The files that the pages load: styles, scripts and pictures, and the manifest of the installed app.

They are published with the source, so anyone may have them. The manifest is a web app manifest (W3C).
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from fastapi import Request
from fastapi.responses import Response

from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.templating import asset

_TYPES = {
    "css": "text/css",
    "ico": "image/vnd.microsoft.icon",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}
_KEPT = "max-age=31536000, immutable"
"""Of a path with the digest of the content, as `asset` writes it."""
OPEN_PATHS = frozenset({"/manifest.webmanifest", "/favicon.ico", "/logo", "/robots.txt"})
"""Paths outside of /static/ that answer everyone."""


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of these files."""

    def static(request: Request, name: str, v: str = "") -> Response:
        return static_file(name, v) or frame.problem(request, 404)

    def icon() -> Response:
        return _file("favicon.ico", "max-age=86400")

    def manifest() -> Response:
        return Response(
            _manifest(frame.audience.appearance.title or "MailWatch"),
            media_type="application/manifest+json",
            headers={"cache-control": "max-age=300"},
        )

    return [
        PageRoute(path="/static/{name}", answer=static, public=True),
        PageRoute(path="/favicon.ico", answer=icon, public=True),
        PageRoute(path="/manifest.webmanifest", answer=manifest, public=True),
    ]


def static_file(name: str, digest: str = "") -> Response | None:
    """Return a file as an answer, which browsers keep for long if `digest` is that of its content; None for any
    other name.
    """
    if name not in _names():
        return None
    return _file(name, _KEPT if asset(name).endswith(f"?v={digest}") else "max-age=300")


@cache
def _names() -> frozenset[str]:
    files = (resources.files("mailwatch.web") / "static").iterdir()
    return frozenset(file.name for file in files if file.name.rpartition(".")[2] in _TYPES)


def _file(name: str, kept: str) -> Response:
    content = (resources.files("mailwatch.web") / "static" / name).read_bytes()
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers={"cache-control": kept})


@cache
def _manifest(name: str) -> str:
    icons = [
        {"src": asset("icon.svg"), "sizes": "any", "type": "image/svg+xml"},
        {"src": asset("icon-192.png"), "sizes": "192x192", "type": "image/png"},
        {"src": asset("icon-512.png"), "sizes": "512x512", "type": "image/png"},
        {"src": asset("icon-maskable.png"), "sizes": "512x512", "type": "image/png", "purpose": "maskable"},
    ]
    return json.dumps(
        {
            "name": name,
            "short_name": name,
            "description": "Availability and outages of mail services",
            "id": "./",
            "start_url": "./",
            "scope": "./",
            "display": "standalone",
            "background_color": "#f6f7f9",
            "theme_color": "#0a58b5",
            "icons": icons,
        }
    )

"""The owner's logo, and what search engines are asked (robots.txt, RFC 9309)."""

from __future__ import annotations

from fastapi.responses import PlainTextResponse, Response

from mailwatch.web.frame import Frame, PageRoute


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of these files."""
    appearance = frame.audience.appearance

    def logo() -> Response:
        return Response(appearance.logo, media_type=appearance.logo_type, headers={"cache-control": "max-age=300"})

    def robots() -> Response:
        rule = "Disallow: /" if appearance.noindex else "Disallow: /manage\nDisallow: /share/"
        return PlainTextResponse(f"User-agent: *\n{rule}\n", headers={"cache-control": "max-age=300"})

    found = [PageRoute(path="/robots.txt", answer=robots, public=True)]
    return [*found, PageRoute(path="/logo", answer=logo, public=True)] if appearance.logo else found

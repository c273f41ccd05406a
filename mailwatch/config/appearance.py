"""The appearance of the pages that the owner chose, with the logo read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mailwatch.config.errors import Problems
from mailwatch.config.files import read_file
from mailwatch.config.preflight import MAX_LOGO_BYTES
from mailwatch.config.schema import Config
from mailwatch.config.schema_web import LOGO_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """The appearance. `text` and `announcement` are paragraphs; `embed` lists sites that may frame the pages."""

    title: str = ""
    text: tuple[str, ...] = ()
    announcement: tuple[str, ...] = ()
    logo: bytes = field(default=b"", repr=False)
    logo_type: str = ""
    embed: tuple[str, ...] = ()
    noindex: bool = True
    badges: bool = False


PLAIN = Appearance()
"""The appearance without any choice."""


def appearance_of(config: Config) -> Appearance:
    """Build the appearance of the pages. Raises ConfigError if the logo cannot be read."""
    web, problems, logo = config.web, Problems(config.problem), b""
    if web.logo is not None:
        with problems.at("web", "logo"):
            logo = read_file(web.logo, MAX_LOGO_BYTES, "put it there, or name another")
    problems.check()
    return Appearance(
        title=web.title or "",
        text=_paragraphs(web.text),
        announcement=_paragraphs(web.announcement),
        logo=logo,
        logo_type=LOGO_TYPES[web.logo.suffix.lower()] if web.logo and logo else "",
        embed=web.embed,
        noindex=web.noindex,
        badges=web.badges,
    )


def _paragraphs(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r"\n\s*\n", text or "") if part.strip())

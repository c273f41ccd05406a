"""The text of a PDF, page by page, without what another version of Typst may set otherwise: spaces and hyphens."""

from __future__ import annotations

import io
import re
import unicodedata

_SET_OTHERWISE = re.compile(r"[\s\u00ad\u200b\u2010-]+")


def page_texts(pdf: bytes) -> list[str]:
    """Return the text of each page, ligatures taken apart. Raises any exception on a hostile PDF."""
    from pypdf import PdfReader  # Most reports are the same to the byte, and need no text.

    pages = PdfReader(io.BytesIO(pdf)).pages
    return [_SET_OTHERWISE.sub("", unicodedata.normalize("NFKC", page.extract_text())) for page in pages]


def text_difference(given: bytes, made: bytes) -> str:
    """Return on which page the text of two PDFs differs, in words; "" if on none. Raises as `page_texts`."""
    ours, theirs = page_texts(made), page_texts(given)
    if len(ours) != len(theirs) and "".join(ours) != "".join(theirs):
        return f"it has {len(theirs)} pages, not {len(ours)}"
    differing = [number for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1) if one != other]
    return f"the text of page {differing[0]} is another" if differing and len(ours) == len(theirs) else ""

"""The letter as an editable document: WordprocessingML (.docx), which word processors open. Blanks are
highlighted.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from docx import Document
from docx.enum.text import WD_COLOR_INDEX
from docx.oxml.ns import qn
from docx.shared import Cm, Pt
from docx.text.paragraph import Paragraph as Target

from mailwatch.evidence.letter.blocks import Blank, Block, Line, Table

LOCALES = {"en": "en-GB", "it": "it-IT"}
_STYLES = {"title": "Heading 1", "heading": "Heading 2", "item": "List Bullet", "last": "List Bullet"}


def docx(blocks: Sequence[Block], title: str, language: str) -> bytes:
    """Return the content of the .docx file."""
    document = Document()
    # The library's template has an author and a comment of its own.
    document.core_properties.author = ""
    document.core_properties.comments = ""
    document.core_properties.title = title
    for element in document.styles.element.iter(qn("w:lang")):
        element.set(qn("w:val"), LOCALES[language])
    for section in document.sections:
        # The library's template has US letter paper.
        section.page_width, section.page_height = Cm(21), Cm(29.7)
        section.left_margin = section.right_margin = Cm(2.2)
    for block in blocks:
        if isinstance(block, Table):
            rows = [tuple((name,) for name in block.head)] if block.head else []
            made = document.add_table(rows=0, cols=len(block.rows[0]))
            made.style = "Table Grid" if block.head else "Normal Table"
            for number, row in enumerate([*rows, *block.rows]):
                for cell, line in zip(made.add_row().cells, row, strict=True):
                    _write(cell.paragraphs[0], line, bold=bool(rows) and number == 0)
                    cell.paragraphs[0].paragraph_format.space_after = Pt(2)
            document.add_paragraph()
            continue
        paragraph = document.add_paragraph(style=_STYLES.get(block.style))
        _write(paragraph, block.line, bold=block.style == "bold", size=8 if block.style == "small" else None)
        if block.style in ("to", "right"):
            paragraph.paragraph_format.left_indent = Cm(8)
        if block.style in ("to", "right", "tight"):
            paragraph.paragraph_format.space_after = Pt(0)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def _write(paragraph: Target, line: Line, *, bold: bool = False, size: int | None = None) -> None:
    for run in line:
        made = paragraph.add_run(f"[{run.label}: ________]" if isinstance(run, Blank) else _printable(run))
        made.bold = bold or None
        if isinstance(run, Blank):
            made.font.highlight_color = WD_COLOR_INDEX.YELLOW
        if size is not None:
            made.font.size = Pt(size)


def _printable(text: str) -> str:
    """Return text without control characters, which a server's reply may contain and XML cannot."""
    return "".join(char if char.isprintable() else " " for char in text)

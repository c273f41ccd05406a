"""Whether a signed PDF shows what the unsigned one does.

A signature is appended to the PDF (ISO 32000-2, 7.5.6), and whatever is appended may replace pages. So everything
that is reachable from the root is compared. Allowed are the form with the signature's field, its invisible widget,
the extensions that it needs, and other metadata.
"""

from __future__ import annotations

import io

from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.reader import PdfFileReader

ADDED_TO_ROOT = frozenset(("/AcroForm", "/Extensions", "/Version", "/DSS"))
FORM_KEYS = frozenset(("/Fields", "/SigFlags"))
FIELD_KEYS = frozenset(("/FT", "/T", "/Type", "/Subtype", "/F", "/Rect", "/P", "/V", "/Lock", "/SV"))


def shows_the_same(signed: bytes, unsigned: bytes) -> bool:
    """Return whether only a signature was added to `unsigned`. Raises any exception of the library."""
    before, after = PdfFileReader(io.BytesIO(unsigned)), PdfFileReader(io.BytesIO(signed), strict=False)
    if not after.embedded_signatures or not _only_signatures(after.root):
        return False
    return _Comparison().same(before.root, after.root)


def _only_signatures(root: generic.DictionaryObject) -> bool:
    # Of a dictionary [] follows a reference, and get() does not.
    form = root["/AcroForm"]
    return form.keys() <= FORM_KEYS and all(_is_invisible_field(one.get_object()) for one in form["/Fields"])


def _is_invisible_field(field: generic.PdfObject) -> bool:
    return (
        isinstance(field, generic.DictionaryObject)
        and field.keys() <= FIELD_KEYS
        and field["/FT"] == "/Sig"
        and [float(one) for one in field["/Rect"]] == [0.0] * 4
    )


class _Comparison:
    """Compares two graphs of objects, each pair of indirect ones once."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, object]] = set()
        self._waiting: list[tuple[object, object]] = []

    def same(self, before: object, after: object) -> bool:
        """Return whether all that is reachable is the same."""
        self._waiting.append((before, after))
        return all(self._one(*pair) for pair in iter(self._next, None))

    def _next(self) -> tuple[object, object] | None:
        return self._waiting.pop() if self._waiting else None

    def _one(self, before: object, after: object) -> bool:
        if isinstance(before, generic.IndirectObject) and isinstance(after, generic.IndirectObject):
            # Other numbers could be the same object, but an update that keeps the pages keeps their numbers.
            pair = (before.reference, after.reference)
            if pair in self._seen:
                return True
            self._seen.add(pair)
            before, after = before.get_object(), after.get_object()
        if isinstance(before, generic.DictionaryObject) and isinstance(after, generic.DictionaryObject):
            return self._dictionaries(before, after)
        if isinstance(before, generic.ArrayObject) and isinstance(after, generic.ArrayObject):
            self._waiting += zip((before.raw_get(at) for at in range(len(before))),
                                 (after.raw_get(at) for at in range(len(after))), strict=False)  # fmt: skip
            return len(before) == len(after)
        return type(before) is type(after) and before == after

    def _dictionaries(self, before: generic.DictionaryObject, after: generic.DictionaryObject) -> bool:
        if isinstance(before, generic.StreamObject) != isinstance(after, generic.StreamObject):
            return False
        kind = before.get("/Type")
        if kind == "/Metadata":
            return "/Type" in after and bool(after["/Type"] == kind)
        added = after.keys() - before.keys()
        if kind == "/Catalog":
            added -= ADDED_TO_ROOT
        if kind == "/Page" and "/Annots" in after:
            if not self._annotations(before, after):
                return False
            added.discard("/Annots")
        if added or before.keys() - after.keys():
            return False
        if (
            isinstance(before, generic.StreamObject)
            and isinstance(after, generic.StreamObject)
            and before.encoded_data != after.encoded_data
        ):
            return False
        skipped = {"/Annots"} if kind == "/Page" else set()
        self._waiting += [(before.raw_get(key), after.raw_get(key)) for key in before.keys() - skipped]
        return True

    def _annotations(self, before: generic.DictionaryObject, after: generic.DictionaryObject) -> bool:
        """Compare the annotations of a page; those behind the ones before must be invisible signatures."""
        old, new = before["/Annots"] if "/Annots" in before else generic.ArrayObject(), after["/Annots"]
        if not isinstance(new, generic.ArrayObject) or len(new) < len(old):
            return False
        self._waiting += [(old.raw_get(at), new.raw_get(at)) for at in range(len(old))]
        return all(_is_invisible_field(new[at]) for at in range(len(old), len(new)))

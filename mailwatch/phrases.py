"""The Italian of texts that the code has in English: what commands print, and the errors of all layers.

phrases.it.yaml has the Italian of each English text, with the same fields in braces. Messages of deeper layers,
which are complete sentences by the time they reach the terminal or a page, are recognized by their pattern. What
has no Italian stays English.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from mailwatch.i18n import Texts, load_texts

WORDS = ("cause", "phase", "outcome", "claim")
"""Sections with words for names that are values of an enumeration."""
_FIELD = re.compile(r"{(\w+)}")
_HEAD = re.compile(r"(mailwatch(?: [a-z-]+)?: |warning: |)(.*)", re.DOTALL)


def phrase(text: str, language: str) -> str:
    """Return an English text in a language, with its fields still in braces."""
    return _italian().phrases.get(text, text) if language == "it" else text


def word(kind: str, name: str, language: str) -> str:
    """Return the word of a language for a cause, phase, outcome or claim, which in English is its name."""
    return _italian().words[kind].get(name, name) if language == "it" else name


def translated(message: str, language: str) -> str:
    """Return a message, with its fields already filled in, in a language, line by line."""
    if language != "it" or not message:
        return message
    return "\n".join(_translated_line(line) for line in message.split("\n"))


def _translated_line(line: str) -> str:
    found = _HEAD.fullmatch(line)
    head, words = found.groups() if found else ("", line)
    head = head.replace("warning: ", "attenzione: ")
    return head + (_italian().translate(words) or words)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """An English text with fields: the texts around them, the fields' names, and its Italian."""

    around: list[str]
    fields: list[str]
    italian: str

    def match(self, words: str) -> dict[str, str] | None:
        """Return the values of the fields, none of them empty; None if this is another text."""
        begin, *between, end = self.around
        if not (words.startswith(begin) and words.endswith(end)):
            return None
        at, last, values = len(begin), len(words) - len(end), []
        for text in between:
            found = words.find(text, at + 1, last)
            if found < 0:
                return None
            values.append(words[at:found])
            at = found + len(text)
        return dict(zip(self.fields, [*values, words[at:last]], strict=True)) if at < last else None


@dataclass(frozen=True, slots=True)
class _Italian:
    """The texts of phrases.it.yaml. `words`: by kind and name. `patterns`: with fields, most specific first."""

    words: dict[str, dict[str, str]]
    phrases: dict[str, str]
    patterns: tuple[_Pattern, ...]

    def translate(self, words: str) -> str | None:
        """Return the Italian of a text with its fields filled in, None if there is none.

        The values of fields named `text` or ending in `_text` are translated too.
        """
        if exact := self.phrases.get(words):
            return exact
        # A message may be several sentences, each of which has its Italian.
        parts = words.split("; ") if "; " in words else []
        italian = [self.translate(part) for part in parts]
        return "; ".join(filter(None, italian)) if parts and all(italian) else self._translate_by_pattern(words)

    def _translate_by_pattern(self, words: str) -> str | None:
        for pattern in self.patterns:
            if found := pattern.match(words):
                fields = {
                    name: self.translate(value) or value if name.endswith("text") else value
                    for name, value in found.items()
                }
                return pattern.italian.format(**fields)
        return None


@cache
def _italian() -> _Italian:
    phrases = load_phrases()
    with_fields = [english for english in phrases if _FIELD.search(english)]
    with_fields.sort(key=lambda english: len(_FIELD.sub("", english)), reverse=True)
    words = {kind: _load(kind) for kind in WORDS}
    return _Italian(words, phrases, tuple(_pattern(english, phrases[english]) for english in with_fields))


def load_phrases() -> dict[str, str]:
    """Return the Italian of each English text."""
    kinds = [kind for kind in _texts().keys() if kind not in WORDS]  # noqa: SIM118 - Texts is no dict
    return {english: italian for kind in kinds for english, italian in _load(kind).items()}


def _load(kind: str) -> dict[str, str]:
    return _texts().section(kind).single()


def _texts() -> Texts:
    return load_texts("mailwatch", "phrases.it.yaml")


def _pattern(english: str, italian: str) -> _Pattern:
    parts = _FIELD.split(english)
    return _Pattern(parts[::2], parts[1::2], italian)

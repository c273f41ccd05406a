"""Find words in prose that tools/words.toml rejects: python -m tools.prose (`make lint` runs it).

Prose is: Markdown without code; docstrings and comments of Python; texts for people in en.yaml and it.yaml; and
comments of other YAML and TOML files. In Markdown, lines indented by four and more count as code.

Prints file:line, the word and what to write instead, and exits with 1 where a folder is enforced. With --all it
counts what is left elsewhere.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WIDTH = 120
"""Characters in a line of Markdown, but for tables, links and code."""
SUFFIXES = (".md", ".py", ".yaml", ".yml", ".toml")
_CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|<[^>]*>|https?://\S+")


@dataclass(frozen=True, slots=True)
class Word:
    """A rejected word, what to write instead, and the phrases in which it is right."""

    reject: re.Pattern[str]
    instead: str
    allow: re.Pattern[str] | None
    language: str

    @classmethod
    def read(cls, written: dict[str, Any]) -> Word:
        """Read a table of words.toml. Raises KeyError for one without reject or instead."""
        flags = 0 if written.get("case") else re.IGNORECASE
        allow = written.get("allow")
        return cls(
            re.compile(rf"(?<![\w.-])(?:{written['reject']})(?![\w-]|\.\w)", flags),
            written["instead"],
            re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in allow), re.IGNORECASE) if allow else None,
            written.get("language", "en"),
        )

    def found(self, text: str) -> Iterator[str]:
        """Yield each place where the word is not right."""
        right = [match.span() for match in self.allow.finditer(text)] if self.allow else []
        for match in self.reject.finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in right):
                yield match.group()


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file, line by line, with the number of each line. Code in backticks is left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        lines = _markdown(text)
    elif path.suffix == ".py":
        lines = _python(text)
    elif path.name in ("en.yaml", "it.yaml") or path.name.endswith((".en.yaml", ".it.yaml")):
        lines = ((number, line.partition(":")[2] or line) for number, line in enumerate(text.splitlines(), 1))
    else:
        lines = ((number, line.partition("#")[2]) for number, line in enumerate(text.splitlines(), 1))
    for number, line in lines:
        yield number, _CODE.sub(" ", line)


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, line


def _python(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield from enumerate(node.value.value.splitlines(), node.lineno)


def private_names(path: Path, parts: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield the names in a Python file that hold a part which words.toml rejects."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME and not parts.isdisjoint(token.string.lower().split("_")):
                yield token.start[0], token.string


def too_long(path: Path) -> Iterator[int]:
    """Yield the lines of a Markdown file that are longer than WIDTH and could be shorter."""
    for number, line in _markdown(path.read_text(encoding="utf-8")):
        if len(line) > WIDTH and not line.lstrip().startswith(("|", "[", "<", "!")) and " " in line[WIDTH // 2 :]:
            yield number


def files() -> list[Path]:
    """Return the files under version control that may hold prose."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        ROOT / name for name in listed.stdout.split("\0") if name.endswith(SUFFIXES) and (ROOT / name).is_file()
    ]


def _within(path: Path, places: list[str]) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


def mistakes(path: Path, words: list[Word]) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with the prose of a file: the line, and the word with its replacement."""
    language = "it" if path.stem == "it" or path.stem.endswith(".it") else "en"
    for number, line in prose(path):
        for word in words:
            if word.language == language:
                for found in word.found(line):
                    yield number, f"{found!r}: {word.instead}"
    if path.suffix == ".md":
        for number in too_long(path):
            yield number, f"longer than {WIDTH} characters"


def main(everything: bool) -> int:
    """Print the mistakes of the enforced files, or the number of those elsewhere; return the exit status."""
    rules = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
    words = [Word.read(written) for written in rules["word"]]
    parts = frozenset(rules["names"])
    status, elsewhere = 0, Counter[str]()
    for path in files():
        if _within(path, rules["skipped"]):
            continue
        enforced = _within(path, rules["enforced"])
        if not enforced and not everything:
            continue
        found = list(mistakes(path, words))
        if path.suffix == ".py":
            found += [(at, f"{one!r}: name what it is") for at, one in private_names(path, parts)]
        for number, mistake in found:
            name = path.relative_to(ROOT).as_posix()
            if enforced:
                print(f"{name}:{number}: {mistake}")
                status = 1
            else:
                elsewhere["/".join(name.split("/")[:2])] += 1
    for folder, number in elsewhere.most_common():
        print(f"{number:6} {folder}")
    return status


if __name__ == "__main__":
    sys.exit(main("--all" in sys.argv[1:]))

"""docs/reference/format.md: keys and types of payloads and statements from the code, meanings from format.toml.

The text around the tables is format.md here. A key without a meaning, a meaning without a key, and a kind of entry
without a section stop the generation, and with it a test.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

import typing_extensions

from mailwatch import facts
from mailwatch.analysis import elapsed, outage_record, public_json, replay
from mailwatch.evidence import stated
from mailwatch.ledger import carried, payloads, settings_payloads, succession
from mailwatch.ledger.entry import KINDS
from mailwatch.model import Cause, GapReason, Kind, Outcome, Phase, TargetEvent, TlsMode
from tools.markdown import code, escape, table

FOLDER = Path(__file__).parent
MODULES = (
    carried,
    payloads,
    settings_payloads,
    succession,
    outage_record,
    elapsed,
    stated,
    replay,
    public_json,
    facts,
)
ENUMS: dict[str, type[Enum]] = {
    "Outcome": Outcome, "Cause": Cause, "Phase": Phase, "Kind": Kind, "TlsMode": TlsMode, "GapReason": GapReason,
    "TargetEvent": TargetEvent,
}  # fmt: skip
PLAIN = {int: "integer", str: "text", bool: "boolean", float: "number", type(None): "null", object: "any"}
_MARK = re.compile(r"<!-- (fields|facts|written|values) (\w+) -->\n")


def page() -> str:
    """Return the page. Raises ValueError where the code and the texts differ."""
    text = (FOLDER / "format.md").read_text(encoding="utf-8")
    known = tomllib.loads((FOLDER / "format.toml").read_text(encoding="utf-8"))
    if missing := [kind for kind in KINDS if f"\n### {kind}\n" not in text]:
        raise ValueError(f"tools/format.md has no section for {missing}")
    used = {name for how, name in _MARK.findall(text) if how in ("fields", "written")}
    if used != known.keys():
        raise ValueError(f"tools/format.toml and format.md differ: {sorted(used ^ known.keys())}")
    return _MARK.sub(lambda mark: _table(mark[1], mark[2], known.get(mark[2], {})), text)


def _table(how: str, name: str, known: Mapping[str, str]) -> str:
    if how == "values":
        return textwrap.fill(", ".join(code(str(one.value)) for one in ENUMS[name]), 110) + "\n"
    if how == "written":
        parts = {key: text.split(" | ", 1) for key, text in known.items()}
        return _lines("", ("type", "meaning"), ((code(key), *row) for key, row in parts.items()))
    fields = list(_fields(name))
    if how == "facts":
        return _lines(f" of {code(name)}", ("type",), ((code(key), kind) for key, kind, _ in fields))
    if differing := {key for key, *_ in fields} ^ known.keys():
        raise ValueError(f"tools/format.toml: {name} differs in {sorted(differing)}")
    rows = (
        (code(key), kind + (", may be missing" if optional else ""), escape(known[key]))
        for key, kind, optional in fields
    )
    return _lines(f" of {code(name)}", ("type", "meaning"), rows)


def _lines(of: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(table((f"key{of}", *columns), rows)) + "\n"


def _fields(name: str) -> Iterator[tuple[str, str, bool]]:
    """Yield key, type and whether it may be missing, of a TypedDict."""
    shape = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    for key, hint in typing_extensions.get_type_hints(shape).items():
        yield key, _words(hint), key in _optional(shape)


def _optional(shape: type) -> set[str]:
    """Return the keys that may be missing.

    By the hints: with `from __future__ import annotations` Python 3.11 takes a NotRequired for required.
    """
    hints = typing_extensions.get_type_hints(shape, include_extras=True)
    if not getattr(shape, "__total__", True):
        return set(hints)
    return {key for key, hint in hints.items() if "NotRequired" in str(typing_extensions.get_origin(hint))}


def _words(hint: object) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        return " or ".join(_words(one) for one in inner)
    if isinstance(hint, type) and hint in PLAIN:
        return PLAIN[hint]
    if origin is list:
        return f"list of {_words(inner[0])}"
    if origin is not None and len(inner) == 2:
        return f"object of {_words(inner[1])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"text ({hint.__name__})"
    return code(str(getattr(hint, "__name__", hint)).removeprefix("_"))

"""The value types of config.yaml, and their rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mailwatch.config.errors import FieldError
from mailwatch.config.zones import find_zone
from mailwatch.net import host_problem, is_port, page_problem
from mailwatch.time_zone import known_zones
from mailwatch.times import DURATION_PATTERN, duration_text, parse_duration


class Section(BaseModel):
    """A mapping of config.yaml: frozen, strict about keys, silent about values when it complains."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        # A section is built when the whole config is, instead of once for itself and once in each other.
        defer_build=True,
    )


class SectionOr:
    """Annotates a key that takes a section or something shorter, for the JSON Schema.

    `shorter`: the schema of what else it takes. The section's is computed when it is asked for: at each import it
    would cost all commands.
    """

    def __init__(self, section: type[BaseModel], shorter: dict[str, Any], *, first: bool = True) -> None:
        self._section, self._shorter, self._first = section, shorter, first

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        ways = [self._shorter, self._section.model_json_schema()]
        return {"anyOf": ways if self._first else ways[::-1]}


def read_duration(value: object) -> float:
    """Parse a duration of the config to seconds. Raises FieldError."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise FieldError(str(error)) from None


def _bounded(seconds: float) -> float:
    if not 0.05 <= seconds <= 86_400:
        raise FieldError("must lie between 50ms and 1d")
    return seconds


def _not_blank(value: object) -> object:
    if value == "":
        raise FieldError("is empty; write a path")
    return value


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(folder, path.expanduser())
    except RuntimeError:
        raise FieldError("names the home of an unknown user; write the whole path") from None


def _label(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise FieldError("must be printable, without a space at either end; correct it")
    return text


MAX_LABEL_OCTETS = 63
"""Of a part of a domain, RFC 1035, section 2.3.4."""


def _address(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
        raise FieldError("is not a mail address; write for example mario.rossi@libero.it")
    if any(len(label) > MAX_LABEL_OCTETS for label in text.rpartition("@")[2].split(".")):
        raise FieldError("is not a mail address: a part of its domain is longer than 63 letters (RFC 1035)")
    return _label(text)


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        # The text is not repeated: it may be the password itself, written in the wrong place.
        raise FieldError("is not the name of an environment variable; write for example LIBERO_PASSWORD")
    return text


def checked_by(problem: Callable[[str], str]) -> AfterValidator:
    """Return a validator that raises FieldError with the text of `problem`, unless that is ""."""

    def check(text: str) -> str:
        if wrong := problem(text):
            raise FieldError(wrong)
        return text

    return AfterValidator(check)


def _zone_name(text: str) -> str:
    known = known_zones()
    if text not in known:
        # Abbreviations such as CEST resemble others that are not meant.
        near = get_close_matches(text, sorted(known), n=1, cutoff=0.8) if "/" in text else []
        meant = find_zone(text) or next(iter(near), "")
        hint = f"did you mean {meant}?" if meant else "write for example Europe/Rome"
        raise FieldError(f"is not a time zone; {hint}")
    return text


def _flag(value: object) -> object:
    # The environment provides text.
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise FieldError("must be true or false, without quotes")
    return value


def _lines(text: str) -> str:
    if not all(sign.isprintable() or sign == "\n" for sign in text) or not text.strip():
        raise FieldError("must be printable text; correct it")
    return text.strip()


def _page_problem(url: str) -> str:
    return page_problem(url, "is not the https address of a page", "https://mail.example.org", schemes=("https",))


def _authority_problem(url: str) -> str:
    return page_problem(
        url, "is not the address of an authority", "https://tsa.example.org", schemes=("http", "https")
    )


def split_endpoint(text: str) -> tuple[str, int]:
    """Parse "host:port" or "[::1]:port". Raises FieldError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not is_port(port):
        raise FieldError("is not host:port; write for example 127.0.0.1:8080")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in host and bare == host:
        raise FieldError("an IPv6 address needs brackets; write [::1]:8080")
    if wrong := host_problem(bare):
        raise FieldError(wrong)
    return bare, int(port)


def _endpoint(text: str) -> str:
    split_endpoint(text)
    return text


Seconds = Annotated[
    float,
    BeforeValidator(read_duration),
    AfterValidator(_bounded),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["500ms", "5s", "1m"]}),
]
_UNITS = {"": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_SIZE = re.compile(r"(\d{1,15}) ?(kB|MB|GB|TB)?")


def _read_size(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise FieldError("is no size; write for example 500 MB or 2 GB")
    return int(found[1]) * _UNITS[found[2] or ""]


def size_text(size: int) -> str:
    """Return a number of bytes as the config has it: "2 GB"."""
    unit = next(unit for unit in reversed(_UNITS) if size % _UNITS[unit] == 0)
    return f"{size // _UNITS[unit]} {unit}".rstrip()


Size = Annotated[
    int,
    BeforeValidator(_read_size),
    Field(ge=1_000_000, le=10**15),
    PlainSerializer(size_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _SIZE.pattern, "examples": ["500 MB", "2 GB"]}),
]
"""A number of bytes."""
AuthorityUrl = Annotated[str, Field(max_length=2000), checked_by(_authority_problem)]
PageUrl = Annotated[str, Field(max_length=2000), checked_by(_page_problem)]
FolderPath = Annotated[Path, BeforeValidator(_not_blank), AfterValidator(_from_folder)]
Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_label)]
Host = Annotated[str, checked_by(host_problem)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Address = Annotated[str, Field(max_length=255), AfterValidator(_address)]
Variable = Annotated[str, AfterValidator(_variable)]
Text = Annotated[str, Field(max_length=255), AfterValidator(_label)]
ZoneName = Annotated[str, Field(max_length=255), AfterValidator(_zone_name)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Lines = Annotated[str, Field(max_length=4000), AfterValidator(_lines)]
"""A text of several lines."""
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
InARow = Annotated[int, Field(strict=True, ge=1, le=10)]
"""A number of observations in a row. More would call an outage what was seen to work most of the time."""

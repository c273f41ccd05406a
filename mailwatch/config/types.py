"""The value types of config.yaml, and their rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from mailwatch.config.errors import FieldError
from mailwatch.net import host_problem, is_port, page_problem
from mailwatch.times import DURATION_PATTERN, duration_text, parse_duration


class Section(BaseModel):
    """A mapping of config.yaml: frozen, strict about keys, silent about values when it complains."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


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


def _address(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
        raise FieldError("is not a mail address; write for example mario.rossi@libero.it")
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


def _page_problem(url: str) -> str:
    return page_problem(url, "the https address of a page", "https://mail.example.org", schemes=("https",))


def _authority_problem(url: str) -> str:
    return page_problem(url, "the address of an authority", "https://tsa.example.org", schemes=("http", "https"))


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
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]

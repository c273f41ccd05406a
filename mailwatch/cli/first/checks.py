"""What may be written in answer to which question: the rules of the config itself, in its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mailwatch.config.fields import Address, Host, Label, Port, Text

Check = Callable[[Any], str]
"""From a value to what is wrong with it, "" if nothing is."""


def _check(kind: Any) -> Check:
    rule: TypeAdapter[Any] = TypeAdapter(kind)

    def complaint(value: Any) -> str:
        try:
            rule.validate_python(value)
        except ValidationError as error:
            return str(error.errors(include_input=False)[0]["msg"]).removeprefix("Value error, ")
        return ""

    return complaint


ADDRESS, NAME, PLACE, HOST, PORT = map(_check, (Address, Label, Text, Host, Port))
USERNAME = CLIENT_ID = PLACE

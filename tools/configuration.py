"""docs/reference/configuration.md: every key of config.yaml, from the JSON Schema of the config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mailwatch import config
from tools.markdown import code, escape, table

Schema = dict[str, Any]

HEAD = """\
# Configuration

`make docs-generate` writes this page from the schema that MailWatch checks `config.yaml` by.

- `config.example.yaml` shows every key with a comment. `mailwatch config check` names each mistake with file,
  line and what to write instead. `mailwatch config schema` prints the JSON Schema for editors.
- A key that MailWatch does not know is a mistake.
- Durations are a number with a unit: `500ms`, `5s`, `1m`, `2h`, `1d`.
- Relative paths start at the folder of the config file.
- [What a reload changes](reload.md) lists which keys take effect at once.

Environment variables win over the file:

| variable | replaces |
|---|---|
| `MAILWATCH_CONFIG` | the path of the config file, where `--config` does not name it |
| `MAILWATCH_DATA_DIR` | `data_dir` |
| `MAILWATCH_LISTEN` | `web.listen` |
| `MAILWATCH_TRUST_NETWORK` | `web.trust_network` |
"""


def page() -> str:
    """Return the page."""
    schema = config.schema()
    lines = [HEAD]
    for key, value in schema["properties"].items():
        lines += [f"## {key}\n", *_section(value, schema), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(value: Schema, schema: Schema) -> Iterator[str]:
    target = _resolve(value, schema)
    text = target.get("description") or value.get("description", "")
    if text:
        yield escape(text) + "\n"
    rows = list(_rows("", target, schema))
    if not rows:
        yield from table(("value", "default"), [(_kind(value, schema), _default(value))])
        return
    if value.get("type") == "array":
        yield "A list. Each entry has these keys:\n"
    elif "`off`" in _kind(value, schema):
        yield "The word `off` in place of the keys disables it.\n"
    yield from table(("key", "value", "default", "meaning"), rows)


def _rows(prefix: str, section: Schema, schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each key of a section, and for those of the sections in it: login.username."""
    required = section.get("required", [])
    # Required keys first, else in the order of the schema.
    for name, value in sorted(section.get("properties", {}).items(), key=lambda item: item[0] not in required):
        inner = _resolve(value, schema)
        default = "required" if name in required else _default(value)
        text = value.get("description") or inner.get("description", "")
        yield code(prefix + name), _kind(value, schema), default, escape(text)
        if "properties" in inner:
            yield from _rows(f"{prefix}{name}.", inner, schema)


def _resolve(value: Schema, schema: Schema) -> Schema:
    """Follow references, lists and choices to the mapping inside, or return the value itself."""
    if "$ref" in value:
        found: Schema = schema["$defs"][value["$ref"].rpartition("/")[2]]
        return found
    if "items" in value:
        return _resolve(value["items"], schema)
    for choice in value.get("anyOf", []):
        inner = _resolve(choice, schema)
        if inner.get("properties"):
            return inner
    return value


def _kind(value: Schema, schema: Schema) -> str:
    """Return in words what may stand as the value."""
    if "$ref" in value:
        return _kind(_resolve(value, schema), schema)
    if "anyOf" in value:
        choices = [
            choice for choice in value["anyOf"] if choice.get("type") != "null" and choice.get("const") != ""
        ]
        return " or ".join(dict.fromkeys(_kind(choice, schema) for choice in choices))
    if "enum" in value:
        return ", ".join(code(str(word)) for word in value["enum"])
    if "const" in value:
        return code(str(value["const"]))
    if value.get("type") == "array":
        return f"list: {_kind(value['items'], schema)}"
    if value.get("type") == "object":
        return "mapping"
    return _simple(value)


def _simple(value: Schema) -> str:
    if _is_duration(value):
        return "duration"
    if "minimum" in value and "maximum" in value:
        return f"{value['minimum']} to {value['maximum']}"
    kind = value.get("type", "string")
    if isinstance(kind, list):
        return "number"
    if kind == "string":
        return {"path": "path", "date": "date"}.get(value.get("format", ""), "text")
    return "true or false" if kind == "boolean" else str(kind)


def _is_duration(value: Schema) -> bool:
    return str(value.get("pattern", "")).endswith("(ms|s|m|h|d)$")


def _default(value: Schema) -> str:
    default = value.get("default")
    if default is None or default in ("", []) or isinstance(default, dict):
        return "–"
    if isinstance(default, list):
        return ", ".join(_written(item, value["items"]) for item in default)
    return _written(default, value)


def _written(default: object, value: Schema) -> str:
    if isinstance(default, dict):
        return code(str(default["address"]))
    if isinstance(default, float):
        return code(f"{default:g}s" if _is_duration(value) else f"{default:g}")
    return code(default if isinstance(default, str) else json.dumps(default))

"""The forms of notification channels: the usual services by their own words, any other by its Apprise address.

Each form makes an address of Apprise. What Apprise itself thinks of it comes from the check of the config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from pydantic import SecretStr

from mailwatch.config.errors import FieldError
from mailwatch.config.types import split_endpoint
from mailwatch.setup.checks import ADDRESS, HOST, NAME, PORT
from mailwatch.web.manage.forms import Form

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NTFY_TOKEN = re.compile(r"tk_[A-Za-z0-9]{10,100}")
_BOT_TOKEN = re.compile(r"[0-9]{5,20}:[A-Za-z0-9_-]{10,100}")
_CHAT = re.compile(r"-?[0-9]{3,20}|@[A-Za-z0-9_]{4,64}")
NTFY_SERVER = "https://ntfy.sh"
SMTP_PORT = 465


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """A field of a form. A `secret` one is never shown again."""

    name: str
    secret: bool = False
    required: bool = True
    default: str = ""
    mode: str = ""
    """What a telephone's keyboard offers: email, url, numeric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, and the form of its channel."""

    fields: tuple[FormField, ...]
    address: Callable[[Mapping[str, str], dict[str, str]], str]
    """Returns the address of Apprise; adds to the second argument what is wrong, by field."""


@dataclass(frozen=True, slots=True)
class ChannelAnswers:
    """A channel as it was entered: its name and its address, or what is wrong, by field."""

    name: str
    url: SecretStr
    errors: Mapping[str, str]


def read_channel(service: str, form: Form) -> ChannelAnswers:
    """Read a form of a service."""
    kind = SERVICES[service]
    given = {
        field.name: form.secret(field.name).get_secret_value().strip() if field.secret else form.text(field.name)
        for field in kind.fields
    }
    name, errors = form.text("name"), dict[str, str]()
    if not name:
        errors["name"] = "empty"
    elif NAME(name):
        errors["name"] = "not_name"
    errors |= {field.name: "empty" for field in kind.fields if field.required and not given[field.name]}
    url = "" if errors.keys() - {"name"} else kind.address(given, errors)
    return ChannelAnswers(name, SecretStr(url), errors)


def _parts(url: str) -> SplitResult:
    """Split an address; one that cannot be split has no parts. The error would repeat it, and a secret in it."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _ntfy(given: Mapping[str, str], errors: dict[str, str]) -> str:
    server = _parts(given["server"] or NTFY_SERVER)
    if server.scheme not in ("http", "https") or not _is_place(server.netloc) or server.path.strip("/"):
        errors["server"] = "not_server"
    if not _TOPIC.fullmatch(given["topic"]):
        errors["topic"] = "not_topic"
    token = given["token"]
    if token and not _NTFY_TOKEN.fullmatch(token):
        errors |= {"token": "not_token"}
    scheme = "ntfys" if server.scheme == "https" else "ntfy"
    return f"{scheme}://{f'{token}@' if token else ''}{server.netloc}/{given['topic']}"


def _telegram(given: Mapping[str, str], errors: dict[str, str]) -> str:
    if not _BOT_TOKEN.fullmatch(given["bot"]):
        errors["bot"] = "not_bot"
    if not _CHAT.fullmatch(given["chat"]):
        errors["chat"] = "not_chat"
    return f"tgram://{given['bot']}/{given['chat']}"


def _mail(given: Mapping[str, str], errors: dict[str, str]) -> str:
    host, port = given["smtp"], SMTP_PORT
    if ":" in host:
        try:
            host, port = split_endpoint(host)
        except FieldError:
            errors["smtp"] = "not_host"
    if HOST(host) or PORT(port):
        errors["smtp"] = "not_host"
    for name in ("user", "to"):
        if ADDRESS(given[name]):
            errors[name] = "not_address"
    # Port 587 begins in the clear and then encrypts (RFC 8314, section 3.3).
    mode = "starttls" if port in (25, 587) else "ssl"
    query = urlencode({"from": given["user"], "to": given["to"], "mode": mode})
    return f"mailtos://{quote(given['user'], safe='')}:{quote(given['password'], safe='')}@{host}:{port}?{query}"


def _webhook(given: Mapping[str, str], errors: dict[str, str]) -> str:
    url = given["url"]
    parts = _parts(url)
    if parts.scheme not in ("http", "https") or not _is_place(parts.netloc.rpartition("@")[2]):
        errors["url"] = "not_url"
    return ("jsons" if parts.scheme == "https" else "json") + url[len(parts.scheme) :]


def _apprise(given: Mapping[str, str], errors: dict[str, str]) -> str:
    if "://" not in given["url"] or not given["url"].isprintable():
        errors["url"] = "not_apprise"
    return given["url"]


def _is_place(text: str) -> bool:
    """Return whether a text is HOST or HOST:PORT."""
    if not HOST(text):
        return True
    try:
        split_endpoint(text)
    except FieldError:
        return False
    return True


SERVICES: Mapping[str, Service] = {
    "ntfy": Service(
        fields=(
            FormField(name="topic"),
            FormField(name="server", required=False, default=NTFY_SERVER, mode="url"),
            FormField(name="token", secret=True, required=False),
        ),
        address=_ntfy,
    ),
    "telegram": Service(fields=(FormField(name="bot", secret=True), FormField(name="chat")), address=_telegram),
    "mail": Service(
        fields=(
            FormField(name="to", mode="email"),
            FormField(name="smtp"),
            FormField(name="user", mode="email"),
            FormField(name="password", secret=True),
        ),
        address=_mail,
    ),
    "webhook": Service(fields=(FormField(name="url", secret=True, mode="url"),), address=_webhook),
    "other": Service(fields=(FormField(name="url", secret=True),), address=_apprise),
}
"""The services by key, in the order of the page."""

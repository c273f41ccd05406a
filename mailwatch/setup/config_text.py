"""The text of a config.yaml for one mailbox, with a comment on each line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from mailwatch.config.yaml_write import block_item, scalar
from mailwatch.i18n import Texts
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.entries import account_entry, draft_targets, remarks
from mailwatch.setup.texts import printable_text

_COLUMN = 44
TIMESTAMP_URL = "http://timestamp.digicert.com"


def config_text(draft: ConfigDraft, texts: Texts, today: date) -> str:
    """Return the text of the config."""
    comments = texts.section("config")
    lines = [
        f"# {comments['head'].format(date=today)}",
        f"# {comments['check']}",
        "",
        "vantage_point:",
        _line(f"  name: {scalar(draft.name)}", comments["name"]),
        _line(f"  place: {scalar(draft.place)}", comments["place"]),
        "",
        *_section(_line(f"timezone: {draft.timezone}", comments["timezone"]) if draft.timezone else ""),
        _line("data_dir: ./data", comments["data_dir"]),
        "",
        "web:",
        _line(f"  listen: {scalar(draft.listen)}", comments["listen_open" if draft.pages_hash else "listen"]),
        *_pages_password(draft, comments),
        "",
        *_section("" if draft.guard else _line("guard: off", comments["guard"])),
        *_mailbox(draft, comments),
    ]
    if draft.timestamps:
        lines += ["", _line("timestamps:", comments["timestamps"]), f"  - url: {TIMESTAMP_URL}"]
        lines.append(_line("    every: 1h", comments["every"]))
    return "".join(f"{line}\n" for line in lines)


def _pages_password(draft: ConfigDraft, comments: Texts) -> Iterator[str]:
    if draft.pages_hash:
        yield f"  # {comments['password_hash']}"
        yield f"  password_hash: {scalar(draft.pages_hash)}"


def _section(line: str) -> list[str]:
    """Return a section of one line and an empty one after it, nothing without a line."""
    return [line, ""] if line else []


def _mailbox(draft: ConfigDraft, comments: Texts) -> Iterator[str]:
    """Yield the section of the mailbox; only its first entry has comments."""
    is_account = draft.servers.provider is not None
    section, entries = ("accounts", [account_entry(draft)]) if is_account else ("targets", draft_targets(draft))
    yield _line(f"{section}:", comments[section])
    if not is_account:
        yield from (f"  # {remark}" for remark in remarks(draft, comments))
    beside = {
        "    provider:": comments["provider" if is_account else "company"],
        "    oauth2:": comments["oauth2"].format(address=printable_text(draft.address)),
        "    channels:": comments["channels"],
        "    tls:": comments["tls"],
        "    ca_file:": comments["ca_file"],
        ("    " if is_account else "      ") + "password_file:": comments["password_file"],
    }
    for number, entry in enumerate(entries):
        for line in block_item(entry, 2):
            yield _line(line, beside.get(line[: line.index(":") + 1], "") if number == 0 else "")
    if is_account:
        yield from (f"    # {remark}" for remark in remarks(draft, comments))


def _line(text: str, comment: str) -> str:
    if not comment:
        return text
    return f"{text:{_COLUMN}}# {comment}" if len(text) < _COLUMN - 1 else f"{text}   # {comment}"

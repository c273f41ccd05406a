"""The entries of config.yaml for a mailbox: one account, or a target for each server outside the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailwatch.config.edit import ConfigFile
from mailwatch.config.yaml_edit import NewItem
from mailwatch.config.yaml_file import YamlValue
from mailwatch.i18n import Texts
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.servers import ServerCandidate
from mailwatch.setup.texts import printable_text


def add_mailbox(file: ConfigFile, draft: ConfigDraft, texts: Texts) -> None:
    """Add the mailbox of a draft to a config, and nothing else that the draft has. Raises ConfigError."""
    comments = texts.section("config")
    below = remarks(draft, comments)
    if draft.servers.provider is not None:
        file.add_account(account_entry(draft), below)
        return
    entries = draft_targets(draft)
    file.add_entries("targets", [NewItem(entry, below * (number == 0)) for number, entry in enumerate(entries)])


def remarks(draft: ConfigDraft, comments: Texts) -> list[str]:
    """Return the comments on what was left out, and that no login has worked yet."""
    found = [comments["left"].format(kind=kind, why=printable_text(why)) for kind, why in draft.skipped.items()]
    return [*found, comments["unproven"]] if draft.untested else found


def draft_targets(draft: ConfigDraft) -> list[dict[str, YamlValue]]:
    """Return a target for each server of a draft that is to be monitored."""
    candidates = [candidate for candidate in draft.servers.candidates if candidate.kind in draft.kinds]
    login: dict[str, YamlValue] = {"username": draft.username, "password_file": draft.password_file}
    return target_entries(draft.address, candidates, login, ca_file=draft.ca_file)


def target_entries(
    address: str,
    candidates: Sequence[ServerCandidate],
    login: Mapping[str, YamlValue],
    *,
    ca_file: str = "",
) -> list[dict[str, YamlValue]]:
    """Return a target for each server, named ADDRESS/KIND as those of accounts are."""
    entries: list[dict[str, YamlValue]] = []
    for candidate in candidates:
        entry: dict[str, YamlValue] = {
            "name": f"{address}/{candidate.kind}",
            "kind": str(candidate.kind),
            "provider": address.rpartition("@")[2],
            "host": candidate.host,
            "port": candidate.port,
            "tls": str(candidate.tls),
        }
        if ca_file:
            entry["ca_file"] = ca_file
        entries.append({**entry, "login": dict(login)})
    return entries


def account_entry(draft: ConfigDraft) -> dict[str, YamlValue]:
    """Return the account of a draft, whose provider the catalogue has."""
    entry: dict[str, YamlValue] = {"address": draft.address}
    if draft.servers.named_in_config and draft.servers.provider:
        entry["provider"] = draft.servers.provider.key
    if draft.authority:
        entry["oauth2"] = {"provider": draft.authority, "client_id": draft.client_id}
    else:
        entry["password_file"] = draft.password_file
    return {**entry, "channels": [str(kind) for kind in draft.kinds]}

"""Domains of their own at a provider of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from mailwatch import catalogue
from mailwatch.discovery.door import Door


def provider_of_exchanger(exchanger: str) -> catalogue.Provider | None:
    """Give the provider to one of whose domains an exchanger belongs, by the longest such domain.

    The catalogue's source lists domains of exchangers for this, such as mail.protection.outlook.com. Whom mail is
    handed to need not be who keeps it, a filter for instance: the person is to be asked.
    """
    labels = exchanger.split(".")
    parents = (".".join(labels[first:]) for first in range(len(labels) - 1))
    return next(filter(None, map(catalogue.by_domain, parents)), None)


def provider_of_doors(doors: Sequence[Door]) -> catalogue.Provider | None:
    """Give the one provider whose servers these are, all of them; None if there are none or several."""
    wanted = {(door.kind, door.host, door.port) for door in doors}
    fitting = [
        provider
        for provider in catalogue.providers()
        if wanted and wanted <= {(server.kind, server.host, server.port) for server in provider.servers}
    ]
    return fitting[0] if len(fitting) == 1 else None

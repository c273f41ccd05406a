"""What the catalogue that ships knows, for the caveats of a bundle. The verifier gets it from its caller."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mailwatch.analysis.sla import rule_payload
from mailwatch.config import catalogue
from mailwatch.config.catalogue import sla
from mailwatch.evidence.warnings import KnownProvider


class ShippedCatalogue:
    """The providers and promises of this version of MailWatch."""

    def provider(self, word: str) -> KnownProvider | None:
        """Return the provider with that key or name, in upper or lower case; None if there is none."""
        return _providers().get(word.strip().casefold())

    def provider_of(self, domain: str) -> KnownProvider | None:
        """Return the provider of the mailboxes of a domain; None if there is none."""
        found = catalogue.by_domain(domain)
        return None if found is None else self.provider(found.key)

    def rule(self, key: str) -> Mapping[str, object] | None:
        """Return the promise with that key in the form of outage.json, None if there is none."""
        found = sla.rule(key)
        return None if found is None else rule_payload(found)


@cache
def _providers() -> Mapping[str, KnownProvider]:
    known: dict[str, KnownProvider] = {}
    for one in catalogue.providers():
        hosts = frozenset(server.host.casefold() for server in one.servers)
        found = KnownProvider(one.name, hosts, frozenset(one.domains))
        known |= {one.name.casefold(): found, one.key.casefold(): found}
    return known

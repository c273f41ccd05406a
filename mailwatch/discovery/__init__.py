"""Which servers serve the mailboxes of a domain: first what its name server says, then a look at usual names.

Nobody logs in and no password is known here. What is found is a claim of whoever answered, to be shown to the
person before a password goes there.

said = await ask(domain, system_resolver())     # SRV and MX, all at once
found = await usual(domain, kinds, resolver)    # imap.DOMAIN and the like, if they show a good certificate
"""

from __future__ import annotations

from mailwatch.discovery.door import ORDER, Door, Source, ascii_domain, within
from mailwatch.discovery.hosted import provider_of_doors, provider_of_exchanger
from mailwatch.discovery.records import Said, ask
from mailwatch.discovery.usual import usual

__all__ = [
    "ORDER",
    "Door",
    "Said",
    "Source",
    "ascii_domain",
    "ask",
    "provider_of_doors",
    "provider_of_exchanger",
    "usual",
    "within",
]

"""The properties of each kind of target, one row a kind. `mailwatch.probes.PROBES` has the probe of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailwatch.model import Kind, Phase, TlsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFacts:
    """The properties of a kind that config, probes, metrics and pages use.

    `ports` are the usual ports by encryption; a kind without any has no host, port or tls in the config. The
    phases in `phases` always follow the greeting, those in `login_phases` only with a login. Config keys of a
    target may be specific to this kind (`own_keys`), required (`required_keys`) or forbidden (`unused_keys`).
    """

    ports: Mapping[TlsMode, int] = field(default_factory=dict)
    default_tls: TlsMode = TlsMode.IMPLICIT
    phases: tuple[Phase, ...] = ()
    login_phases: tuple[Phase, ...] = ()
    own_keys: tuple[str, ...] = ()
    required_keys: tuple[str, ...] = ()
    unused_keys: tuple[str, ...] = ()
    sends_helo: bool = False
    """Whether a probe greets the server with `defaults.helo_name`."""
    verifies_certificate: bool = True
    """Whether certificates count: between exchangers (RFC 7435) any certificate is better than none."""
    awaits_delivery: bool = False
    """Whether a probe sends a message and awaits it: this takes minutes, and is not repeated sooner in doubt."""


KINDS: dict[Kind, KindFacts] = {
    Kind.IMAP: KindFacts(
        ports={TlsMode.IMPLICIT: 993, TlsMode.STARTTLS: 143, TlsMode.NONE: 143},
        login_phases=(Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
        own_keys=("login",),
    ),
    Kind.SMTP: KindFacts(
        ports={TlsMode.IMPLICIT: 465, TlsMode.STARTTLS: 587, TlsMode.NONE: 587},
        login_phases=(Phase.AUTH, Phase.SUBMIT),
        own_keys=("login",),
        sends_helo=True,
    ),
    Kind.POP3: KindFacts(
        ports={TlsMode.IMPLICIT: 995, TlsMode.STARTTLS: 110, TlsMode.NONE: 110},
        login_phases=(Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
        own_keys=("login",),
    ),
    Kind.ROUNDTRIP: KindFacts(
        login_phases=(Phase.AUTH, Phase.MAILBOX, Phase.SUBMIT, Phase.DELIVER),
        own_keys=("via", "to", "deadline"),
        required_keys=("via", "to"),
        unused_keys=("host", "port", "tls", "ca_file"),
        awaits_delivery=True,
    ),
    Kind.MX: KindFacts(
        ports={TlsMode.STARTTLS: 25, TlsMode.NONE: 25},
        default_tls=TlsMode.STARTTLS,
        phases=(Phase.SUBMIT,),
        own_keys=("recipient", "sender"),
        unused_keys=("ca_file",),
        sends_helo=True,
        verifies_certificate=False,
    ),
    Kind.WEBMAIL: KindFacts(
        phases=(Phase.FETCH,),
        own_keys=("url", "contains", "absent"),
        required_keys=("url",),
        unused_keys=("host", "port", "tls"),
    ),
}

MAILBOX_KINDS = tuple(kind for kind, facts in KINDS.items() if "login" in facts.own_keys)
"""The kinds that log in to a mailbox: the default kinds of an account."""

"""Each kind of target has its rows: a new one is found missing here."""

from __future__ import annotations

import pytest

from mailwatch.config.schema_targets import TargetSection
from mailwatch.kinds import KINDS, MAILBOX_KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.probes import PROBES, max_probe_seconds
from mailwatch.settings import RoundtripTask, Target


def test_every_kind_has_its_row_in_both_tables() -> None:
    assert set(KINDS) == set(PROBES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_the_keys_of_a_kind_are_keys_of_a_target(kind: Kind) -> None:
    facts = KINDS[kind]
    assert {*facts.own_keys, *facts.required_keys, *facts.unused_keys} <= TargetSection.model_fields.keys()
    assert set(facts.required_keys) <= set(facts.own_keys)


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_has_a_port_for_its_usual_encryption_or_none_at_all(kind: Kind) -> None:
    facts = KINDS[kind]
    assert facts.default_tls in facts.ports if facts.ports else "port" in facts.unused_keys


def test_accounts_are_watched_by_the_kinds_with_a_login() -> None:
    assert MAILBOX_KINDS == (Kind.IMAP, Kind.SMTP, Kind.POP3)


@pytest.mark.parametrize("kind", Kind)
def test_every_probe_has_a_longest_duration(kind: Kind) -> None:
    end = Target(name="t", kind=Kind.IMAP, host="h", port=1, tls=TlsMode.NONE, timeout=1.0)
    task = RoundtripTask(via=end, to=end, sender="a@example.org", recipient="a@example.org")
    target = Target(name="t", kind=kind, host="h", port=1, timeout=1.0, task=task)
    assert target.timeout < max_probe_seconds(target) < 1200

"""A good password rejected for a while: no outage while nobody can know, one afterwards, with its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch import model
from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.outage import Outage
from mailwatch.facts import AttemptFacts
from mailwatch.guard.login_backoff import LoginBackoff
from mailwatch.model import Attempt, Cause, Fact, Gap, GapReason, Observation, Outcome, Phase, Rules
from mailwatch.store.replay import audit_outages, restore_state, rule_book
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.records import json_of
from tests.helpers.targets import Targets
from tests.servers import ALICE, Dovecot

MINUTE = 60_000
ONE = Rules(1, 1)


def fact(sign: str, index: int) -> Observation | Gap:
    """`+` accepted, `x` rejected, `X` rejected and down, `?` probed without a login, `-` down, `_` a gap;
    `*` another password accepted, `%` another one rejected.
    """
    start, end = index * MINUTE, index * MINUTE + 1000
    if sign == "_":
        return Gap(target="t", start=start, end=end, reason=GapReason.NOT_RUNNING)
    outcome = {"+": Outcome.UP, "*": Outcome.UP, "X": Outcome.DOWN, "-": Outcome.DOWN}.get(sign, Outcome.UNKNOWN)
    cause = {"+": None, "*": None, "-": Cause.TIMEOUT}.get(sign, Cause.CREDENTIALS)
    return Observation(
        target="t",
        scheduled_at=start,
        started_at=start,
        ended_at=end,
        outcome=outcome,
        cause=cause,
        with_login=sign != "?",
        secret={"?": "", "*": "other", "%": "other"}.get(sign, "same"),
    )


def proven(signs: str, open_after: int = 1) -> list[Outage]:
    return proven_by([fact(sign, index) for index, sign in enumerate(signs)], Rules(open_after, 1))


def proven_by(facts: Sequence[Fact], rules: Rules = ONE, start: int = 0) -> list[Outage]:
    detector, found = Detector(), list[Outage]()
    for index, each in enumerate(facts, start=start):
        detector, changed = detector.feed(IndexedFact(index, each), rules)
        found += [outage for outage in changed if outage.proven_afterwards]
    return found


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ("+x+", [(0, 1, 1, 2)]),
        ("++x??x?+", [(1, 2, 5, 7)]),  # observations without a login neither prove nor clear
        ("+x+x+", [(0, 1, 1, 2), (2, 3, 3, 4)]),
        ("+x_+", [(0, 1, 1, 3)]),  # a restart between
        ("+x-+", [(0, 1, 1, 3)]),
        ("x+", []),  # never accepted before: a typing error that was fixed elsewhere
        ("+x", []),  # not accepted again yet
        ("+x*", []),  # another password is accepted: the old one was changed
        ("+%+", []),  # a wrong one was tried in between
        ("+x%+", [(0, 1, 1, 3)]),
        ("*x+", []),
        ("+xX+", []),  # an outage of its own covers it
        ("+xXx+", [(0, 3, 3, 4)]),
        ("++", []),
        ("+?+", []),
    ],
)
def test_the_same_secret_accepted_rejected_and_accepted_again_is_an_outage(
    signs: str, expected: list[tuple[int, int, int, int]]
) -> None:
    times = [(o.last_good, o.first_bad, o.last_bad, o.first_good) for o in proven(signs)]
    starts = [tuple(None if t is None else t // MINUTE for t in outage) for outage in times]
    assert starts == expected


@pytest.mark.parametrize(
    ("signs", "expected"), [("+xX+", [(0, 1, 2, 3)]), ("+XX+", [(0, 1, 2, 3)]), ("+XXX+", []), ("+xXXX+", [])]
)
def test_too_few_rejected_together_to_open_an_outage_are_proven_afterwards(
    signs: str, expected: list[tuple[int, int, int, int]]
) -> None:
    times = [(o.last_good, o.first_bad, o.last_bad, o.first_good) for o in proven(signs, open_after=3)]
    assert [tuple(None if t is None else t // MINUTE for t in outage) for outage in times] == expected


def test_its_bounds_are_as_wide_as_the_back_off_and_its_holes_are_stated() -> None:
    (outage,) = proven("+x????x??+")
    reported = json_of(outage)
    assert reported["proven_afterwards"] is True
    assert reported["state"] == "closed"
    assert reported["duration"]["min"] == 5 * 60 - 1  # end of the first rejected observation to start of the last
    assert reported["duration"]["max"] == 9 * 60 + 1
    assert reported["observations"] == {"down": 2, "up": 0, "unknown": 6}
    assert reported["causes"] == {"credentials": 2}
    assert reported["largest_gap"] == 5 * 60 - 1
    assert reported["unobserved"] == 5 * 60 - 1 + 3 * 60 - 1


@given(st.text("+x*%X-?_", max_size=40))
def test_bounds_are_in_order_and_only_observations_with_the_same_secret_set_them(signs: str) -> None:
    for outage in proven(signs):
        assert outage.last_good is not None
        assert outage.first_good is not None
        assert outage.last_good <= outage.first_bad <= outage.last_bad <= outage.first_good
        at = [t // MINUTE for t in (outage.last_good, outage.first_bad, outage.last_bad, outage.first_good)]
        # The same secret at both ends, rejected at both inner times, and never accepted in between.
        assert signs[at[0]] == signs[at[3]]
        assert {signs[at[1]], signs[at[2]]} == {"x" if signs[at[0]] == "+" else "%"}
        assert not set("+*") & set(signs[at[0] + 1 : at[3]])


@given(st.text("+x*%X-?_", max_size=40), st.integers(0, 40), st.integers(1, 3))
def test_a_replay_from_the_last_accepted_login_gives_the_same(signs: str, cut: int, open_after: int) -> None:
    cut = min(cut, len(signs))
    start = max(signs.rfind("+", 0, cut), signs.rfind("*", 0, cut), 0)
    facts = [fact(sign, index) for index, sign in enumerate(signs)]
    whole, resumed = (
        [outage for outage in proven_by(facts[first:], Rules(open_after, 1), first) if outage.last_index >= cut]
        for first in (0, start)
    )
    assert resumed == whole


async def test_a_real_server_that_rejects_a_good_password_for_a_while_is_proven_wrong(
    own_dovecot: Dovecot, targets: Targets, tmp_path: Path
) -> None:
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    harness.pipeline.runner.login_backoff = LoginBackoff(backoff=(0,))
    target = replace(targets.imap(own_dovecot), name="t")
    harness.add_target(target)
    good = own_dovecot.passwords[ALICE]
    await harness.probe(target)
    own_dovecot.set_password(ALICE, "another")
    await harness.probe(target)
    await harness.probe(target)
    assert harness.recorded("outage") == []
    own_dovecot.set_password(ALICE, good)
    await harness.probe(target)
    (outage,) = harness.recorded("outage")
    observations = harness.recorded("observation")
    assert [observation["outcome"] for observation in observations] == ["up", "unknown", "unknown", "up"]
    assert len({observation["secret"] for observation in observations}) == 1
    assert outage["proven_afterwards"] is True
    assert (outage["last_good"], outage["first_bad"]) == (observations[0]["start"], observations[1]["end"])
    assert (outage["last_bad"], outage["first_good"]) == (observations[2]["start"], observations[3]["end"])
    book = rule_book(harness.reader)
    assert audit_outages(harness.reader, book, "t") == []
    assert restore_state(harness.reader, "t", book).unrecorded == ()
    assert 'mailwatch_outages_total{target="t",provider="lab",kind="imap"} 1' in harness.exposition()
    await harness.close()


@pytest.mark.parametrize(
    ("phase", "facts", "proves"),
    [
        (Phase.AUTH, None, True),
        (Phase.AUTH, {"owner": "account-state"}, False),
        (Phase.MAILBOX, None, False),
        (Phase.FETCH, None, False),
    ],
)
def test_an_account_that_was_locked_and_opened_again_proves_nothing(
    phase: Phase, facts: AttemptFacts | None, proves: bool
) -> None:
    observations = []
    for index, sign in enumerate("+xx+"):
        observation = fact(sign, index)
        assert isinstance(observation, Observation)
        if sign == "x":
            attempt = Attempt(
                started_at=observation.started_at,
                ended_at=observation.ended_at,
                cause=Cause.CREDENTIALS,
                failed_phase=phase,
                facts=facts,
            )
            observation = replace(observation, failed_phase=phase, attempts=(attempt,))
        observations.append(observation)
    assert bool(proven_by(observations)) is proves


def test_a_clock_step_before_the_first_rejection_is_reported() -> None:
    """Accepted, the clock set by an hour while nobody logged in, the machine restarted, rejected, accepted."""

    def at(sign: str, boot: str, clock: int, wall: int) -> Observation:
        observation = fact(sign, 0)
        assert isinstance(observation, Observation)
        return replace(
            observation, started_at=wall, ended_at=wall + 1000, clock=model.ClockSpan(boot, clock, clock + 1000, 5)
        )

    hour = 3_600_000
    facts = [
        at("+", "a", 60_000, 0),
        at("?", "a", 120_000, 60_000),
        at("?", "a", 180_000, 120_000 + hour),
        at("x", "b", 5000, 240_000 + hour),
        at("+", "b", 65_000, 300_000 + hour),
    ]
    (found,) = proven_by(facts)
    assert found.clock is not None
    assert (found.clock.stepped, found.clock.reboots) == (hour, 1)

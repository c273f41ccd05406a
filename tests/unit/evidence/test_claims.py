"""Claims: what the config takes, what arithmetic makes of an outage under a rule, and what of it is reported."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast
from zoneinfo import ZoneInfo

import docx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailwatch import config
from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import OutageJson
from mailwatch.analysis.sla import read_rule, rule_payload
from mailwatch.cli.claim import days_left
from mailwatch.config import schema_claims
from mailwatch.config.catalogue import sla
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims import owner_statement
from mailwatch.evidence.claims.evaluate import (
    RULE_ZONE,
    Fee,
    SlaOutage,
    check_claim,
    claim_deadline,
    evaluate,
    sla_outage,
    sla_windows,
)
from mailwatch.evidence.letter import Letter, compose_letter
from mailwatch.evidence.letter import docx as docx_of
from mailwatch.evidence.letter.blocks import Block, Paragraph
from mailwatch.evidence.letter.content import LetterCase, open_blanks, weaknesses
from mailwatch.evidence.outage_case import find_outage
from mailwatch.evidence.report.charts import Timeline
from mailwatch.evidence.report.contract import contract_section, promise_verdict
from mailwatch.evidence.report.facts import ReportFacts
from mailwatch.evidence.report.formatting import letter_texts, mailbox_of, outage_formatter
from mailwatch.evidence.report.outage import OutagePage
from mailwatch.evidence.report.typesetting import PageDate, PageHead
from mailwatch.evidence.verify import Trust, verify
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.statement import stated_maintenance
from mailwatch.i18n import Formatter
from mailwatch.store import Reader
from tests.helpers.pdf import text_of
from tests.helpers.process import MailWatchProcess
from tests.helpers.records import made_record
from tests.servers.authority import Authority

ROME = ZoneInfo(RULE_ZONE)
MINUTE = 60_000
HOUR = 60 * MINUTE
PROMISES = sla.rules()
STATEMENT = {
    "holder": {"name": "Maria Bianchi", "tax_code": "BNCMRA80A41F205X", "email": "maria@example.org"},
    "plan": "Mail Plus",
    "contract_number": "C-12345",
    "fee": {"amount": 9.9, "currency": "EUR", "period": "month"},
    "since": "2020-01-31",
    "notified": [{"date": "2026-11-24", "means": "PEC", "reference": "ticket 678", "answer": "none so far"}],
}
FREE = ClaimSection.model_validate({"provider": "lab"})


def at(text: str) -> int:
    """A local time in Rome."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ROME).timestamp() * 1000)


def lasted(start: str, hours: float, edge: int = MINUTE, **more: Any) -> SlaOutage:
    begin = at(start)
    end = begin + round(hours * HOUR)
    return SlaOutage((begin, end), (begin - edge, end + edge), **more)


def reading(*asked: Any) -> dict[str, Any]:
    """What `evaluate` says, as outage.json has it."""
    return evaluate(*asked).as_json()


def only(evaluated: dict[str, Any]) -> dict[str, Any]:
    (window,) = evaluated["windows"]
    return dict(window)


def recorded(one: SlaOutage, **more: Any) -> OutageRecord:
    """A record of an outage of which a rule counts these facts."""
    (bad, last), (good, end) = one.sure, one.possible or (None, None)
    facts: dict[str, Any] = {
        "last_good": good,
        "first_good": end,
        "down": 9,
        "up": one.up_count,
        "unknown": one.unknown_count,
        "unobserved": one.unobserved,
        "durations": Durations(last - bad, None if good is None or end is None else end - good),
        "maintenance": one.maintenance,
    }
    return made_record(bad, last, **{**facts, **more})


# The catalogue


def test_each_promise_names_its_source_and_date() -> None:
    for rule in PROMISES.values():
        assert rule.source_url.startswith("https://"), rule.key
        assert date.fromisoformat(rule.seen_on) <= datetime.now(UTC).date()
        assert read_rule(rule.key, rule_payload(rule)) == rule
        assert rule.target is not None or not rule.tiers
    # What is not from the official text, or only in part, is not called verified.
    assert {key for key, rule in PROMISES.items() if rule.verified} == {"pec", "google-isp", "titan", "zen"}
    assert PROMISES["libero"].target is None


@pytest.mark.parametrize(
    "change",
    [
        {"target": "1e-99999999"},
        {"target": "100.1"},
        {"target": 99.9},
        {"target": "NaN"},
        {"window": "week"},
        {"verified": "yes"},
        {"minimum_minutes": -1},
        {"minimum_minutes": True},
        {"tiers": [{"below": "95"}, {"below": "99"}]},
        {"tiers": 7},
        {"deadline": {"days": 1, "month_end": 1}},
        {"deadline": {"days": 10**9}},
        {"definition": {"en": "x"}},
        {"definition": [[]]},
        {"name": "x" * 3000},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_rule_of_an_untrusted_bundle_is_read_strictly(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_rule("pec", rule_payload(PROMISES["pec"]) | change)


# The config


def test_the_most_specific_claim_applies() -> None:
    written = [{"provider": "libero"}, {"accounts": ["a@libero.it"]}, {"targets": ["a@libero.it/imap"]}]
    made = tuple(ClaimSection.model_validate(one) for one in written)
    for target, expected in (("a@libero.it/imap", 2), ("a@libero.it/smtp", 1), ("b@libero.it/smtp", 0)):
        outage = made_record(0, 0, target=target, provider="libero")
        assert schema_claims.find_claim(made, outage) is made[expected]
    other = made_record(0, 0, target="x", provider="lab")
    assert schema_claims.find_claim(made, other) is None
    assert schema_claims.find_claim((), other) is None


def test_claims_survive_config_show_and_change_no_digest(tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "vantage_point": {"name": "home"},
        "targets": [{"name": "lab", "kind": "imap", "host": "imap.example.org"}],
    }
    (tmp_path / "without").write_text(json.dumps(plain))
    (tmp_path / "with").write_text(json.dumps(plain | {"claims": [STATEMENT | {"targets": ["lab", "old"]}]}))
    without, loaded = config.load(tmp_path / "without"), config.load(tmp_path / "with")
    (tmp_path / "again").write_text(config.effective_yaml(loaded))
    assert config.load(tmp_path / "again").claims == loaded.claims
    assert loaded.claims[0].fee is not None
    assert loaded.claims[0].fee.amount == Decimal("9.9")
    assert config.digest(loaded) == config.digest(without)
    assert "claims" not in config.effective(without)
    (warned,) = config.warnings(loaded)
    assert "the config has nothing named 'old'" in warned.message


# Windows


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-15", 743), ("2026-10-15", 745), ("2026-11-15", 720), ("2024-02-10", 696)],
)
def test_a_month_has_the_hours_of_the_calendar_of_rome(day: str, hours: int) -> None:
    ((start, end),) = sla_windows(PROMISES["titan"], (at(day), at(day) + HOUR), ROME)
    assert end - start == hours * HOUR


def test_a_quadrimestre_is_four_months_and_ends_with_the_year() -> None:
    found = sla_windows(PROMISES["pec"], (at("2026-12-31T23:59"), at("2027-01-01T00:01")), ROME)
    assert found == [(at("2026-09-01"), at("2027-01-01")), (at("2027-01-01"), at("2027-05-01"))]


@given(
    st.integers(at("2019-12-01"), at("2031-01-01")),
    st.integers(0, 400 * 24 * HOUR),
    st.sampled_from(["pec", "titan"]),
)
def test_windows_cover_the_span_and_touch_one_another(start: int, length: int, key: str) -> None:
    span = (start, start + length)
    found = sla_windows(PROMISES[key], span, ROME)
    assert found[0][0] <= span[0] < found[0][1]
    assert found[-1][0] <= span[1] < found[-1][1]
    assert [one[1] for one in found[:-1]] == [one[0] for one in found[1:]]
    assert all(datetime.fromtimestamp(one[0] / 1000, ROME).strftime("%d %H:%M") == "01 00:00" for one in found)


@given(st.integers(at("2019-12-01"), at("2031-01-01")), st.integers(0, 200 * 24 * HOUR), st.integers(0, HOUR))
def test_counted_downtime_adds_up_over_the_windows(start: int, length: int, edge: int) -> None:
    one = SlaOutage((start, start + length), (start - edge, start + length + edge))
    reported = reading(PROMISES["titan"], "imap", [one], None)["windows"]
    # Sums of thousandths of a second.
    assert round(sum(window["raw"]["down"]["min"] for window in reported) * 1000) == length
    assert round(sum(window["raw"]["down"]["max"] for window in reported) * 1000) == length + 2 * edge
    for window in reported:
        share = window["counted"]["available"]
        assert 0 <= Decimal(share["at_least"]) <= Decimal(share["at_most"]) <= 100


def test_a_span_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 240 windows"):
        sla_windows(PROMISES["titan"], (0, at("2026-01-01")), ROME)


# The provider's reading


def test_an_outage_shorter_than_the_minimum_counts_at_most_possibly() -> None:
    google = PROMISES["google-isp"]
    short = only(reading(google, "webmail", [lasted("2026-11-10T10:00", 9 / 60)], None))
    assert short["raw"]["down"] == {"min": 540.0, "max": 660.0}
    assert short["counted"]["down"] == {"min": 0.0, "max": 660.0}
    shorter = only(reading(google, "webmail", [lasted("2026-11-10T10:00", 7 / 60)], None))
    assert shorter["counted"]["down"] == {"min": 0.0, "max": 0.0}
    full = only(reading(google, "webmail", [lasted("2026-11-10T10:00", 10 / 60)], None))
    assert full["counted"]["down"]["min"] == 600.0


@example([7 * MINUTE, 8 * MINUTE])
@given(st.lists(st.integers(0, 25 * MINUTE), min_size=1, max_size=6))
def test_up_observations_inside_never_make_more_count_than_the_pieces(pieces: list[int]) -> None:
    """However an outage was cut by good observations: what is said to count surely is not more than what does."""
    google, start = PROMISES["google-isp"], at("2026-11-10T10:00")
    span = (start, start + sum(pieces))
    one = SlaOutage(span, span, up_count=len(pieces) - 1)
    evaluated = only(reading(google, "webmail", [one], None))["counted"]["down"]["min"] * 1000
    truth = sum(piece for piece in pieces if piece >= 10 * MINUTE)
    assert round(evaluated) <= truth
    if len(pieces) == 1:
        assert round(evaluated) == truth


def test_a_channel_that_the_definition_leaves_out_has_its_raw_figure_only() -> None:
    reported = reading(PROMISES["google-workspace"], "imap", [lasted("2026-11-10T10:00", 30)], None)
    assert reported["covered"] is False
    assert only(reported).keys() == {"from", "to", "raw"}
    assert only(reported)["raw"]["available"] == {"at_most": "95.8334", "at_least": "95.8287"}


def test_maintenance_is_left_out_where_the_rule_says_so() -> None:
    announced = lasted("2026-11-10T10:00", 2, maintenance=HOUR)
    assert only(reading(PROMISES["titan"], "imap", [announced], None))["counted"]["down"]["min"] == 3600.0
    pec = only(reading(PROMISES["pec"], "imap", [announced], None))
    assert pec["counted"]["down"]["min"] == 7200.0
    assert sla_outage(recorded(announced)) == announced


@pytest.mark.parametrize(
    ("hours", "surely", "possibly"),
    [
        (0.68, None, None),
        (0.71, None, "25"),
        (0.73, "25", "25"),
        (7.18, "25", "50"),
        (7.3, "50", "50"),
        (40, "100", "100"),
    ],
)
def test_tiers_and_money_follow_from_the_share(hours: float, surely: str | None, possibly: str | None) -> None:
    fee = Fee(Decimal("9.99"), "EUR", "month")
    tier = only(reading(PROMISES["microsoft-365"], "imap", [lasted("2026-11-10T10:00", hours)], fee))["counted"][
        "tier"
    ]
    assert [tier[how] and tier[how]["percent"] for how in ("surely", "possibly")] == [surely, possibly]
    if surely == "25":
        assert (tier["surely"]["amount"], tier["surely"]["currency"]) == ("2.49", "EUR")


def test_exactly_the_promised_share_fulfils_the_promise() -> None:
    exact = only(reading(PROMISES["microsoft-365"], "imap", [lasted("2026-11-10T10:00", 0.72, edge=0)], None))
    assert exact["counted"]["available"] == {"at_most": "99.9000", "at_least": "99.9000"}
    assert exact["counted"]["broken"] == "no"
    assert exact["counted"]["tier"] == {"surely": None, "possibly": None}


def test_money_is_shown_only_where_the_rule_gives_some_and_a_fee_is_known() -> None:
    long = [lasted("2026-11-10T10:00", 40)]
    year = Fee(Decimal("120"), "EUR", "year")
    microsoft = only(reading(PROMISES["microsoft-365"], "imap", long, year))
    assert microsoft["counted"]["tier"]["surely"]["amount"] == "10.00"
    days = only(reading(PROMISES["google-workspace"], "webmail", long, year))["counted"]["tier"]["surely"]
    assert days == {"below": "95", "days": 15}
    assert only(reading(PROMISES["google-isp"], "webmail", long, year))["counted"]["tier"]["surely"] == {
        "below": "95"
    }
    without = only(reading(PROMISES["microsoft-365"], "imap", long, None))["counted"]["tier"]["surely"]
    assert without == {"below": "95", "percent": "100"}


def test_unobserved_time_does_not_surely_count_under_a_rule() -> None:
    """Five hours of which one was unobserved, in a hole: as measured it is five, by the rule at least four."""
    holed = lasted("2026-11-10T10:00", 5, unobserved=HOUR)
    evaluated = only(reading(PROMISES["titan"], "imap", [holed], None))
    assert evaluated["raw"]["down"] == {"min": 18_000.0, "max": 18_120.0}
    assert evaluated["counted"]["down"] == {"min": 14_400.0, "max": 18_120.0}
    assert sla_outage(recorded(holed)) == holed
    # What was unobserved as a whole (a login tried now and then) breaks no promise for sure.
    blind = only(reading(PROMISES["titan"], "imap", [lasted("2026-11-10T10:00", 5, unobserved=5 * HOUR)], None))
    assert (blind["counted"]["down"]["min"], blind["counted"]["broken"]) == (0.0, "possibly")
    # Nor is it for sure one event: a recovery may lie in the hole.
    pec = only(reading(PROMISES["pec"], "imap", [lasted("2026-11-10T10:00", 9, unobserved=HOUR)], None))
    assert (pec["counted"]["broken"], pec["counted"]["single_event"]["exceeded"]) == ("surely", "possibly")


def test_a_hole_may_have_left_pieces_that_are_too_short_to_count() -> None:
    """25 minutes with a hole of 12: two pieces of six and a half, of which a rule of ten minutes counts none."""
    for hidden in ({"unobserved": 12 * MINUTE}, {"maintenance": 12 * MINUTE}):
        one = lasted("2026-11-10T10:00", 25 / 60, **hidden)
        assert only(reading(PROMISES["google-isp"], "webmail", [one], None))["counted"]["down"]["min"] == 0.0
    # One unknown observation of a second within five days: at most two cuts of less than ten minutes.
    long = lasted("2026-11-10T10:00", 120, unobserved=1000, unknown_count=1)
    evaluated = only(reading(PROMISES["google-isp"], "webmail", [long], None))["counted"]["down"]["min"]
    assert evaluated == 120 * 3600 - 1 - 2 * 600


def test_an_outage_over_the_end_of_a_month_and_over_a_change_of_clocks() -> None:
    """29 March 2026 has 23 hours: from noon on the 28th to noon on 2 April are 119 hours, not 120."""
    start, end = at("2026-03-28T12:00"), at("2026-04-02T12:00")
    assert end - start == 119 * HOUR
    march, april = reading(PROMISES["titan"], "imap", [SlaOutage((start, end), (start, end))], None)["windows"]
    assert (march["from"], march["to"]) == ("2026-02-28T23:00:00.000Z", "2026-03-31T22:00:00.000Z")
    assert march["raw"]["down"] == {"min": 83 * 3600.0, "max": 83 * 3600.0}
    assert april["raw"]["down"] == {"min": 36 * 3600.0, "max": 36 * 3600.0}
    # 83 of 743 hours, and 36 of 720.
    assert march["counted"]["available"] == {"at_most": "88.8291", "at_least": "88.8290"}
    assert april["counted"]["available"] == {"at_most": "95.0000", "at_least": "95.0000"}


def test_a_tier_begins_below_its_bound_and_not_at_it() -> None:
    """Exactly 95 % is still the tier below 99 %: 36 of 720 hours; a millisecond more is the next."""
    fee = Fee(Decimal("11.99"), "EUR", "year")
    for more, percent, amount in ((0, "50", "0.49"), (1, "100", "0.99")):
        begin = at("2026-11-10T10:00")
        one = SlaOutage((begin, begin + 36 * HOUR + more), (begin, begin + 36 * HOUR + more))
        tier = only(reading(PROMISES["microsoft-365"], "imap", [one], fee))["counted"]["tier"]["surely"]
        # A twelfth of 11.99 is 0.99916...; half of it 0.49958...: cents are cut.
        assert (tier["percent"], tier["amount"]) == (percent, amount)


def test_an_outage_without_both_ends_has_no_upper_figure() -> None:
    one = replace(lasted("2026-11-10T10:00", 40), possible=None)
    evaluated = only(reading(PROMISES["microsoft-365"], "imap", [one], None))["counted"]
    assert evaluated["down"]["max"] is None
    assert evaluated["available"]["at_least"] is None
    assert evaluated["broken"] == "surely"
    assert evaluated["tier"]["possibly"] is None
    brief = replace(lasted("2026-11-10T10:00", 0.1), possible=None)
    assert only(reading(PROMISES["microsoft-365"], "imap", [brief], None))["counted"]["broken"] == "possibly"


def test_one_event_of_a_certified_mailbox_may_take_half_of_what_is_allowed() -> None:
    """A quadrimestre of 2929 hours (in October a clock is set back): 0.2 % are 5.858 h, half of it 2.929 h."""
    cases = [(2.89, "no", "no"), (2.92, "possibly", "no"), (3, "surely", "no"), (6, "surely", "surely")]
    for hours, exceeded, broken in cases:
        evaluated = only(reading(PROMISES["pec"], "imap", [lasted("2026-11-10T10:00", hours)], None))["counted"]
        assert evaluated["single_event"] == {"limit": 10544.4, "exceeded": exceeded}, hours
        assert evaluated["broken"] == broken
    cut = lasted("2026-11-10T10:00", 4, up_count=1)
    evaluated = only(reading(PROMISES["pec"], "imap", [cut], None))["counted"]
    assert evaluated["single_event"]["exceeded"] == "possibly"


def test_other_outages_of_the_window_count_and_overlapping_ones_once() -> None:
    first, second = lasted("2026-11-10T10:00", 1), lasted("2026-11-20T10:00", 1)
    evaluated = only(reading(PROMISES["titan"], "imap", [first, second, first], None))["counted"]
    assert evaluated["down"]["min"] == 7200.0


# Deadlines


@pytest.mark.parametrize(
    ("key", "start", "hours", "expected"),
    [
        ("google-workspace", "2026-11-10T23:30", 0.2, "2026-12-10"),
        ("google-workspace", "2026-11-10T23:30", 1, "2026-12-11"),
        ("microsoft-365", "2026-11-30T12:00", 1, "2026-12-31"),
        ("microsoft-365", "2026-01-31T12:00", 1, "2026-02-28"),
        ("microsoft-365", "2026-12-10T12:00", 1, "2027-01-31"),
        ("pec", "2026-12-10T12:00", 1, None),
    ],
)
def test_the_last_day_to_claim(key: str, start: str, hours: float, expected: str | None) -> None:
    one = lasted(start, hours)
    window = sla_windows(PROMISES[key], one.sure, ROME)[0]
    due = claim_deadline(PROMISES[key], window, one, ROME)
    assert (due and due.isoformat()) == expected


def test_the_days_after_a_window_count_from_its_last_day() -> None:
    one = lasted("2026-10-10T12:00", 1)
    window = sla_windows(PROMISES["zen"], one.sure, ROME)[0]
    assert claim_deadline(PROMISES["zen"], window, one, ROME) == date(2027, 1, 29)


def test_a_deadline_from_the_end_does_not_run_before_it() -> None:
    one, window = replace(lasted("2026-11-10T10:00", 1), possible=None), (at("2026-11-01"), at("2026-12-01"))
    assert claim_deadline(PROMISES["google-workspace"], window, replace(one, ended=False), ROME) is None
    # Never seen working before, but over: the deadline runs, though how long it lasted at most is not known.
    assert claim_deadline(PROMISES["google-workspace"], window, one, ROME) == date(2026, 12, 10)
    for first_good in (None, at("2026-11-10T12:00")):
        assert sla_outage(recorded(one, first_good=first_good)).ended is (first_good is not None)


# What is reported


@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize("key", list(PROMISES))
def test_the_section_says_whether_the_rule_is_verified_and_that_it_is_no_advice(key: str, language: str) -> None:
    section = ClaimSection.model_validate(STATEMENT | {"provider": "lab", "sla": key})
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = owner_statement.owner_claim(section, outage)
    reported = contract_section(claim, "imap", Formatter(language, ROME, tenths=False))
    assert reported is not None
    assert ("NOT VERIFIED" in reported.label or "NON VERIFICATO" in reported.label) is not PROMISES[key].verified
    assert "no legal advice" in reported.intro or "pareri legali" in reported.intro
    assert claim.as_json()["note"] == "no legal advice"
    assert "Mail Plus" in reported.contract[0][1], "the holder is on page one"
    assert check_claim(json.loads(json.dumps(claim.as_json())), outage).startswith(
        "a statement of the owner, not a measurement; its result follows"
    )


def claimed(process: MailWatchProcess, key: str, folder: Path) -> Path:
    settings = process.settings | {"claims": [STATEMENT | {"targets": ["lab-imap"], "sla": key}]}
    path = process.folder / f"{folder.name}.yaml"
    path.write_text(json.dumps(settings))
    return path


def report(
    process: MailWatchProcess, path: Path, identity: str, out: Path, language: str
) -> subprocess.CompletedProcess[str]:
    command = ["--config", str(path), "report", identity, "-o", str(out), "--lang", language]
    return process.command(*command)


@pytest.mark.parametrize("language", ["en", "it"])
def test_a_bundle_with_a_claim_is_valid_and_its_report_shows_it(
    recorded_outage: tuple[MailWatchProcess, Authority, str], trust: Trust, tmp_path: Path, language: str
) -> None:
    made = report(
        recorded_outage[0],
        claimed(recorded_outage[0], "microsoft-365", tmp_path),
        recorded_outage[2],
        tmp_path / "b.zip",
        language,
    )
    assert made.returncode == 0, made.stderr
    found = {claim.claim: claim for claim in verify(tmp_path / "b.zip", trust)}
    assert all(claim.valid for claim in found.values()), found
    assert "which is not verified" in found["outage"].detail
    shutil.unpack_archive(tmp_path / "b.zip", tmp_path / "out")
    text = text_of(tmp_path / "out" / "report.pdf")
    for wanted in ("Maria Bianchi", "BNCMRA80A41F205X", "Mail Plus", "C-12345", "ticket 678"):
        assert wanted in text
    for wanted in {
        "en": ("NOT VERIFIED", "25 % of the fee", "31 Jan 2020"),
        "it": ("NON VERIFICATO", "25 % del canone", "31/01/2020"),
    }[language]:
        assert wanted in text
    assert re.search("Quanto segue sul contratto è dichiarato|contract is stated by the owner", text)


def test_without_a_claim_nothing_of_claims_is_shown(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        assert "claim" not in json.loads(opened.read("outage.json"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda claim: claim["reading"]["windows"][0]["counted"]["down"].update(min=9.0), "does not follow"),
        (lambda claim: claim["stated_by_owner"]["fee"].update(amount="1e-999999999"), "no amount"),
        (lambda claim: claim["rule"]["tiers"][2].update(percent="99"), "does not follow"),
        (lambda claim: claim["rule"].update(surprise=1), "unknown key"),
        (lambda claim: claim.pop("rule"), "its result"),
        (lambda claim: claim.pop("stated_by_owner"), "what the owner states"),
        (lambda claim: claim.update(verdict="guilty"), "its result"),
    ],
    ids=range(7),
)
def test_an_evaluation_that_does_not_follow_is_refused(change: Any, why: str) -> None:
    section = ClaimSection.model_validate(STATEMENT | {"provider": "lab", "sla": "microsoft-365"})
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = json.loads(json.dumps(owner_statement.owner_claim(section, outage).as_json()))
    check_claim(claim, outage)
    change(claim)
    with pytest.raises(ValueError, match=why):
        check_claim(claim, outage)


def test_verify_refuses_a_bundle_whose_evaluation_does_not_follow(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    report(
        recorded_outage[0],
        claimed(recorded_outage[0], "microsoft-365", tmp_path),
        recorded_outage[2],
        tmp_path / "good.zip",
        "en",
    )
    for stated, forged, why in (
        (b'"broken": "no"', b'"broken": "surely"', "the result does not follow"),
        (b'"unobserved":', b'"maintenance": 1, "unobserved":', "the result does not follow"),
        (b'"unobserved":', b'"maintenance": -1, "unobserved":', "the stated maintenance is not a time"),
        (b'"unobserved":', b'"maintenance": 0.0001, "unobserved":', "gives another outage in: maintenance"),
    ):
        with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
            for name in good.namelist():
                raw = good.read(name)
                bad.writestr(name, raw.replace(stated, forged, 1) if name == "outage.json" else raw)
        found = {claim.claim: claim for claim in verify(tmp_path / "bad.zip", Trust())}
        assert not found["outage"].valid
        assert why in found["outage"].detail


@pytest.mark.parametrize("maintenance", ["x", [1], -1, float("nan"), float("inf"), 1e300, None])
def test_maintenance_that_is_no_time_is_refused(maintenance: Any) -> None:
    with pytest.raises(VerificationError, match="not a time"):
        stated_maintenance(cast(OutageJson, {"maintenance": maintenance}))


def test_a_claim_without_a_rule_is_a_statement_only() -> None:
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = owner_statement.owner_claim(FREE, outage).as_json()
    assert claim == {"note": "no legal advice", "stated_by_owner": {}}
    assert check_claim(claim, outage) == "a statement of the owner, not a measurement"


# The letter


def letter(
    recorded_outage: tuple[MailWatchProcess, Authority, str],
    folder: Path,
    language: str,
    key: str | None = None,
    *more: str,
) -> tuple[str, str, str]:
    """Write one; return the PDF's text, the document's text, and what was said."""
    process, _, identity = recorded_outage
    path = claimed(process, key, folder) if key else process.config
    out = folder / "letter"
    made = process.command("--config", str(path), "claim", identity, "-o", str(out), "--lang", language, *more)
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [f"{out}.pdf", f"{out}.docx"]
    assert all(Path(name).stat().st_mode & 0o777 == 0o600 for name in made.stdout.split())
    return (
        text_of(out.with_suffix(".pdf")),
        document_text(io.BytesIO(out.with_suffix(".docx").read_bytes())),
        made.stderr,
    )


def document_text(file: IO[bytes]) -> str:
    opened = docx.Document(file)
    cells = [cell.text for table in opened.tables for row in table.rows for cell in row.cells]
    return " ".join(" ".join([*(paragraph.text for paragraph in opened.paragraphs), *cells]).split())


NO_ADVICE = {"en": "This is not legal advice", "it": "Non è un parere legale"}
UNCHECKED = ("1229", "1453", "1454", "2712", "2019/770", "13533", "Lecce", "347/18", "2,50", "ConciliaWeb", "25 %")
"""Law and amounts that nobody has checked."""


@pytest.mark.parametrize("language", ["en", "it"])
def test_the_letter_is_filled_in_as_pdf_and_as_document(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path, language: str
) -> None:
    pdf, document, reply = letter(recorded_outage, tmp_path, language, "microsoft-365")
    title = {"en": "Subject: complaint about an outage", "it": "Oggetto: reclamo per disservizio"}[language]
    mark = {"en": "is NOT VERIFIED", "it": "NON È VERIFICATA"}[language]
    for text in (pdf, document):
        for wanted in (
            "Maria Bianchi",
            "BNCMRA80A41F205X",
            "lab-imap",
            "C-12345",
            "ticket 678",
            recorded_outage[2],
            title,
            mark,
        ):
            assert wanted in text
        assert NO_ADVICE[language] in text
        assert [words for words in UNCHECKED if words in text] == []
    # The same letters in both, whatever their order; a footer has numbers only.
    assert Counter(filter(str.isalpha, pdf)) == Counter(filter(str.isalpha, document))
    opened = docx.Document(str(tmp_path / "letter.docx"))
    sides = (opened.sections[0].page_width, opened.sections[0].page_height)
    assert [round(side.cm, 1) for side in sides if side is not None] == [21, 29.7]
    assert {"en": "en-GB", "it": "it-IT"}[language] in opened.styles.element.xml
    assert "microsoft-365 is not verified" in reply
    assert re.search(r"last day to claim for 1 \w+ \d{4} to .*: \d{4}-\d\d-\d\d \(-?\d+ days", reply)


@pytest.mark.parametrize("language", ["en", "it"])
def test_without_a_claim_the_formal_notice_is_all_blanks_and_says_so(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path, language: str
) -> None:
    pdf, document, reply = letter(recorded_outage, tmp_path, language, None, "--formal")
    for text in (pdf, document):
        assert {"en": "Subject: formal notice about an outage", "it": "Oggetto: diffida e messa in mora"}[
            language
        ] in text
        assert text.count("____") >= 14
        assert {"en": "[tax code: ", "it": "[codice fiscale: "}[language] in text
        assert [words for words in UNCHECKED if words in text] == []
        assert NO_ADVICE[language] in text
    assert "no claim in the config covers this outage" in reply
    process, _, identity = recorded_outage
    with contextlib.closing(Reader.open(process.data_dir)) as reader:
        outage = find_outage(reader, identity)
    given = open_blanks(LetterCase(outage, None, [], outage_formatter(outage, language, ROME), formal=True))
    assert f"still blank, and marked in the letter: {'; '.join(blank.label for blank in given)}\n" in reply
    assert all(f"[{blank.label}: ____" in document for blank in given)
    assert document.count("____") >= len(given) >= 14


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("it", ("art. 1454 c.c.", "entro 20 giorni dal ricevimento", "s'intenderà senz'altro risoluto")),
        ("en", ("art. 1454 of the Italian Civil Code", "within 20 days of receipt", "the contract is dissolved")),
    ],
)
def test_a_notice_to_perform_declares_when_the_contract_ends(language: str, words: tuple[str, ...]) -> None:
    outage = recorded(lasted("2026-11-10T10:00", 40), first_good=None)
    made = Letter(outage, None, [], Formatter(language, ROME, tenths=False), False, PAGE, dissolve=20)
    text = text_of_letter(made)
    assert [one for one in words if one not in text] == []
    # What the notice demands is not asked a second time.
    assert {"it": "di ripristinare il servizio", "en": "to restore the service"}[language] not in text
    days = letter_texts(language)["days"]
    assert days not in text
    assert days in text_of_letter(replace(made, dissolve=None, formal=True))


def test_an_ended_outage_or_too_short_a_time_has_no_notice_to_perform(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    process, _, identity = recorded_outage
    result = process.command("claim", identity, "-o", str(tmp_path / "letter"), "--dissolve", "15")
    assert (result.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "after its end, use --formal" in result.stderr
    result = process.command("claim", identity, "-o", str(tmp_path / "letter"), "--dissolve", "14")
    assert (result.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "at least 15 days (art. 1454 c.c.)" in result.stderr


def test_an_unknown_outage_has_no_letter(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path: Path
) -> None:
    result = recorded_outage[0].command("claim", "zzz", "-o", str(tmp_path / "letter"))
    assert result.returncode == 1
    assert "no outage has the id zzz" in result.stderr
    assert list(tmp_path.iterdir()) == []


PAGE = OutagePage(
    head=PageHead("en", {}, "", "", "Times are local.", "", "abc", PageDate(2026, 11, 30), "outage.json"),
    headline="", reserve="", caveats=[], least="", least_ms=0, sentence="", facts=[], bounds=[], sure=[],
    outside="", timeline=Timeline([], [], []), timeline_note="", runs=[], runs_cut="", causes=[], phases=[],
    first_failure="", replies=["NO\x07 way"], replies_note="", ours=[["Line", "good"]], service=[], coverage="",
    gaps=[], gaps_cut="", observer=[], method=[], limits=[], terms=None, claimant=[], integrity=[], tokens=[],
)  # fmt: skip


def composed(
    key: str | None, hours: float, language: str = "en", others: tuple[SlaOutage, ...] = (), **more: Any
) -> str:
    """The letter's text about an outage that nobody had to live through."""
    outage = recorded(lasted("2026-11-10T10:00", hours), **more)
    statement = STATEMENT | {"provider": "lab"} | ({"sla": key} if key else {})
    claim = owner_statement.owner_claim(ClaimSection.model_validate(statement), outage)
    other_outages = [recorded(one) for one in others]
    return text_of_letter(
        Letter(outage, claim, other_outages, Formatter(language, ROME, tenths=False), False, PAGE)
    )


def text_of_letter(made: Letter) -> str:
    return document_text(io.BytesIO(docx_of(compose_letter(made), "letter", made.writing.language)))


def test_a_verified_promise_that_was_broken_is_cited_with_its_source() -> None:
    text = composed("pec", 7)
    assert "D.M. 2 novembre 2005, art. 12" in text
    assert "By this count, by this outage alone the promise was certainly not kept." in text
    assert "this one certainly lasted longer" in text
    assert "gazzettaufficiale.it" in text
    assert "già per questo solo disservizio la promessa certamente non è stata mantenuta." in composed(
        "pec", 7, "it"
    )


def test_a_fulfilled_or_unrelated_promise_is_not_cited() -> None:
    for key, why in (
        ("pec", "the promise was kept"),
        ("google-isp", "is about other channels"),
        (None, "if there is one"),
    ):
        text = composed(key, 0.5)
        assert why in text
        assert "gazzettaufficiale" not in text
        assert "10 %" not in text


def test_a_rule_that_is_not_verified_is_not_cited() -> None:
    text = composed("microsoft-365", 40)
    assert 'the rule "Microsoft 365 (Exchange Online)" of the catalogue is NOT VERIFIED' in text
    assert "100 %" not in text
    assert "9.90 EUR =" not in text


def test_outages_of_the_same_window_count_together_in_the_letter() -> None:
    assert "the promise was kept" in composed("titan", 1)
    text = composed("titan", 1, others=(lasted("2026-11-20T10:00", 1),))
    assert "By this count, by the outages on record the promise was certainly not kept." in text
    assert "Other outages of the same service on record" in text


@pytest.mark.parametrize(("key", "verified"), [("microsoft-365", False), ("titan", True)])
def test_nothing_follows_from_a_rule_that_is_not_verified(key: str, verified: bool) -> None:
    section = ClaimSection.model_validate(STATEMENT | {"provider": "lab", "sla": key})
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = owner_statement.owner_claim(section, outage)
    given = contract_section(claim, "imap", Formatter("en", ROME, tenths=False))
    assert given is not None
    (window,) = given.windows
    concluded = [line for line in window.lines if "promise" in line or "Remedy" in line or "EUR" in line]
    assert bool(concluded) is verified
    assert any("this report draws no conclusion and no amount" in line for line in given.lines) is not verified
    assert any("The contract decides that" in line for line in given.lines)
    deadlines = [line for line in window.lines if "Last day to claim" in line]
    assert deadlines == (
        [] if verified else ["Last day to claim, counted with caution: 31 Dec 2026 (not verified)."]
    )


@pytest.mark.parametrize(
    ("key", "hours", "verdict"),
    [
        (None, 7, "none known here"),
        ("libero", 7, "none known here"),
        ("microsoft-365", 40, "its text is not verified"),
        ("google-isp", 40, "is about other channels"),
        ("pec", 7, "the promise was certainly not kept"),
        ("pec", 0.1, "the promise was not broken"),
    ],
)
def test_the_first_page_gives_the_verdict_by_a_verified_promise(
    key: str | None, hours: float, verdict: str
) -> None:
    section = ClaimSection.model_validate(STATEMENT | {"provider": "lab"} | ({"sla": key} if key else {}))
    claim = owner_statement.owner_claim(section, recorded(lasted("2026-11-10T10:00", hours)))
    assert verdict in promise_verdict(claim, Formatter("en", ROME, tenths=False))
    assert promise_verdict(None, Formatter("it", ROME, tenths=False)).startswith("nessuna qui nota")


def test_without_a_known_promise_nothing_is_counted() -> None:
    section = ClaimSection.model_validate(
        {"provider": "lab", "sla": "libero", "fee": {"amount": 0, "period": "month"}}
    )
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = owner_statement.owner_claim(section, outage)
    given = contract_section(claim, "imap", Formatter("it", ROME, tenths=False))
    assert given is not None
    assert (given.lines, given.windows) == (["Qui non è noto alcun livello di servizio promesso."], [])
    assert given.contract == [["Canone", "nessuno (gratuito)"]]


def test_the_letter_does_not_disclose_to_the_provider_when_the_time_to_claim_ends() -> None:
    """Zen counts pings; as a rule of its own it would be cited, and has a deadline."""
    outage = recorded(lasted("2026-11-10T10:00", 40))
    claim = owner_statement.owner_claim(
        ClaimSection.model_validate(STATEMENT | {"provider": "lab", "sla": "zen"}), outage
    )
    claim = replace(claim, rule=replace(PROMISES["zen"], channels=()))
    text = text_of_letter(Letter(outage, claim, [], Formatter("en", ROME, tenths=False), False, PAGE))
    assert "Zen hosted MDaemon" in text
    assert "certainly not kept" in text
    assert "Last day" not in text


def test_the_letter_for_an_open_outage_demands_restoration_without_todays_date() -> None:
    """The record ends before the letter is written; how it is then, only the owner knows."""
    assert "[has worked again since ..., or still does not work: ____" in composed(None, 5, first_good=None)
    assert "still does not work" not in composed(None, 5)
    assert "to restore the service" in composed(None, 5, first_good=None)
    assert "to restore the service" not in composed(None, 5)


def test_both_languages_of_the_letter_have_the_same_words_and_places() -> None:
    en, it = (letter_texts(language) for language in ("en", "it"))
    places = [{key: sorted(re.findall(r"{\w*}", text)) for key, text in one.single().items()} for one in (en, it)]
    assert places[0] == places[1]
    assert en.keys() == en.single().keys()


@pytest.mark.parametrize(
    ("today", "left"), [(date(2026, 12, 31), "(0 days left)"), (date(2027, 1, 2), "(2 days ago)")]
)
def test_the_days_left_are_counted(today: date, left: str) -> None:
    outage = recorded(lasted("2026-11-10T10:00", 5))
    claim = owner_statement.owner_claim(
        ClaimSection.model_validate({"provider": "lab", "sla": "microsoft-365"}), outage
    )
    made = Letter(outage, claim, [], Formatter("it", ROME, tenths=False), False, PAGE)
    assert days_left(made, today) == [f"last day to claim for 1 Nov 2026 to 30 Nov 2026: 2026-12-31 {left}"]


@pytest.mark.parametrize("formal", [False, True])
@pytest.mark.parametrize("key", [None, "pec", "microsoft-365"])
@pytest.mark.parametrize("first_good", [None, 0])
def test_the_preview_names_the_blanks_of_the_letter(key: str | None, first_good: int | None, formal: bool) -> None:
    outage = recorded(lasted("2026-11-10T10:00", 7), **({"first_good": None} if first_good is None else {}))
    statement = STATEMENT | {"provider": "lab"} | ({"sla": key} if key else {})
    claim = owner_statement.owner_claim(ClaimSection.model_validate(statement), outage)
    made = Letter(outage, claim, [], Formatter("en", ROME, tenths=False), formal, PAGE)
    labels = [blank.label for blank in open_blanks(made)]
    assert labels == list(dict.fromkeys(re.findall(r"\[([^\[\]]*): _+\]", in_order(compose_letter(made)))))
    assert ("has worked again since ..., or still does not work" in labels) is (first_good is None)


def in_order(blocks: list[Block]) -> str:
    """The text of the blocks, with the blanks as the document has them."""
    lines = [line for block in blocks for line in (
        [block.line] if isinstance(block, Paragraph) else [cell for row in block.rows for cell in row]
    )]  # fmt: skip
    return " ".join(run if isinstance(run, str) else f"[{run.label}: _]" for line in lines for run in line)


@pytest.mark.parametrize(
    ("target", "language", "expected"),
    [
        (
            "mario@libero.it/imap",
            "it",
            "per disservizio della casella mario@libero.it (accesso IMAP), il 10/11/2026",
        ),
        ("office", "it", "reclamo per disservizio del servizio office (accesso IMAP), il 10/11/2026"),
        ("mario@libero.it/imap", "en", "an outage of the mailbox mario@libero.it (IMAP access), on 10 Nov 2026"),
    ],
)
def test_the_subject_names_mailbox_access_and_day(target: str, language: str, expected: str) -> None:
    assert expected in composed(None, 5, language, target=target)


def test_the_subject_of_several_days_and_of_an_open_outage() -> None:
    assert "(IMAP access), from 10 Nov 2026 to 12 Nov 2026" in composed(None, 50)
    assert "(accesso IMAP), iniziato il 10/11/2026" in composed(None, 50, "it", first_good=None)


@pytest.mark.parametrize(
    ("provider", "wanted", "blank"),
    [
        (
            "libero",
            "Spett.le Italiaonline S.p.A. via del Bosco Rinnovato 8, Milanofiori Nord, Palazzo U4, 20057 ",
            "[PEC o indirizzo del fornitore per i reclami: ____",
        ),
        ("virgilio", "Spett.le Italiaonline S.p.A. via del", "[PEC o indirizzo del fornitore per i reclami: ____"),
        ("tiscali", "Spett.le Tiscali", "fornitore, da controllare: Tiscali Italia S.p.A., località"),
        ("gmail", "Spett.le GMail", "[denominazione e sede legale del fornitore: ____"),
        ("lab", "Spett.le lab", "[denominazione e sede legale del fornitore: ____"),
    ],
)
def test_the_letter_goes_to_the_company_if_its_terms_were_seen(provider: str, wanted: str, blank: str) -> None:
    text = composed(None, 5, "it", provider=provider)
    assert wanted in text
    assert blank in text
    # A legal person that was not checked is never printed as a fact.
    assert ("da controllare" in text) is (provider == "tiscali")


def test_the_owner_is_warned_of_a_weak_complaint() -> None:
    outage = recorded(lasted("2026-11-10T10:00", 5))
    writing = Formatter("en", ROME, tenths=False)
    strong = ReportFacts(down=9, guarded=9)
    assert weaknesses(strong, outage, 5 * HOUR, writing) == []
    assert "at least 59" in weaknesses(strong, outage, 59_900, writing)[0]
    weak = weaknesses(ReportFacts(down=9, degraded=1), outage, 5 * HOUR, writing)
    assert [words in text for words, text in zip(("guard: off", "clock"), weak, strict=True)] == [True, True]
    assert weaknesses(ReportFacts(), replace(outage, proven_afterwards=True), HOUR, writing) == []


@pytest.mark.parametrize(
    ("target", "mailbox"),
    [
        ("mario@libero.it/imap", "mario@libero.it"),
        ("mario@libero.it", "mario@libero.it"),
        ("office webmail", None),
        ("lab/imap", None),
    ],
)
def test_documents_name_the_mailbox_instead_of_the_target(target: str, mailbox: str | None) -> None:
    assert mailbox_of(target) == mailbox

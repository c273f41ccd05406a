"""Attacks of an operator who holds the key (A1 to A20 of the review of 2026-11-29): what refuses or names each.

A bundle of such an operator is signed throughout; only the clocks of the authorities are not theirs. What the
program cannot refuse, it names: as a caveat, on page one of the report and after the claims of `verify`.

Elsewhere: A10, the signer of report.pdf, and A11, the enclosed script (test_attacks_checker.py); A12, the pages
(test_pages.py); A17, two ledgers, and A16 once more (test_attacks_witness.py); A19, a rewritten past
(test_attacks.py). Part C, honest and yet refused: the rest is in test_attacks_checker.py and test_surroundings.py.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mailwatch import monotonic
from mailwatch.analysis.sla import read_rule, rule_payload
from mailwatch.config.catalogue import sla
from mailwatch.evidence.bundle import File
from mailwatch.evidence.caveat_text import caveat_text
from mailwatch.evidence.claims.evaluate import evaluate, sla_outage
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.pages.compare import examine_with_pages
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.shipped import ShippedCatalogue
from mailwatch.evidence.verify import Trust, VerificationResult, verify
from mailwatch.evidence.warnings import CODES, Caveat, CaveatFacts, _address_caveats, _server_caveats
from mailwatch.i18n import Formatter, load_texts
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.earlier_entry import EarlierEntry
from mailwatch.ledger.payloads import clock_from
from mailwatch.model import PAUSED, RESUMED, ConnectivityResult, Gap, GapReason, Rules, TargetEvent
from mailwatch.store import Store, Tokens, proofs, queries
from mailwatch.times import Millis
from tests.helpers.bundle_files import files_of, pack
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.helpers.pdf import pages_of, text_of
from tests.servers.authority import Authority

TEN_MINUTES: Millis = 10 * MINUTE


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return quiet(tmp_path_factory.mktemp("a") / "authority")


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


def answered(*controls: str, online: bool = True) -> ConnectivityResult:
    """What the guard found: these controls answered."""
    return ConnectivityResult(asked_at=0, online=online, controls=dict.fromkeys(controls, "ok"))


def record_outage(operator: Operator, authority: Authority | None, marks: str = "++----++") -> None:
    operator.observe("+")
    if authority:
        operator.stamp(authority)
    operator.observe(marks)
    if authority:
        operator.stamp(authority)


def checked(path: Path, trust: Trust) -> VerificationResult:
    return examine_with_pages(path, trust)


def caveats_of(path: Path, trust: Trust) -> dict[str, Mapping[str, str | int]]:
    """The caveats of a bundle that the claims find valid."""
    result = checked(path, trust)
    assert [claim for claim in result.claims if not claim.valid] == []
    return {one.code: one.figures for one in result.caveats}


def page_one(path: Path) -> str:
    """The first page of the report, its lines joined."""
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", path.parent)
    return pages_of(path.parent / "report.pdf")[0]


def stated(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as opened:
        found: dict[str, Any] = json.loads(opened.read("outage.json"))
    return found


def test_a1_a_clock_set_ahead_by_days_within_an_outage(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++--")
    operator.step(4 * DAY)
    operator.observe("--++")
    operator.step(0)
    operator.stamp(authority)
    path = operator.bundle(authority, report="en")
    assert stated(path)["outage"]["duration"]["max"] < 60
    found = caveats_of(path, trusting(authority))
    # The second step is after the outage.
    assert found["clock_set"] == {"ms": pytest.approx(4 * DAY, abs=1000)}
    assert "The clock of the observer was set by 4 days 0 h" in page_one(path)


def test_a2_an_outage_of_years_ago(operator: Operator, authority: Authority) -> None:
    operator.clock_error = -1400 * DAY
    record_outage(operator, authority)
    path = operator.bundle(authority, report="it")
    found = caveats_of(path, trusting(authority))["clock_off"]
    times = stated(path)["outside_times"]
    assert found == {"ms": pytest.approx(1400 * DAY, abs=3000), **times}
    text = page_one(path)
    assert "l'orologio di chi osservava era sbagliato di 1400 giorni 0 h" in text
    assert "Secondo gli orologi delle autorità di marcatura, la registrazione è stata scritta fra il" in text
    assert "its clock was off by" in read_member(path, trusting(authority)).reason
    # Not stated, it is refused.
    path = operator.bundle(authority, change=lambda one: {k: v for k, v in one.items() if k != "clock_error"})
    refused = next(claim for claim in checked(path, trusting(authority)).claims if not claim.valid)
    assert (refused.claim, "of which 0 s are stated" in refused.detail) == ("outage", True)


def test_a3_one_entry_says_that_the_clock_was_set_by_years(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.step(-5 * 365 * DAY)
    operator.observe("++----++")
    operator.step(0)
    operator.stamp(authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    assert found["clock_off"]["ms"] == pytest.approx(5 * 365 * DAY, abs=3000)
    assert found["clock_set"]["ms"] == pytest.approx(5 * 365 * DAY, abs=1000)


def test_a3_without_tokens_the_step_is_named_all_the_same(operator: Operator) -> None:
    operator.observe("+")
    operator.step(-5 * 365 * DAY)
    operator.observe("++----++")
    assert {"clock_set", "no_tokens"} <= caveats_of(operator.bundle(), Trust()).keys()


def test_a4_an_instant_stated_as_days_by_two_steps(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++-")
    operator.step(2 * DAY)
    operator.observe("-")
    operator.step(5 * DAY)
    operator.observe("-++")
    operator.step(0)
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert stated(path)["outage"]["duration"]["max"] < 60
    assert caveats_of(path, trusting(authority))["clock_set"]["ms"] == pytest.approx(5 * DAY, abs=1000)


@pytest.mark.parametrize("language", ["en", "it"])
def test_a5_an_outage_that_good_observations_do_not_end(
    operator: Operator, authority: Authority, language: str
) -> None:
    """The config refuses such rules today (test_bad_values.py); ledgers of before may have them."""
    operator.rules = Rules(open_after=3, close_after=10_000)
    operator.start()
    record_outage(operator, authority, "++---" + "+-" * 20 + "+" * 41)
    path = operator.bundle(authority, report=language)
    found = caveats_of(path, trusting(authority))
    assert found["rules_beyond"] == {"open": 3, "close": 10_000}
    assert found["last_good"] == {"n": 41, "close": 10_000}
    text = page_one(path)
    if language == "en":
        assert "Until the last failed observation the mail service" in text
        assert "was still not working" not in text
        assert "At the end of the record the service worked: the latest 41 observations succeeded." in text
        assert "closed at successful observation number 10000 in a row" in text
    else:
        assert "Fino all'ultima osservazione fallita il servizio di posta" in text
        assert "non funzionava ancora" not in text
        assert "le ultime osservazioni riuscite di seguito sono 41" in text


def test_a5_rules_in_force_at_any_time_of_the_outage_count(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++---")
    operator.rules = Rules(close_after=500)
    operator.start()
    operator.observe("++++-")
    operator.rules = Rules()
    operator.start()
    operator.observe("-++")
    operator.stamp(authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    assert found["rules_beyond"] == {"open": 3, "close": 500}


def test_a5_rules_of_before_an_outage_say_nothing_of_it(operator: Operator, authority: Authority) -> None:
    operator.rules = Rules(close_after=500)
    operator.start()
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+")
    operator.rules = Rules()
    operator.start()
    operator.observe("++---++")
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert stated(path)["rules_before"]["close_after"] == 500
    assert "rules_beyond" not in caveats_of(path, trusting(authority))


def test_a6_another_host_for_the_time_of_the_outage(operator: Operator, authority: Authority) -> None:
    operator.provider, operator.peer = "libero", "213.209.30.1:993"
    operator.watch("imapmail.libero.it", TargetEvent.BEGIN, catalogue=True)
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++")
    operator.watch("127.0.0.1")
    operator.peer = "127.0.0.1:1"
    operator.observe("---")
    operator.watch("imapmail.libero.it", catalogue=True)
    operator.observe("++")
    operator.stamp(authority)
    path = operator.bundle(authority, report="en")
    found = caveats_of(path, trusting(authority))
    assert found["other_server"] == {"provider": "Libero", "host": "127.0.0.1"}
    assert found["local_server"] == {"address": "127.0.0.1"}
    text = page_one(path)
    assert "The server observed, 127.0.0.1, is not one that MailWatch knows as a server of Libero." in text
    assert "The server observed had an address that is not public: 127.0.0.1." in text


@pytest.mark.parametrize(
    ("provider", "host", "code", "figures"),
    [
        # The flag `catalogue` of the record is the operator's word: the host counts.
        ("libero", "imap.example.org", "other_server", {"provider": "Libero", "host": "imap.example.org"}),
        ("LIBERO", "imap.gmail.com", "other_server", {"provider": "Libero", "host": "imap.gmail.com"}),
        ("Libero Mail", "a.example", "unknown_provider", {"provider": "Libero Mail", "host": "a.example"}),
        ("libero", "IMAPMAIL.libero.it.", None, {}),
    ],
)  # fmt: skip
def test_a7_a_provider_by_any_word(
    operator: Operator,
    authority: Authority,
    provider: str,
    host: str,
    code: str | None,
    figures: dict[str, str],
) -> None:
    operator.provider, operator.peer = provider, "213.209.30.1:993"
    operator.watch(host, TargetEvent.BEGIN, catalogue=True)
    record_outage(operator, authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    servers = {key: found[key] for key in ("other_server", "local_server", "unknown_provider") if key in found}
    assert servers == ({} if code is None else {code: figures})


def test_a7_a_mailbox_of_a_known_provider_under_another_word(operator: Operator, authority: Authority) -> None:
    operator.target, operator.provider, operator.peer = "mario@libero.it/imap", "Lib\u0435ro", "213.209.30.1:993"
    operator.watch("imap.example.org", TargetEvent.BEGIN)
    record_outage(operator, authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    assert found["other_server"] == {"provider": "Libero", "host": "imap.example.org"}


def test_a7_a_mailbox_that_the_bundle_discloses_names_its_provider(
    operator: Operator, authority: Authority
) -> None:
    """Whatever words the owner has for provider and target: page one prints the address."""
    operator.provider = "Libero Mail"
    operator.watch("a.example", TargetEvent.BEGIN)
    record_outage(operator, authority)
    with operator.reader() as reader:
        newest = next(reader.entries(kinds=["outage"], descending=True, limit=1)).payload
    facts = CaveatFacts(0, 100)
    facts.servers[operator.target] = {("imap", "a.example", False)}
    said = {"outage": newest, "user_name": {"name": "mario.rossi@libero.it", "key": ""}}
    (found,) = _server_caveats(said, facts, ShippedCatalogue())
    assert (found.code, found.figures) == ("other_server", {"provider": "Libero", "host": "a.example"})
    (unknown,) = _server_caveats({"outage": newest}, facts, ShippedCatalogue())
    assert unknown.code == "unknown_provider"


def test_of_several_targets_the_one_with_a_local_address_is_named() -> None:
    facts = CaveatFacts(0, 1)
    for index, (target, peer) in enumerate([("casa", "213.209.30.1:993"), ("altro", "127.0.0.1:993")]):
        payload = {"outcome": "up", "attempts": [{"peer": peer}]}
        facts.feed(index, "observation", 0, target, payload)
    (found,) = _address_caveats(facts)
    assert found.figures == {"address": "127.0.0.1 (altro)"}


def test_a7_a_known_name_at_an_address_of_our_own(operator: Operator, authority: Authority) -> None:
    """/etc/hosts, or a server of names that lies."""
    operator.provider, operator.peer = "libero", "[fd00::1]:993"
    operator.watch("imapmail.libero.it", TargetEvent.BEGIN, catalogue=True)
    record_outage(operator, authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    assert found["local_server"] == {"address": "fd00::1"}


def test_a7_the_service_of_the_statement_is_not_believed(operator: Operator, authority: Authority) -> None:
    operator.provider = "libero"
    operator.watch("127.0.0.1", TargetEvent.BEGIN)
    record_outage(operator, authority)
    service = {"kind": "imap", "provider": "libero", "host": "imapmail.libero.it", "with_login": True}
    path = operator.bundle(authority, change=lambda one: one | {"service": service})
    refused = next(claim for claim in checked(path, trusting(authority)).claims if not claim.valid)
    assert (refused.claim, refused.detail) == ("outage", "the stated service has another host than is on record")


def test_a7_an_own_certificate_file_is_named(operator: Operator, authority: Authority) -> None:
    operator.provider = "libero"
    operator.watch("imapmail.libero.it", TargetEvent.BEGIN, catalogue=True, own_ca=True)
    record_outage(operator, authority)
    path = operator.bundle(authority, report="it")
    assert caveats_of(path, trusting(authority))["own_ca"] == {"host": "imapmail.libero.it"}
    assert "un file di certificati del titolare decideva quali certificati accettare" in page_one(path)


def test_a8_maintenance_that_nothing_announced(operator: Operator, authority: Authority) -> None:
    record_outage(operator, authority)

    def made_up(one: dict[str, Any]) -> dict[str, Any]:
        return one | {"outage": one["outage"] | {"maintenance": 7200.0}}

    path = operator.bundle(authority, change=made_up)
    found = caveats_of(path, trusting(authority))
    assert found["not_ours_maintenance"] == {"ms": 2 * HOUR, "ledger_ms": 0}


def test_a8_announced_maintenance_is_no_caveat_and_may_not_be_left_out(
    operator: Operator, authority: Authority
) -> None:
    rules = [{"name": "nights", "timezone": "UTC", "cron": "0 0 * * *", "duration_ms": 23 * HOUR + 59 * MINUTE}]
    sealed = {"rules": rules, "digest": digest(canonical(rules))}
    operator.observe("+")
    operator.stamp(authority)
    operator.entry("node", {"event": "reload", "maintenance": sealed})
    operator.observe("++--")
    operator.wait(HOUR)
    operator.observe("--++")
    path = operator.bundle(authority)
    excused = stated(path)["outage"]["maintenance"]
    assert excused > 0.9 * HOUR / 1000
    assert "not_ours_maintenance" not in caveats_of(path, trusting(authority))

    def silent(one: dict[str, Any]) -> dict[str, Any]:
        return one | {"outage": {key: value for key, value in one["outage"].items() if key != "maintenance"}}

    found = caveats_of(operator.bundle(authority, change=silent), trusting(authority))
    assert found["not_ours_maintenance"] == {"ms": 0, "ledger_ms": pytest.approx(excused * 1000, abs=10)}


NIGHTS = [{"name": "nights", "timezone": "UTC", "cron": "0 0 * * *", "duration_ms": 23 * HOUR + 59 * MINUTE}]


def outage_after_an_announcement(operator: Operator, authority: Authority) -> None:
    """Maintenance is announced, and long afterwards, in a range that begins later, there is an outage in it."""
    sealed = {"rules": NIGHTS, "digest": digest(canonical(NIGHTS))}
    operator.observe("++")
    operator.entry("node", {"event": "reload", "maintenance": sealed})
    operator.observe("+++++")
    operator.stamp(authority)
    operator.observe("++--")
    operator.wait(HOUR)
    operator.observe("--++")


@pytest.mark.parametrize("language", ["", "it"])
def test_a8_maintenance_announced_before_the_range_is_enclosed_with_its_proof(
    operator: Operator, authority: Authority, language: str
) -> None:
    outage_after_an_announcement(operator, authority)
    path = operator.bundle(authority, report=language)
    with zipfile.ZipFile(path) as bundle:
        proof = json.loads(bundle.read("proof.json"))
    assert proof["announcement"]["header"]["index"] < proof["start"]["size"]
    assert stated(path)["outage"]["maintenance"] > 0.9 * HOUR / 1000
    assert "not_ours_maintenance" not in caveats_of(path, trusting(authority))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda one: replace(one, payload={**one.payload, "maintenance": {}}),
            "not the one that its header seals",
        ),
        (lambda one: replace(one, header={**one.header, "time": 1}), "is not one of this ledger"),
        (lambda one: replace(one, tree=one.tree[::-1]), "is not one of this ledger"),
        (lambda one: replace(one, proof=()), "is not one of this ledger"),
        (lambda one: replace(one, proof=one.proof * 40), "cannot be read"),
        (lambda one: replace(one, header={**one.header, "kind": "gap"}), "cannot be read"),
    ],
)
def test_a8_an_announcement_that_is_not_on_record_is_refused(
    operator: Operator, authority: Authority, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[EarlierEntry], EarlierEntry], why: str,
) -> None:  # fmt: skip
    outage_after_an_announcement(operator, authority)
    made = proofs.earlier_entry
    monkeypatch.setattr("mailwatch.evidence.outage_case.earlier_entry", lambda *of: change(made(*of)))
    found = {one.claim: one for one in verify(operator.bundle(authority), trusting(authority))}
    assert not found["entries"].valid
    assert why in found["entries"].detail


def test_a9_a_promise_that_is_not_the_catalogues(operator: Operator, authority: Authority) -> None:
    record_outage(operator, authority)
    ours = sla.rule("pec")
    assert ours is not None

    def claiming(**changed: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
        rule = {**rule_payload(ours), **changed}
        with operator.reader() as reader:
            (record,) = queries.outage_records(reader)
        reading = evaluate(read_rule("pec", rule), record.kind, [sla_outage(record)], None)
        claim = {"note": "", "stated_by_owner": {}, "rule": {"key": "pec", **rule}, "reading": reading.as_json()}
        return lambda one: one | {"claim": claim}

    honest = operator.bundle(authority, change=claiming())
    assert "not_ours_rule" not in caveats_of(honest, trusting(authority))
    name = "Libero promises 99.999 % (and pays)"
    made_up = operator.bundle(authority, change=claiming(name=name, target="99.999", verified=True))
    assert caveats_of(made_up, trusting(authority))["not_ours_rule"] == {"rule": name}


def test_a13_nothing_of_others_attests_the_time(operator: Operator) -> None:
    record_outage(operator, None)
    path = operator.bundle(report="en")
    assert "no_tokens" in caveats_of(path, Trust())
    assert "No third party attests when this record was written" in page_one(path)


def test_a14_an_authority_of_the_operators_own_making(operator: Operator, authority: Authority) -> None:
    record_outage(operator, authority)
    path = operator.bundle(authority)
    found = caveats_of(path, Trust())
    assert found["untrusted_tokens"]["n"] == 2
    assert "untrusted_tokens" not in caveats_of(path, trusting(authority))


def test_a15_good_observations_that_were_never_written(operator: Operator, authority: Authority) -> None:
    """Days without an entry, not even of a gap: by the interval on record they are unobserved."""
    operator.watch("127.0.0.1", TargetEvent.BEGIN)
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+---")
    operator.wait(6 * DAY)
    operator.observe("---++")
    path = operator.bundle(authority)
    caveats_of(path, trusting(authority))
    outage = stated(path)["outage"]
    assert outage["largest_gap"] == pytest.approx(6 * DAY / 1000, abs=300)
    assert outage["unobserved"] == pytest.approx(6 * DAY / 1000, abs=300)


def test_a16_a_target_that_is_not_part_of_the_bundle(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    shown = operator.target
    operator.target = "another that worked"
    operator.entry("gap", {"target": operator.target, "start": 0, "end": 1, "reason": "missed"}, operator.target)
    operator.target = shown
    operator.observe("++----++")
    operator.stamp(authority)
    found = caveats_of(operator.bundle(authority), trusting(authority))
    assert found["other_targets"] == {"entries": 1, "targets": 1}


@pytest.mark.parametrize(
    ("guard", "code", "figures"),
    [
        (None, "guard_off", {"all": 4}),
        (answered("127.0.0.1:45133"), "local_controls", {"n": 4, "all": 4, "controls": "127.0.0.1:45133"}),
        (answered("[::1]:443", "192.168.1.1:53", "router:80", "nas.local:443"), "local_controls",
         {"n": 4, "all": 4, "controls": "192.168.1.1:53, [::1]:443, nas.local:443, router:80"}),
        (answered("dns:one.one.one.one"), "no_controls", {"all": 4}),
        (answered(online=False), "no_controls", {"all": 4}),
        (answered("127.0.0.1:1", "9.9.9.9:443"), None, {}),
        (answered("target:gmail"), None, {}),
        (answered("[2620:fe::fe]:443"), None, {}),
    ],
)  # fmt: skip
def test_a18_controls_that_are_no_other_operators(
    operator: Operator,
    authority: Authority,
    guard: ConnectivityResult | None,
    code: str | None,
    figures: dict[str, str | int],
) -> None:
    operator.guard = guard
    record_outage(operator, authority)
    path = operator.bundle(authority, report="en")
    found = caveats_of(path, trusting(authority))
    lines = {key: found[key] for key in ("guard_off", "no_controls", "local_controls") if key in found}
    assert lines == ({} if code is None else {code: figures})
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", path.parent)
    text = " ".join(text_of(path.parent / "report.pdf").split())
    # Only others count as others, on any page.
    assert ("servers of other operators answered" in text) is (code is None)
    assert ("servers of other operators are asked at once" in text) is (code is None)
    assert ("only servers in the observer's own network were asked" in text) is (code == "local_controls")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("proof.json", lambda raw: _twice_checkpointed(raw), "not in order"),
        ("proof.json", lambda raw: _unsigned(raw), "signature"),
        ("outage.json", lambda raw: raw.replace(b'"clock_error"', b'"x": NaN, "clock_error"'), "NaN"),
        ("outage.json", lambda raw: raw.replace(b'"ledger": "', b'"ledger": "x", "ledger": "'), "twice"),
    ],
    ids=["checkpoint twice", "checkpoint unsigned", "NaN", "name twice"],
)
def test_a20_what_parsers_read_differently_is_refused(
    operator: Operator,
    authority: Authority,
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    operator.clock_error = -HOUR
    record_outage(operator, authority)
    path = operator.bundle(authority)
    files = files_of(path)
    changed = change(files[name])
    assert changed != files[name]
    pack(path, files | {name: changed})
    refused = [one for one in checked(path, trusting(authority)).claims if not one.valid]
    assert any(words in one.detail for one in refused), refused


def _twice_checkpointed(raw: bytes) -> bytes:
    proof = json.loads(raw)
    proof["checkpoints"].insert(1, proof["checkpoints"][0])
    return json.dumps(proof).encode()


def _unsigned(raw: bytes) -> bytes:
    proof = json.loads(raw)
    proof["checkpoints"][0] = proof["checkpoints"][0].split("\n\n")[0] + "\n"
    return json.dumps(proof).encode()


def test_c_a_wrong_clock_has_one_verdict_for_an_outage_and_a_period(
    operator: Operator, authority: Authority
) -> None:
    operator.clock_error = -1400 * DAY
    record_outage(operator, authority)
    outage = caveats_of(operator.bundle(authority), trusting(authority))
    path, at = operator.folder / "period.zip", operator.clock()
    with operator.reader() as reader, path.open("wb") as out:
        wanted = [ReportTarget(operator.target, "lab", "imap")]
        keys, tokens = operator.store.keys, Tokens(operator.folder)
        case = find_period_evidence(reader, tokens, keys, (at - MINUTE, at), wanted, "here")
        files = [File(f"tokens/{authority.folder.name}.pem", authority.chain.read_bytes())]
        write_period_bundle(out, reader, keys, case, "en", files)
    period = caveats_of(path, trusting(authority))
    assert period["clock_off"]["ms"] == pytest.approx(outage["clock_off"]["ms"], abs=3000)
    assert period["guard_off"] == outage["guard_off"]


@pytest.mark.parametrize("language", ["en", "it"])
def test_a_pause_within_an_outage_is_named_where_it_stands(
    operator: Operator, authority: Authority, language: str
) -> None:
    """Not as a time in which MailWatch was off: it was the owner's choice."""
    operator.watch("127.0.0.1", TargetEvent.BEGIN)
    record_outage(operator, authority, "++----")
    operator.watch("127.0.0.1", reason=PAUSED)
    begun, steady = operator.clock(), operator.steady()
    operator.wait(2 * HOUR)
    clock = {"boot": monotonic.origin().boot, "start": steady, "end": operator.steady()}
    gap = Gap(
        target=operator.target, start=begun, end=operator.clock(), reason=GapReason.MISSED,
        clock=clock_from({"clock": clock}),
    )  # fmt: skip
    operator.fact("gap", gap)
    operator.watch("127.0.0.1", reason=RESUMED)
    operator.observe("--++")
    path = operator.bundle(authority, report=language)
    caveats_of(path, trusting(authority))
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", path.parent)
    text = " ".join(text_of(path.parent / "report.pdf").split())
    # In the table of transitions and in the list of times without observations.
    reasons = texts(language).section("reasons")
    assert text.count(reasons["paused"][:9]) == 2
    assert reasons["missed"] not in text


def test_each_caveat_has_words_of_its_own_in_both_languages() -> None:
    figures: dict[str, str | int] = dict.fromkeys(
        ("provider", "host", "address", "names", "controls", "rule"), "x"
    )
    figures |= dict.fromkeys(("n", "all", "open", "close", "entries", "targets", "ms", "ledger_ms"), 7)
    for language in ("en", "it"):
        words = load_texts("mailwatch.evidence", f"{language}.yaml")
        assert set(words.keys()) == {*CODES, "clock_off_between"}
        writing = Formatter(language, ZoneInfo("UTC"), tenths=False)
        texts = {caveat_text(Caveat(code, figures), writing) for code in CODES}
        assert len(texts) == len(CODES)
        assert not any("{" in text for text in texts)

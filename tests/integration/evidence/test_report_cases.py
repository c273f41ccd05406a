"""Kinds of outage through the real verbs in both languages: what a bundle proves, what its report says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

import orjson
import pytest
import typst

from mailwatch import __version__
from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.outage import ClockFacts
from mailwatch.evidence.ledger_range import EMPTY_LEDGER, LedgerRange, TokenFile
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.chain_of_custody import outside_times_text, token_rows
from mailwatch.evidence.report.charts import MAX_MARKED_OBSERVATIONS, timeline
from mailwatch.evidence.report.facts import ObservationRun, ReportFacts, TokenFacts, collect_facts
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.report.method import method_paragraphs, outage_limits
from mailwatch.evidence.report.observer_health import (
    clock_doubt,
    clock_doubt_lines,
    observer_health_rows,
    widened_duration,
)
from mailwatch.evidence.report.typesetting import MAX_UNBROKEN_CHARS, printable
from mailwatch.evidence.stated import OutageStatement
from mailwatch.i18n import Formatter
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Kind, Rules
from mailwatch.store import Entry
from tests.helpers.bundle_files import files_of
from tests.helpers.bundle_mutations import FOLDER
from tests.helpers.ledger_factory import HOUR, observation_of
from tests.helpers.pdf import text_of
from tests.helpers.records import made_record
from tests.helpers.report_cases import BEGIN, CASES, WORDS, Installation, make_installation
from tests.pictures import DOCS, joint, reports

K = TypeVar("K")
V = TypeVar("V")


class Lazily(dict[K, V]):
    """What is made when it is asked for first, so that no test waits for what others need."""

    def __init__(self, made: Callable[[K], V]) -> None:
        self._made = made

    def __missing__(self, key: K) -> V:
        self[key] = self._made(key)
        return self[key]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Installation]:
    folder = tmp_path_factory.mktemp("cases")
    return Lazily(lambda name: make_installation(name, folder / name))


@pytest.fixture(scope="module")
def bundles(cases: dict[str, Installation]) -> dict[tuple[str, str], Path]:
    """Each case in each language, as a bundle and unpacked beside it."""

    def made(key: tuple[str, str]) -> Path:
        case, language = cases[key[0]], key[1]
        path = case.folder / f"{language}.zip"
        result = case.command("report", case.outage, "-o", str(path), "--lang", language)
        assert result.returncode == 0, result.stderr
        shutil.unpack_archive(path, case.folder / language)
        return path

    return Lazily(made)


EVERY = [(name, language) for name in CASES for language in ("it", "en")]
VERIFIED = [
    # Days of observations take a while; their language changes the pages, not what is verified.
    pytest.param(case, marks=pytest.mark.nightly) if case[1] == "en" and case[0] != "four-minutes" else case
    for case in EVERY
]


@pytest.mark.parametrize("case", VERIFIED, ids=lambda case: "-".join(case))
def test_each_bundle_is_valid_and_the_standalone_script_agrees(
    case: tuple[str, str], bundles: dict[tuple[str, str], Path], cases: dict[str, Installation]
) -> None:
    path = bundles[case]
    result = cases[case[0]].command("verify", str(path), "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["valid"]) == (0, True), result.stdout
    assert [claim["detail"] for claim in found["claims"] if not claim["valid"] or claim.get("note")] == []
    assert found["claims"][-1]["detail"] == "report.pdf, made again from the bundle, is the same to the byte"
    plain = subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", str(path)],
        cwd=path.with_suffix(""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stdout + plain.stderr


SAYS = {
    ("five-days", "it"): (
        "Il servizio di posta mario.rossi@libero.it (IMAP) non ha funzionato per almeno 4 giorni 23 h 58 min",
        "IMAP (lettura della posta con un programma o un'app)",
        "in 7200 delle 7200 osservazioni fallite rispondevano, nello stesso momento, server di altri operatori",
        "in cui il server stesso ha risposto alla connessione: 3600 su 7200",
        "121 (ntp1.inrim.it, ntp2.inrim.it); l'errore",
        "apertura della casella in sola lettura",
        "dopo 5 s, 10 s, 20 s, durante un disservizio ogni 20 s",
        "alla 3ª osservazione fallita di seguito",
        "Che cosa questo rapporto non dimostra",
        "Un ripristino più breve di 1 min 00 s può essere sfuggito",
        f"8e8858d05f81, mailwatch-evidence/1, MailWatch {__version__}",
        "MailWatch 0.1.0, Python 3.11.2, Linux-6.1-x86_64 Configurazione",
        "Fornitore (denominazione legale, partita IVA, sede, PEC per i reclami)",
        "iniziato fra il 22/01/2026 21:54:00 (20:54:00 UTC) e il 22/01/2026 21:55:01 (20:55:01 UTC)",
        "terminato fra il 27/01/2026 21:54:00 (20:54:00 UTC) e il 27/01/2026 21:55:01 (20:55:01 UTC)",
        "Almeno 4 giorni 23 h 58 min 59 s",
        "Al massimo 5 giorni 0 h 01 min 01 s",
        "Stima (al 95 % circa) 5 giorni 0 h 00 min 00 s ± 50 s",
        "fallite 7200, riuscite 0, senza esito 0",
        "l'errore era al massimo di 24,3 ms",
        "La stessa identica password usata durante il disservizio è stata accettata prima e dopo",
        "7200 su 7200 (fastmail, gmail, outlook)",
        "il server si dichiara non disponibile 3600",
        "TLS dall'inizio",
        "24/01/2026; PEC; ticket 678; none so far",
        "Documento codice 8e8858d05f81, sulla registrazione al 27/01/2026 22:05:00",
        "Titolare del contratto Mario Rossi, codice fiscale RSSMRA80A01F205X",
        "Promessa del fornitore nessuna qui nota",
        "Nel tratto di registro non c'è alcun altro servizio.",
        "non abbia tenuto altri registri della stessa casella",
        "Non registrati operatore e tipo della linea, indirizzo IP pubblico,",
        "di non aver tenuto altri registri di questa casella",
        *WORDS,
    ),
    ("five-days", "en"): (
        "The mail service mario.rossi@libero.it (IMAP) did not work for at least 4 days 23 h 58 min",
        "At most 5 days 0 h 01 min 01 s",
        "between 22 Jan 2026 21:54:00 (20:54:00 UTC) and 22 Jan 2026 21:55:01 (20:55:01 UTC)",
        "Estimate (about 95 %) 5 days 0 h 00 min 00 s ± 50 s",
        "the error was at most 24.3 ms",
        "TLS from the start",
    ),
    ("four-minutes", "it"): ("almeno 3 min 39 s", "Al massimo 4 min 21 s", "4 min 00 s ± 17 s", "20 s"),
    ("four-minutes", "en"): ("at least 3 min 39 s", "At most 4 min 21 s", "4 min 00 s ± 17 s", "20 s"),
    ("open", "it"): (
        "All'ultima osservazione il servizio di posta mario.rossi@libero.it (IMAP) non funzionava ancora; fino ad "
        "allora non aveva funzionato per almeno 1 giorno 6 h",
        "Era ancora in corso all'ultima osservazione fallita, del 24/01/2026 04:54:00 (03:54:00 UTC)",
        "redatto sulla registrazione al 24/01/2026 04:55:00 (03:55:00 UTC)",
        "Al massimo non noto: non era terminato",
        "Stima (al 95 % circa) non nota",
    ),
    ("open", "en"): (
        "At the last observation the mail service mario.rossi@libero.it (IMAP) was still not working; until then "
        "it had not worked for at least 1 day 6 h",
        "It was still open at the last observation that failed, at 24 Jan 2026 04:54:00 (03:54:00 UTC)",
        "from the record as of 24 Jan 2026 04:55:00 (03:55:00 UTC)",
        "At most not known: it had not ended",
        "Estimate (about 95 %) not known",
    ),
    ("badly-seen", "it"): (
        "almeno 1 giorno 1 h 58 min",
        "Al massimo 1 giorno 2 h 01 min 01 s",
        "24/01/2026 00:05:00 (23/01 23:05:00 UTC)",
        "ogni orario qui può essere sbagliato di 35 s al massimo. Le durate non dipendono da esso.",
        "Le durate sono misurate da un orologio della macchina che nessuno può regolare",
        "senza un'osservazione conclusiva (riuscita o fallita) è stato di 3 h 13 min",
        "Per 4 h 27 min di questo periodo mancano osservazioni conclusive: un ripristino",
        "nessuna osservazione: MailWatch",
        "senza esito: propria linea interrotta 42",
        "Interruzioni della propria linea nel tratto di registro: 1;",
        "orologio in dubbio (non sincronizzato, o errato di oltre un secondo): 27",
        "Volte che l'orologio è stato regolato o che la macchina era sospesa: 1;",
        "Periodi senza osservazioni: 2.",
        "Indirizzo IP pubblico 203.0.113.7, registrato 2 volte, la prima 23/01/2026 00:55:00 (22/01 23:55:00 "
        "UTC), l'ultima 23/01/2026 01:55:00 (00:55:00 UTC). 203.0.113.90, registrato una volta, 23/01/2026",
        "Non registrati operatore e tipo della linea, uso di una VPN,",
    ),
    ("badly-seen", "en"): (
        "at least 1 day 1 h 58 min",
        "At most 1 day 2 h 01 min 01 s",
        "24 Jan 2026 00:05:00 (23 Jan 23:05:00 UTC)",
        # Twice the root of (60.2**2 + 60.2**2) / 12, in seconds: the clock in doubt did not measure it.
        "Estimate (about 95 %) 1 day 2 h 00 min 00 s ± 50 s",
        "each time of day here may be off by up to 35 s. The durations do not depend on it.",
        "A clock of the machine that nobody can set measured the durations",
        "The longest time without a conclusive observation (succeeded or failed) was 3 h 13 min",
        "not observed: MailWatch was off",
        "inconclusive: observer offline 42",
        "For 4 h 27 min of this time conclusive observations are missing",
        "The shortest duration includes the times without conclusive observations",
        "MailWatch was off: from 23 Jan 2026 05:55:00 (04:55:00 UTC) to 23 Jan 2026 09:07:00 (08:07:00 UTC)",
        "203.0.113.90, on record once, 23 Jan 2026 03:35:01 (02:35:01 UTC). As seen by a STUN server (not "
        "authenticated): stun.example.org:3478.",
    ),
}


SAYS |= {
    ("proven", "it"): (
        "6 h 39 min",
        "rifiutati: 21 (registrati allora come senza esito); altre osservazioni, senza accesso o senza esito: 399",
        "l'accesso con la password è stato tentato 21 volte, e ogni volta rifiutato",
        "era stata accettata prima ed è stata accettata dopo",
        "A rifiutare la password è stato ogni volta il server stesso, quindi la linea funzionava",
        "La stessa identica password usata durante il disservizio è stata accettata prima e dopo",
        "Questo disservizio è stato riconosciuto dopo",
        "dalla fine del primo accesso rifiutato all'inizio dell'ultimo",
    ),
    ("proven", "en"): (
        "the login with the password was tried 21 times and rejected each time",
        "It was the server itself that rejected the password each time",
        "was accepted before and after it",
        "This outage was recognised afterwards",
    ),
}


@pytest.mark.parametrize("language", ["it", "en"])
def test_the_report_of_a_login_outage_states_only_its_own_rules(
    language: str, bundles: dict[tuple[str, str], Path]
) -> None:
    text = text_of(bundles["proven", language].with_suffix("") / "report.pdf")
    w = texts(language)
    method = w.section("method_text")
    for foreign in (w["line_none"], method["unguarded"], method["guarded"], "3ª", "number 3"):
        assert foreign[:60] not in text


@pytest.mark.parametrize("case", EVERY, ids="-".join)
def test_the_report_states_what_was_observed(case: tuple[str, str], bundles: dict[tuple[str, str], Path]) -> None:
    text = text_of(bundles[case].with_suffix("") / "report.pdf")
    for words_of_it in SAYS[case]:
        assert words_of_it in text, (words_of_it, text)
    other = texts("en" if case[1] == "it" else "it")
    foreign = [
        reported for key, reported in other.single().items()
        if len(reported) > 4 and "{" not in reported and reported != texts(case[1])[key]
        and f" {reported} " in text
    ]  # fmt: skip
    assert foreign == []


@pytest.mark.parametrize("case", EVERY, ids="-".join)
def test_no_page_is_nearly_empty(case: tuple[str, str], bundles: dict[tuple[str, str], Path]) -> None:
    pdf = bundles[case].with_suffix("") / "report.pdf"
    made = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True)
    pages = made.stdout.removesuffix("\f").split("\f")
    assert min(len(page.split()) for page in pages) > 60, [len(page.split()) for page in pages]
    assert len(pages) <= 4
    numbers = re.findall(r"(?:pagina|page) (\d+) (?:di|of) (\d+)", made.stdout)
    assert numbers == [(str(number), str(len(pages))) for number in range(1, len(pages) + 1)]


@pytest.mark.parametrize("language", ["it", "en"])
def test_nothing_is_stated_of_the_end_of_an_open_outage(
    language: str, bundles: dict[tuple[str, str], Path]
) -> None:
    folder = bundles["open", language].with_suffix("")
    reported = json.loads((folder / "outage.json").read_text())
    assert reported["as_of"] == "2026-01-24T03:55:00.000Z"
    assert (reported["outage"]["state"], reported["outage"]["first_good"]) == ("open", None)
    assert reported["outage"]["duration"]["max"] is None
    text = text_of(folder / "report.pdf")
    assert texts(language)["between"].partition("{b}")[2][:18] not in text
    assert "±" not in text


def test_a_clock_of_unknown_error_widens_nothing_but_the_report_says_so() -> None:
    lasted = made_record(0, 60_000, durations=Durations(60_000, 120_000))
    begun = made_record(0, 1000)
    known, unknown = (
        ReportFacts(surveys=2, degraded=1, bound_us=1_500_001),
        ReportFacts(surveys=1, degraded=1, unbounded=1),
    )
    good = ReportFacts(surveys=1, bound_us=900_000)
    assert clock_doubt(known) == 1501
    assert widened_duration(known, lasted) == (56_998, 123_002)
    assert widened_duration(known, begun) == (0, None)
    # A clock that nobody can set measured it: how far the other one is off changes no duration.
    steady = replace(lasted, clock=ClockFacts(0, 0))
    assert widened_duration(known, steady) == (60_000, 120_000)
    assert widened_duration(known, replace(lasted, clock=ClockFacts(0, 0, is_wall=True))) == (56_998, 123_002)
    for seen in (unknown, good):
        assert widened_duration(seen, lasted) == (60_000, 120_000)
    writing = Formatter("en", ZoneInfo("UTC"), True)
    assert clock_doubt_lines(good, lasted, writing) == []
    assert "how far it was off is not known" in clock_doubt_lines(unknown, lasted, writing)[0]
    assert "at least 1 min 00 s" in clock_doubt_lines(known, made_record(0, 60_000), writing)[0]
    assert "The durations do not depend on it" in clock_doubt_lines(known, steady, writing)[0]


def test_a_time_never_claims_more_than_was_measured() -> None:
    writing = Formatter("en", ZoneInfo("UTC"), False)
    assert (writing.format_duration(59_999), writing.format_duration(59_999, up=True)) == ("59 s", "1 min 00 s")
    tenths = replace(writing, tenths=True)
    assert (tenths.format_duration(59_999), tenths.format_duration(59_999, up=True)) == ("59.9 s", "1 min 00 s")
    assert (writing.format_duration(940), writing.format_duration(940, up=True)) == ("0.9 s", "1 s")
    assert (writing.format_duration(3_599_001), writing.format_duration(3_599_001, up=True)) == (
        "59 min 59 s",
        "1 h 00 min",
    )
    assert (writing.format_duration(HOUR + 1), writing.format_duration(HOUR + 1, up=True)) == (
        "1 h 00 min",
        "1 h 01 min",
    )
    assert writing.format_duration(25 * HOUR + 61_400, exact=True) == "1 day 1 h 01 min 01 s"


HOSTILE = "".join(chr(code) for code in range(0x3000)) + "日本😀\u202e\ufeff"


@pytest.mark.parametrize("font", ["Libertinus Serif", "DejaVu Sans Mono"])
def test_no_character_in_a_reply_prevents_a_report(font: str) -> None:
    """PDF/A wants a font that has each."""
    text = (
        f'#set document(date: datetime(year: 2026, month: 1, day: 1))\n#set text(font: "{font}")\n#sys.inputs.said'
    )
    made = typst.compile(
        text.encode(), format="pdf", pdf_standards=["a-3b"], ignore_system_fonts=True,
        sys_inputs={"said": printable(HOSTILE)},
    )  # fmt: skip
    assert made.startswith(b"%PDF")


def test_unprintable_characters_are_named_and_long_words_break() -> None:
    assert printable({"a": ["ok è €", ("日\u202e\x07", 1)]}) == {"a": ["ok è €", ["[U+65E5][U+202E][U+0007]", 1]]}
    assert printable("e\u0300") == "è"
    assert printable("x" * (MAX_UNBROKEN_CHARS + 1)) == "x" * MAX_UNBROKEN_CHARS + "\u200bx"
    assert printable("https://" + "x" * 99) == "https://" + "x" * 99


def test_the_method_is_that_of_the_kind_and_says_what_was_not_checked() -> None:
    rules = Rules(3, 2, (5.0, 10.0, 90.0))
    writing = Formatter("en", ZoneInfo("UTC"), False)
    reported = made_record(0, 60_000, kind=Kind.SMTP)
    bare = " ".join(method_paragraphs(reported, rules, ReportFacts(down=3), writing))
    assert "without logging in" in bare
    assert "was not checked during these observations: a broken line on the observer's side would" in bare
    assert "after 5 s, 10 s, 90 s, during an outage every 90 s" in bare
    full = " ".join(method_paragraphs(reported, rules, ReportFacts(down=3, guarded=3, with_login=True), writing))
    assert "then it cancels, and no message is sent" in full
    assert "counts as failed only if the failure cannot have come from the observer's own line" in full
    assert "The shortest duration includes" not in full
    assert "The shortest duration includes" in " ".join(
        method_paragraphs(replace(reported, unobserved=1), rules, ReportFacts(), writing)
    )
    trip = " ".join(
        method_paragraphs(replace(reported, kind=Kind.ROUNDTRIP), rules, ReportFacts(with_login=True), writing)
    )
    assert "sends a test message of its own" in trip
    assert "after 5 s" not in trip
    changed = " ".join(method_paragraphs(reported, rules, ReportFacts(), writing, Rules(5, 4)))
    assert "at failed observation number 5 in a row, and closed at successful observation number 4" in changed
    for language in ("it", "en"):
        for kind in Kind:
            assert texts(language).section("channels")[kind.value]
            assert texts(language).section("steps")[kind.value]
    mail = "Whether messages were lost or arrived late."
    assert mail in outage_limits(reported, ReportFacts(), writing)
    assert mail not in outage_limits(replace(reported, kind=Kind.ROUNDTRIP), ReportFacts(), writing)


@pytest.mark.parametrize(
    ("marks", "longest", "is_open"),
    [("+-?-+", 0, False), ("+-+-++?+--+", 3, False), ("--++--+-++", 2, False), ("+-+--+++", 3, True)],
)
def test_the_longest_row_of_good_observations_within_an_outage_is_counted(
    marks: str, longest: int, is_open: bool
) -> None:
    """The last observation of an outage that ended is the good one that ended it."""
    entries = []
    for index, mark in enumerate(marks):
        observation = observation_of("t", mark, index * 60_000)
        text = orjson.dumps(fact_payload(observation)).decode()
        entries.append(Entry(index, "observation", observation.ended_at, "t", index, "{}", text))
    first, last = marks.index("-") - 1, len(marks) - 1
    good = None if is_open else 1
    found = collect_facts(entries, made_record(0, 0, good, target="t", first_index=first, last_index=last))
    assert found.longest_ups == longest


def test_entries_of_other_services_are_counted() -> None:
    writing = Formatter("en", ZoneInfo("UTC"), False)
    limits = " ".join(outage_limits(made_record(0, 1), ReportFacts(not_shown={"a": 86, "b": 3}), writing))
    assert (
        "also holds entries of other services, which are not disclosed here (entries: 89; services: 2)." in limits
    )
    assert "no other service" not in limits


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([0], "By the timestamp tokens this clock was exact."),
        ([-40, 1200], "this clock was between behind by 40 ms and ahead by 1200 ms."),
        ([-120_960_000_045, -120_960_000_040], "this clock was behind by 1400 days 0 h 00 min."),
    ],
)
def test_the_offset_of_the_clock_is_in_words(offsets: list[int], expected: str) -> None:
    writing = Formatter("en", ZoneInfo("UTC"), False)
    assert expected in dict(observer_health_rows(ReportFacts(offsets=offsets), writing))["Clock"]


def test_unanswered_controls_are_stated() -> None:
    writing = Formatter("en", ZoneInfo("UTC"), False)
    line = dict(observer_health_rows(ReportFacts(down=9, guarded=7, answered=2, controls={"a"}), writing))["Line"]
    assert "7 of 9 (a)" in line
    assert "Other failed observations, 2: the record shows no answer of another operator" in line
    assert "the server itself answered the connection: 2 of 9" in line


@pytest.mark.parametrize(("reported", "reply"), [({}, False), ({"distrust": "unknown issuer"}, True)])
def test_a_token_of_an_untrusted_authority_is_no_independent_time(reported: dict[str, str], reply: bool) -> None:
    token = next(content for name, content in files_of(FOLDER / "case.zip").items() if name.endswith(".tsr"))
    found = LedgerRange(EMPTY_LEDGER, EMPTY_LEDGER, (), (TokenFile(5, 4, BEGIN, "aruba.example", "", token),))
    case = OutageEvidence(
        made_record(0, 0),
        found,
        cast(OutageStatement, {"outside_times": {"not_before": "2026-01-22T20:00:00.100Z", "not_after": None}}),
        "",
    )
    seen = ReportFacts(tokens={5: TokenFacts("CN=me", serial="17", accuracy_ms=500, **reported)})
    writing = Formatter("en", ZoneInfo("UTC"), False)
    text = outside_times_text(case, seen, writing)
    # A14: the name in the config may be any; the certificate has the signer's.
    assert "external timestamp authority (Test signer, certificate issued by Test between)" in text
    assert "aruba" not in text
    assert ("does not lead to a certificate that the configuration trusts" in text) is reply
    (row,) = token_rows(case, seen, writing)
    assert row[0].startswith("Test signer, certificate issued by Test between")
    assert "aruba" not in row[0]
    assert ("not traced to a trusted certificate" in row[0]) is reply
    assert (row[1].endswith("± 500 ms"), row[2:]) == (True, ["17", "0 – 3"])


def test_a_bound_is_rounded_outward_and_keeps_its_day() -> None:
    italian, english = (Formatter(language, ZoneInfo("Europe/Rome"), False) for language in ("it", "en"))
    at = round(datetime(2026, 7, 5, 22, 30, 0, 200_000, UTC).timestamp() * 1000)

    def formatted(writing: Formatter, at: int, *, up: bool = False) -> str:
        return " ".join(writing.local_and_utc(at, up=up).split())

    assert formatted(italian, at) == "06/07/2026 00:30:00 (05/07 22:30:00 UTC)"
    assert formatted(italian, at, up=True) == "06/07/2026 00:30:01 (05/07 22:30:01 UTC)"
    assert formatted(english, at + 800, up=True) == "6 Jul 2026 00:30:01 (5 Jul 22:30:01 UTC)"
    assert (
        formatted(replace(italian, tenths=True), at + 1, up=True) == "06/07/2026 00:30:00,3 (05/07 22:30:00,3 UTC)"
    )
    # Where the local time is UTC, it stands there once.
    assert formatted(replace(english, zone=ZoneInfo("UTC")), at) == "5 Jul 2026 22:30:00 UTC"
    assert (english.is_utc(2026), replace(english, zone=ZoneInfo("Etc/UTC")).is_utc(2026)) == (False, True)
    assert not replace(english, zone=ZoneInfo("Europe/London")).is_utc(2026)
    # In October an hour comes twice; only UTC says which.
    twice = [round(datetime(2026, 10, 25, hour, 30, tzinfo=UTC).timestamp() * 1000) for hour in (0, 1)]
    assert [formatted(italian, one) for one in twice] == [
        "25/10/2026 02:30:00 (00:30:00 UTC)", "25/10/2026 02:30:00 (01:30:00 UTC)"
    ]  # fmt: skip
    assert (english.format_share(0.8314399), english.format_share(0.8314399, up=True)) == ("83.143 %", "83.144 %")
    assert (english.format_share(0.29), english.format_share(0.29, up=True)) == ("29.000 %", "29.000 %")


def test_the_chart_shows_unobserved_time_and_nothing_more() -> None:
    outage = made_record(BEGIN + HOUR, BEGIN + 9 * HOUR, BEGIN + 10 * HOUR, last_good=BEGIN)
    runs = [
        ObservationRun("down", BEGIN + HOUR, BEGIN + 4 * HOUR, MAX_MARKED_OBSERVATIONS - 1, "timeout"),
        ObservationRun("gap", BEGIN + 4 * HOUR, BEGIN + 6 * HOUR, 1, "not_running"),
        ObservationRun("down", BEGIN + 6 * HOUR, BEGIN + 9 * HOUR, 1, "timeout"),
    ]
    writing = Formatter("en", ZoneInfo("UTC"), False)
    drawn = timeline(outage, runs, writing)
    assert [band.kind for band in drawn.spans] == ["down", "edge", "up", "edge", "up", "gap"]
    assert len(drawn.strokes) == MAX_MARKED_OBSERVATIONS
    runs[0].count += 1
    assert timeline(outage, runs, writing).strokes == []
    still = timeline(replace(outage, first_good=None), runs, writing)
    assert still.spans[0].b == 1.0
    assert [mark.text for mark in still.marks if mark.at == 1.0] == [writing.local_and_utc(BEGIN + 9 * HOUR)]


def test_sent_claims_are_logged_listed_and_shown(tmp_path: Path) -> None:
    made = make_installation("four-minutes", tmp_path / "sent")
    path = made.folder / "data" / "claims" / "sent.jsonl"
    nothing = made.command("claim", "log", made.outage)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing is logged as sent" in nothing.stderr
    later = ("--sent", "2026-02-09", "--by", "telefono", "--answer", "promesso un rimborso")
    assert made.command("claim", "log", made.outage[:6], *later).returncode == 0
    first = ("--sent", "2026-02-03", "--by", "PEC", "--to", "reclami@pec.example.org", "--ticket", "n. 678/è")
    result = made.command("claim", "log", made.outage, *first)
    assert result.stdout.splitlines() == [
        "2026-02-03\tPEC\treclami@pec.example.org\tn. 678/è\t-",
        "2026-02-09\ttelefono\t-\t-\tpromesso un rimborso",
    ]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert made.command("report", made.outage, "-o", str(tmp_path / "r.zip"), "--lang", "it").returncode == 0
    assert made.command("verify", str(tmp_path / "r.zip")).returncode == 0
    shutil.unpack_archive(tmp_path / "r.zip", tmp_path / "r")
    assert made.command("claim", made.outage, "-o", str(tmp_path / "letter"), "--lang", "it").returncode == 0
    for text in (text_of(tmp_path / "r" / "report.pdf"), text_of(tmp_path / "letter.pdf")):
        # In the order of their dates: the first is the config's.
        places = [text.find(one) for one in ("24/01/2026", "03/02/2026", "09/02/2026")]
        assert -1 < places[0] < places[1] < places[2], text
        for words_of_it in ("PEC (reclami@pec.example.org)", "n. 678/è", "promesso un rimborso"):
            assert words_of_it in text
    assert made.command("backup", str(tmp_path / "b.tar.gz")).returncode == 0
    listed = subprocess.run(
        ["tar", "tzf", tmp_path / "b.tar.gz"], capture_output=True, text=True, check=True
    ).stdout
    assert "claims/sent.jsonl" in listed
    # Without a claim in the config, what was sent is reported all the same.
    config = json.loads((made.folder / "config.yaml").read_text())
    del config["claims"]
    (made.folder / "config.yaml").write_text(json.dumps(config))
    assert made.command("report", made.outage, "-o", str(tmp_path / "bare.pdf"), "--lang", "it").returncode == 0
    assert "03/02/2026; PEC (reclami@pec.example.org); n. 678/è" in text_of(tmp_path / "bare.pdf")
    # What a power cut left half written is named, and nothing is added behind it.
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    wanted: list[tuple[str, ...]] = [
        ("claim", "log", made.outage, *first),
        ("report", made.outage, "-o", str(tmp_path / "x.pdf")),
    ]
    for words in wanted:
        refused = made.command(*words)
        assert refused.returncode == 1
        assert f"{path}:2: is not a message that was sent; correct the line, or remove it" in refused.stderr
    assert path.read_bytes() == whole[:-20]
    path.write_bytes(whole[:-1])
    assert len(made.command("claim", "log", made.outage, *first).stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("reported", "status", "complaint"),
    [
        (("log", "{id}", "--sent", "3 February", "--by", "PEC"), 2, "--sent: is not a date; write for example"),
        (("log", "{id}", "--sent", "2126-02-03", "--by", "PEC"), 2, "--sent: 2126-02-03 is in the future"),
        (("log", "{id}", "--sent", "2026-02-03", "--by", ""), 2, "--by: "),
        (("log", "{id}", "--sent", "2026-02-03"), 2, "takes --sent and --by, or neither"),
        (("log", "{id}", "-o", "x"), 2, "takes --sent and --by, or neither"),
        (("log", "zzz"), 1, "no outage has the id zzz"),
        (("{id}",), 2, "write `mailwatch claim OUTAGE_ID -o FILE`"),
        (("{id}", "-o", "x", "--sent", "2026-02-03"), 2, "write `mailwatch claim OUTAGE_ID -o FILE`"),
        (("{id}", "{id}", "-o", "x"), 2, "write `mailwatch claim OUTAGE_ID -o FILE`"),
    ],
)
def test_a_log_used_wrongly_writes_nothing(
    reported: tuple[str, ...], status: int, complaint: str, cases: dict[str, Installation]
) -> None:
    made = cases["four-minutes"]
    result = made.command("claim", *(word.format(id=made.outage) for word in reported))
    assert (result.returncode, result.stdout) == (status, "")
    assert complaint in result.stderr
    assert not (made.folder / "data" / "claims").exists()


def test_the_pictures_of_the_documents_can_be_drawn_anew(tmp_path: Path) -> None:
    for path in (*reports(tmp_path / "made", tmp_path), *joint(tmp_path / "joint", tmp_path)):
        for picture in (path, DOCS / path.name):
            assert picture.read_bytes().startswith(b"\x89PNG")
            assert 10_000 < picture.stat().st_size < 300_000
        # The page of the documents is the size of the page that is drawn now.
        assert path.read_bytes()[16:24] == (DOCS / path.name).read_bytes()[16:24]


def test_the_letter_claims_no_more_than_the_report(cases: dict[str, Installation], tmp_path: Path) -> None:
    made = cases["badly-seen"]
    assert made.command("claim", made.outage, "-o", str(tmp_path / "letter"), "--lang", "en").returncode == 0
    text = text_of(tmp_path / "letter.pdf")
    # The subject has the day; how long is said once.
    assert text.count("at least 1 day 1 h 58 min") == 1
    assert "1 day 1 h 59 min" not in text

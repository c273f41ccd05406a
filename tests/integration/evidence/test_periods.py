"""A month as one file: written, checked, drawn, and attacked."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from mailwatch.analysis.public_json import outage_json
from mailwatch.analysis.replay import PeriodReplay
from mailwatch.analysis.segments import SegmentState
from mailwatch.evidence.pages.compare import verify_with_pages
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.report.charts import AvailabilityCalendar
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.stated import PeriodStatement
from mailwatch.evidence.verify import Claim, Trust, verify
from mailwatch.i18n import Formatter
from mailwatch.model import Rules
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.times import parse_rfc3339, rfc3339
from tests.helpers.bundle_files import Files, files_of, lines_of, pack, put_lines
from tests.helpers.bundle_mutations import MUTATIONS, altered, retyped
from tests.helpers.command import mailwatch
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, observation_of, write
from tests.helpers.paths import TESTDATA
from tests.helpers.pdf import text_of
from tests.helpers.process import MailWatchProcess
from tests.helpers.seed import SEED
from tests.servers.authority import Authority

Stated = dict[str, Any]
"""What a bundle states, as it is in period.json."""
START = 1_767_222_000_000
"""2026-01-01T00:00 in Rome."""


def pattern(at: int) -> str:
    """Down over the window's beginning, for an hour in it, and over its end; blind and unknown for a while."""
    hours = (at - START) / HOUR
    if -1 <= hours < 1 or 30 <= hours < 31 or 71.5 <= hours < 73:
        return "-"
    if 40 <= hours < 42:
        return " "
    return "?" if 50 <= hours < 51 else "+"


MINE = ("--target", "mail", "--target", "quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and a ledger of six days around a window of three, of two targets and one of someone else's."""
    folder = tmp_path_factory.mktemp("period")
    patterns = {
        "mail": pattern,
        "quiet": lambda at: "+",
        "other": lambda at: "-" if at % (7 * HOUR) < HOUR else "+",
    }
    write(folder / "data", patterns, START - DAY, START + 5 * DAY, every=30).close()
    process = MailWatchProcess(
        folder,
        [
            {"name": name, "kind": "imap", "provider": "lab", "host": "127.0.0.1", "port": 1, "tls": "none"}
            for name in ("mail", "quiet")
        ],
    )
    assert process.config.exists()
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return mailwatch("--config", folder / "config.yaml", *words)


@pytest.fixture(scope="module")
def period(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "period.zip"
    window = ("--from", rfc3339(START), "--to", rfc3339(START + 3 * DAY))
    made = run(folder, "report", *window, *MINE, "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    return path


def stated_of(path: Path) -> Stated:
    with zipfile.ZipFile(path) as opened:
        return dict(json.loads(opened.read("period.json")))


def refused_by(path: Path) -> list[Claim]:
    """The claims that do not hold, without those that rest on one of them."""
    refused = [claim for claim in verify(path, Trust()) if not claim.valid]
    return [claim for claim in refused if not claim.detail.startswith("not checked, because")]


def test_a_good_period_is_valid_in_every_claim(period: Path) -> None:
    claims = verify_with_pages(period, Trust())
    assert [claim for claim in claims if not claim.valid or claim.note] == []
    assert "period" in {claim.claim for claim in claims}
    assert b'"other"' not in b"".join(files_of(period).values())


def test_the_pages_of_a_period_do_not_depend_on_who_makes_them_again(period: Path, tmp_path: Path) -> None:
    elsewhere = {**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(tmp_path)}
    result = mailwatch("verify", period, "--json", env=elsewhere)
    (*_, pages) = json.loads(result.stdout)["claims"]
    assert (pages["claim"], pages["status"]) == ("pages", "valid"), pages


def test_what_a_young_ledger_records_after_the_range_changes_nothing(tmp_path: Path) -> None:
    """The observations of the range are two minutes apart, and most of the later ones a minute."""
    seen = 22 * MINUTE

    def early_on(at: int) -> str:
        return "+" if at - START >= seen or (at - START) // MINUTE % 2 == 0 else " "

    write(tmp_path / "data", {"mail": early_on}, START, START + HOUR, every=10).close()
    reader = Reader.open(tmp_path / "data")
    keys, tokens = load_keys(tmp_path / "data"), Tokens(tmp_path / "data")
    wanted = [ReportTarget("mail", "lab", "imap")]
    case = find_period_evidence(reader, tokens, keys, (START + MINUTE, START + 8 * MINUTE), wanted, "here")
    assert case.range.end.size < reader.size()
    with (tmp_path / "period.zip").open("wb") as out:
        write_period_bundle(out, reader, keys, case, "en", [])
    reader.close()
    assert [claim for claim in verify(tmp_path / "period.zip", Trust()) if not claim.valid] == []


def test_the_period_report_agrees_with_the_other_commands(folder: Path, period: Path) -> None:
    stated = stated_of(period)
    reader = Reader.open(folder / "data")
    end = START + 3 * DAY
    result: list[Any] = [*queries.availability(reader, ["mail", "quiet"], START, end)]
    # The mean times differ: here an outage over the window's edge is known from its beginning to its end.
    same = ("target", "availability", "coverage", "downtime", "observations", "unobserved")
    assert [{key: one[key] for key in same} for one in stated["availability"]] == [
        {key: one[key] for key in same} for one in result
    ]
    records = queries.outage_records(reader, start=START, end=end)
    reader.close()
    mine = [outage_json(record) for record in reversed(records) if record.target != "other"]
    assert stated["outages"] == mine
    assert len(mine) == 3
    assert mine[0]["first_bad"] < stated["window"]["from"]
    assert mine[-1]["first_good"] > stated["window"]["to"]


def test_the_standalone_script_verifies_a_period(period: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(period) as opened:
        opened.extract("verify.py", tmp_path)
    command = [sys.executable, "-I", "-S", "verify.py", str(period)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("ok      first bad 20") == 3
    assert checked.stdout.count("in the window") == 2


def test_the_same_ledger_gives_the_same_bytes(folder: Path, period: Path, tmp_path: Path) -> None:
    window = ("--from", rfc3339(START), "--to", rfc3339(START + 3 * DAY))
    run(folder, "report", *window, *MINE, "-o", str(tmp_path / "again.zip"), "--lang", "en")
    assert (tmp_path / "again.zip").read_bytes() == period.read_bytes()


def test_a_window_without_records_is_no_case(folder: Path, tmp_path: Path) -> None:
    for window, message in (
        (("--from", "2025-01", "--to", "2025-02"), "nothing of mail, quiet is on record"),
        (("--from", "2027-01", "--to", "2027-02"), "the signed record ends at"),
    ):
        done = run(folder, "report", *window, *MINE, "-o", str(tmp_path / "no.zip"))
        assert done.returncode == 1, done.stdout
        assert message in done.stderr
    window = ("--from", "2026-01-01", "--to", "2026-01-02")
    done = run(folder, "report", *window, "--target", "mial", "-o", str(tmp_path / "no.zip"))
    assert done.returncode == 2
    assert "there is no target 'mial', in the config or on record; is it mail?" in done.stderr
    assert run(folder, "report", "--from", "2026-01", "-o", str(tmp_path / "no.zip")).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_window_beyond_the_record_is_cut(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.zip"
    made = run(folder, "report", "--from", "2026-01-02", "--to", "2027-01", "--target", "quiet", "-o", str(path))
    assert made.returncode == 0, made.stderr
    stated = stated_of(path)
    assert stated["window"]["to"] == rfc3339(START + 5 * DAY - MINUTE + 200)
    assert stated["availability"][0]["coverage"] > 0.999
    assert all(claim.valid for claim in verify(path, Trust()))


def place(files: Files, outcome: str) -> int:
    return next(n for n, line in enumerate(lines_of(files)) if f'"outcome":"{outcome}"'.encode() in line)


def left_out(files: Files) -> None:
    lines = lines_of(files)
    del lines[place(files, "up")]
    put_lines(files, lines)


def edited(files: Files) -> None:
    lines, at = lines_of(files), place(files, "up")
    lines[at] = lines[at].replace(b'"outcome":"up"', b'"outcome":"down"')
    put_lines(files, lines)


def hidden(files: Files) -> None:
    lines, at = lines_of(files), place(files, "up")
    lines[at] = lines[at].partition(b',"payload":{')[0] + b"}\n"
    put_lines(files, lines)


def stated_otherwise(change: Callable[[Stated], None]) -> Callable[[Files], None]:
    def attack(files: Files) -> None:
        stated = json.loads(files["period.json"])
        change(stated)
        files["period.json"] = (json.dumps(stated, indent=2) + "\n").encode()

    return attack


def lower(stated: Stated) -> None:
    stated["availability"][0]["availability"]["lower"] -= 0.01


def fewer_outages(stated: Stated) -> None:
    del stated["outages"][1]


def longer(stated: Stated) -> None:
    stated["outages"][1]["duration"]["min"] += 3600


def wider(stated: Stated) -> None:
    stated["window"]["to"] = rfc3339(START + 5 * DAY)


def earlier(stated: Stated) -> None:
    stated["window"]["from"] = rfc3339(START - 1000 * DAY)


def other_rules(stated: Stated) -> None:
    stated["rules"]["open_after"] = 1


def other_interval(stated: Stated) -> None:
    stated["targets"][0]["interval"] = 1.0


def wrong_interval(stated: Stated) -> None:
    stated["targets"][0]["interval"] = "60"


def other_intervals(stated: Stated) -> None:
    stated["targets"][0]["intervals"][0]["interval"] = 600.0


def no_intervals(stated: Stated) -> None:
    del stated["targets"][0]["intervals"]


def no_target(stated: Stated) -> None:
    stated["targets"] = []


def of_another_target(stated: Stated) -> None:
    stated["targets"][0]["target"] = "other"


def tokens_invented(stated: Stated) -> None:
    stated["outside_times"]["not_after"] = rfc3339(START + 4 * DAY)


@pytest.mark.parametrize(
    ("attack", "claim"),
    [(left_out, "entries"), (edited, "entries"), (hidden, "nothing left out")]
    + [
        (stated_otherwise(change), "period")
        for change in (
            lower,
            fewer_outages,
            longer,
            wider,
            earlier,
            other_rules,
            other_interval,
            wrong_interval,
            other_intervals,
            no_intervals,
            no_target,
            of_another_target,
            tokens_invented,
        )
    ],
)
def test_a_forged_period_is_refused(
    period: Path, tmp_path: Path, attack: Callable[[Files], None], claim: str
) -> None:
    files = files_of(period)
    attack(files)
    refused = [c for c in verify(pack(tmp_path / "forged.zip", files), Trust()) if not c.valid]
    assert refused[0].claim == claim, refused


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((2 * HOUR, 3 * DAY), "the range ends inside the window"),
        ((-12 * HOUR, DAY), "the range begins inside the window"),
    ],
)
def test_the_owner_cannot_leave_out_the_edges(
    folder: Path, tmp_path: Path, window: tuple[int, int], message: str
) -> None:
    """Who has the key can sign a range that ends where it suits, and count only what is left."""
    reader, keys = Reader.open(folder / "data"), load_keys(folder / "data")
    watched = [ReportTarget("mail", "lab", "imap")]
    case = find_period_evidence(
        reader, Tokens(folder / "data"), keys, (START + 2 * HOUR, START + DAY), watched, "here"
    )
    wanted = (START + window[0], START + window[1])
    replay = PeriodReplay(wanted, {"mail": 60.0}, Rules())
    for entry in case.range.entries(reader):
        replay.feed(entry.index, entry.kind, entry.time, entry.target, entry.payload)
    replay.flush()
    bounds = replay.bounds()
    assert bounds is not None
    forged: dict[str, object] = {
        "window": {"from": rfc3339(wanted[0]), "to": rfc3339(wanted[1])},
        "entries": {"first": bounds[0], "last": bounds[1]},
        "availability": [{"target": "mail"} | replay.availability_of("mail").as_json()],
        "outages": [outage_json(record, in_period=True) for record in replay.records()],
    }
    case = replace(case, statement=cast(PeriodStatement, {**case.statement, **forged}))
    with (tmp_path / "forged.zip").open("wb") as out:
        write_period_bundle(out, reader, keys, case, "en", [])
    reader.close()
    (refused,) = refused_by(tmp_path / "forged.zip")
    assert (refused.claim, refused.detail[: len(message)]) == ("period", message)


def test_a_statement_with_one_interval_is_checked_by_that_one(folder: Path, tmp_path: Path) -> None:
    """So were they made until 2026-11."""
    reader, keys = Reader.open(folder / "data"), load_keys(folder / "data")
    window = (START + 2 * HOUR, START + DAY)
    case = find_period_evidence(
        reader, Tokens(folder / "data"), keys, window, [ReportTarget("mail", "lab", "imap")], "here"
    )
    (target,) = case.statement["targets"]
    assert target.pop("intervals") == [{"from": None, "interval": 60.0, "inferred": True}]
    for interval, valid in ((60.0, True), (30.0, False)):
        target["interval"] = interval
        with (tmp_path / f"{interval}.zip").open("wb") as out:
            write_period_bundle(out, reader, keys, case, "en", [])
        refused = refused_by(tmp_path / f"{interval}.zip")
        assert [claim.claim for claim in refused] == ([] if valid else ["period"])
    reader.close()


def test_no_malformed_value_in_a_period_is_accepted_or_crashes_verify(folder: Path, tmp_path: Path) -> None:
    reader, keys = Reader.open(folder / "data"), load_keys(folder / "data")
    window = (START + 30 * HOUR - 5 * MINUTE, START + 31 * HOUR)
    case = find_period_evidence(
        reader, Tokens(folder / "data"), keys, window, [ReportTarget("mail", "lab", "imap")], "here"
    )
    with (tmp_path / "small.zip").open("wb") as out:
        write_period_bundle(out, reader, keys, case, "en", [])
    reader.close()
    assert all(claim.valid for claim in verify(tmp_path / "small.zip", Trust()))
    files = files_of(tmp_path / "small.zip")
    for number in range(MUTATIONS // 20):
        chance = random.Random(f"{SEED}:{number}")
        name = ("period.json", "proof.json", "entries.jsonl")[number % 3]
        changed = retyped(files[name], chance) if number % 2 else altered(files[name], chance)
        claims = verify(pack(tmp_path / "mutant.zip", files | {name: changed}), Trust())
        assert changed == files[name] or not all(claim.valid for claim in claims), (SEED, number, claims)


def test_a_zip_with_both_statements_or_none_is_refused(period: Path, tmp_path: Path) -> None:
    files = files_of(period)
    for changed in (files | {"outage.json": b"{}"}, {n: c for n, c in files.items() if n != "period.json"}):
        (claim, *_) = verify(pack(tmp_path / "forged.zip", changed), Trust())
        assert (claim.claim, claim.valid) == ("archive", False)


def test_a_period_with_real_tokens_lies_between_outside_times(
    recorded_outage: tuple[MailWatchProcess, Authority, str], trust: Trust, tmp_path: Path
) -> None:
    process, path = recorded_outage[0], tmp_path / "recorded_outage.zip"
    reported = json.loads(process.command("outages", "--json").stdout)
    window = (min(one["first_bad"] for one in reported), max(one["last_bad"] for one in reported))
    made = process.command("report", "--from", window[0], "--to", window[1], "-o", str(path))
    assert made.returncode == 0, made.stderr
    assert [claim for claim in verify_with_pages(path, trust) if not claim.valid or claim.note] == []
    stated = stated_of(path)
    assert stated["outside_times"]["not_before"] <= window[0]
    assert stated["outside_times"]["not_after"] >= window[1]
    assert {one["target"] for one in stated["outages"]} == {one["target"] for one in reported}
    files = files_of(path)
    proof = json.loads(files["proof.json"])
    del proof["tokens"][-1]
    forged = pack(tmp_path / "forged.zip", files | {"proof.json": json.dumps(proof).encode()})
    assert next(c.claim for c in verify(forged, trust) if not c.valid) == "tokens"


def test_the_report_speaks_both_languages(folder: Path, period: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(period, tmp_path / "en")
    english = text_of(tmp_path / "en" / "report.pdf")
    window = ("--from", rfc3339(START), "--to", rfc3339(START + 3 * DAY))
    run(folder, "report", *window, *MINE, "-o", str(tmp_path / "it.zip"), "--lang", "it")
    shutil.unpack_archive(tmp_path / "it.zip", tmp_path / "it")
    italian = text_of(tmp_path / "it" / "report.pdf")
    assert "The most affected channel (mail) was down, in total, for at least" in english
    assert "Il canale più colpito (mail) è stato fuori servizio, in totale, per almeno" in italian
    assert "observer offline" in english
    # No guard was asked at these failures, and no observation logged in.
    assert "other operators' servers were asked at once and answered: 0 of 150" in english
    assert "a broken line on the observer's side would have been taken for a failure" in english
    assert "without logging in to the mailbox" in english
    assert "What this report does not show" in english
    assert "at least one a day" in english
    for text in (english, italian):
        assert stated_of(period)["ledger"] in text
    assert "period.json" in (tmp_path / "en" / "VERIFY.md").read_text()
    assert "outage.json" not in (tmp_path / "en" / "VERIFY.md").read_text()
    declared = (tmp_path / "it" / "report.pdf").read_bytes()
    assert re.findall(rb"pdfaid:(\w+)>(\w+)<", declared) == [(b"part", b"3"), (b"conformance", b"B")]


@pytest.mark.parametrize("report", ["period"])
def test_both_languages_have_the_same_words_and_places(report: str) -> None:
    def shape(name: str) -> dict[str, list[str]]:
        return {
            key: sorted(set(re.findall(r"{\w*}", str(text)))) for key, text in texts(name, report).loaded.items()
        }

    assert shape("it") == shape("en")


def test_each_cell_of_the_calendar_adds_up() -> None:
    """A day on which the clocks are set has 25 hours, and the failure in it is seen however short it was."""
    rome, start = ZoneInfo("Europe/Rome"), 1_792_879_200_000  # 2026-10-25T00:00+02:00
    calendar = AvailabilityCalendar((start, start + 45 * DAY), rome)
    calendar.add("t", observation_of("t", "-", start), [(start, start + MINUTE, SegmentState.DOWN)])
    calendar.add("t", observation_of("t", "+", start), [(start + MINUTE, start + 25 * HOUR, SegmentState.UP)])
    calendar.add("t", observation_of("t", "?", start + 30 * HOUR), [])
    rows = dict(calendar.rows("t", start + 40 * DAY))
    assert list(rows) == ["2026-10", "2026-11", "2026-12"]
    first, second, third = (rows["2026-10"][day] for day in (25, 26, 27))
    assert first.whole == 25 * HOUR == first.up + first.down
    assert first.parts(MINUTE) == (20, 0, 80)
    assert second.whole == 24 * HOUR
    assert second.parts(MINUTE)[1] > 0
    assert third.parts(MINUTE) == (0, 0, 0)
    assert sum(cell.whole for row in rows.values() for cell in row.values()) == 40 * DAY


def test_the_report_can_be_had_alone(folder: Path, period: Path, tmp_path: Path) -> None:
    window = ["--from", rfc3339(START), "--to", rfc3339(START + 3 * DAY)]
    alone = tmp_path / "report.pdf"
    made = run(folder, "report", *window, *MINE, "-o", str(alone), "--lang", "en")
    assert (made.returncode, alone.read_bytes()) == (0, files_of(period)["report.pdf"])
    assert "for the evidence, name a .zip" in made.stdout
    (first, *_) = json.loads(run(folder, "outages", "--json").stdout)
    for name in ("outage.pdf", "outage.zip"):
        assert run(folder, "report", first["id"], "-o", str(tmp_path / name), "--lang", "en").returncode == 0
    assert (tmp_path / "outage.pdf").read_bytes() == files_of(tmp_path / "outage.zip")["report.pdf"]


def test_a_window_that_begins_before_the_first_probe_says_so(folder: Path, tmp_path: Path) -> None:
    """The ledger begins a day before START: of the two days before that nobody knows anything."""
    alone = tmp_path / "early.pdf"
    window = ["--from", rfc3339(START - 2 * DAY), "--to", rfc3339(START + DAY)]
    assert run(folder, "report", *window, *MINE, "-o", str(alone), "--lang", "en").returncode == 0
    assert re.search(r"quiet +not observed yet +1 +1 d", text_of(alone)), text_of(alone)
    assert "there is no data from before" in text_of(alone)
    window[1] = rfc3339(START)
    assert run(folder, "report", *window, *MINE, "-o", str(alone), "--lang", "en").returncode == 0
    assert "there is no data from before" not in text_of(alone)


@pytest.mark.parametrize(
    ("share", "text"), [(0.67205, "67,2 %"), (0.98999, "98,9 %"), (0.99951, "99,951 %"), (1.0, "100,000 %")]
)
def test_a_share_has_no_more_digits_than_it_needs(share: float, text: str) -> None:
    assert Formatter("it", ZoneInfo("UTC"), tenths=False).format_page_share(share).replace("\u00a0", " ") == text


def test_a_period_of_0_2_0_across_steps_of_the_clock_stays_valid(tmp_path: Path) -> None:
    """That version missed steps within a probe (testdata/steps/make.txt): 15 minutes too much were unobserved."""
    stepped = TESTDATA / "steps" / "period-0.2.0.zip"
    assert [claim.detail for claim in verify(stepped, Trust()) if not claim.valid] == []
    (account,) = stated_of(stepped)["availability"]
    assert account["unobserved"] == 900.2


def test_the_unobserved_time_counts_steps_of_the_clock_within_a_probe() -> None:
    stepped = TESTDATA / "steps" / "period-0.2.0.zip"
    window = stated_of(stepped)["window"]
    replay = PeriodReplay(
        (parse_rfc3339(window["from"]), parse_rfc3339(window["to"])), {"a@example.org": 60.0}, Rules()
    )
    for line in lines_of(files_of(stepped)):
        entry = json.loads(line)
        header = entry["header"]
        target = "a@example.org" if header["target"] else None
        replay.feed(header["index"], header["kind"], header["time"], target, entry["payload"])
        replay.ended = header["time"]
    replay.flush()
    now, formerly = (replay.availability_of("a@example.org", formerly=of) for of in (False, True))
    assert formerly.as_json()["unobserved"] == 900.2
    assert now.as_json()["unobserved"] == 0.2

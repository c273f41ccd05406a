"""Each observation is judged by the interval in force at its time: on record, or found in the record itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mailwatch.analysis.detector import Detector, IndexedFact, State, detect
from mailwatch.analysis.segments import usual_interval
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger.settings_payloads import rules_payload, settings_payload
from mailwatch.model import PAUSED, RESUMED, Fact, Kind, Observation, Rules, TargetChange, TargetEvent
from mailwatch.store import NewEntry, Reader, Store, queries
from mailwatch.store.replay import audit_outages, restore_state, rule_book
from mailwatch.times import Millis, rfc3339
from tests.helpers.command import mailwatch
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, change, observation_of
from tests.helpers.pdf import text_of
from tests.helpers.process import MailWatchProcess
from tests.helpers.records import payload_of
from tests.helpers.sqlite_access import wait_for_no_disk

START = 1_767_225_600_000
"""2026-01-01T00:00Z."""


def ledger(folder: Path, facts: Sequence[Fact], name: str = "mail") -> None:
    """Write facts of one target with what follows from them, as the monitor would; a checkpoint after each 500."""
    store = Store.open(folder)
    wait_for_no_disk(store)
    ticked = START - DAY
    store.read_clock = lambda: ticked
    node = {
        "event": "start", "version": "0.1.0", "python": "3.11.2", "system": "Linux", "config": "c0" * 32,
        "vantage_point": "here", "rules": rules_payload(Rules()),
    }  # fmt: skip
    drafts = [
        NewEntry(
            kind="node",
            time=facts[0].at if isinstance(facts[0], TargetChange) else START - DAY,
            target=None,
            payload=node,
        )
    ]
    detector, index, settings = Detector(), store.size + 1, None
    for fact in facts:
        at = (
            fact.at
            if isinstance(fact, TargetChange)
            else fact.ended_at
            if isinstance(fact, Observation)
            else fact.end
        )
        kind = "watch" if isinstance(fact, TargetChange) else "observation"
        drafts.append(NewEntry(kind=kind, time=at, target=name, payload=fact))
        detector, changed = detector.feed(IndexedFact(index, fact), Rules())
        settings = fact.settings if isinstance(fact, TargetChange) else settings
        index += 1
        for outage in changed:
            payload = payload_of(outage, "lab", Kind.IMAP, "here") | {"rules": rules_payload(Rules())}
            payload |= {"watch": settings_payload(settings)} if settings else {}
            drafts.append(NewEntry(kind="outage", time=at, target=name, payload=payload))
            index += 1
        ticked = at
        if len(drafts) >= 500:
            store.append_batch(drafts)
            store.checkpoint()
            drafts = []
    if drafts:
        store.append_batch(drafts)
    store.checkpoint()
    store.close()


def observations_every(start: Millis, end: Millis, every: Millis, mark: str = "+") -> list[Fact]:
    return [observation_of("mail", mark, at) for at in range(start, end, every)]


def changed(folder: Path, *, watched: bool) -> None:
    """19 days at 5m, then two at 1m; a day before the window, and one after it."""
    turn, end = START + 18 * DAY, START + 21 * DAY
    slow, quick = observations_every(START - DAY, turn, 5 * MINUTE), observations_every(turn, end, MINUTE)
    if not watched:
        ledger(folder, [*slow, *quick])
        return
    begin = change(TargetEvent.BEGIN, START - DAY, 5 * MINUTE)
    daily = change(TargetEvent.CONTINUE, START - HOUR, 5 * MINUTE)
    at = (DAY - HOUR) // (5 * MINUTE)
    facts = [begin, *slow[:at], daily, *slow[at:], change(TargetEvent.CHANGE, turn, MINUTE), *quick]
    ledger(folder, facts)


@pytest.fixture(scope="module", params=[True, False], ids=["recorded", "inferred"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("changed")
    changed(made / "data", watched=request.param)
    target = {"name": "mail", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none", "interval": "1m"}
    MailWatchProcess(made, [target])
    return made


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return mailwatch("--config", folder / "config.yaml", *words)


def test_another_interval_changes_nothing_of_the_past(folder: Path) -> None:
    reader = Reader.open(folder / "data")
    (result,) = queries.availability(reader, ["mail"], START, START + 20 * DAY)
    reader.close()
    assert result["availability"] == {"lower": 1.0, "upper": 1.0}
    assert result["coverage"] is not None
    assert result["coverage"] > 0.999
    assert result["unobserved"] < 600


def test_the_report_of_the_month_is_by_the_intervals_then(folder: Path, tmp_path: Path) -> None:
    with contextlib.closing(Reader.open(folder / "data")) as reader:
        recorded = "recorded" if reader.latest("mail", "watch") else "inferred"
    path = tmp_path / "period.zip"
    window = ("--from", rfc3339(START), "--to", rfc3339(START + 20 * DAY))
    made = run(folder, "report", *window, "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    assert [claim for claim in verify(path, Trust()) if not claim.valid] == []
    with zipfile.ZipFile(path) as opened:
        stated = json.loads(opened.read("period.json"))
    assert stated["availability"][0]["coverage"] > 0.999
    first, *more = stated["targets"][0]["intervals"]
    assert first["interval"] == 300.0
    if recorded == "recorded":
        assert first["from"] == rfc3339(START - DAY)
        assert more == [{"from": rfc3339(START + 18 * DAY), "interval": 60.0}]
        # The range reaches back to what says how it was watched at the window's beginning.
        with zipfile.ZipFile(path) as opened:
            assert b'"continue"' in opened.read("entries.jsonl")
    else:
        assert (first, more) == ({"from": None, "interval": 300.0, "inferred": True}, [])


def test_five_days_without_a_probe_and_without_a_gap_entry_are_not_observed(tmp_path: Path) -> None:
    ledger(
        tmp_path / "data",
        [
            *observations_every(START, START + DAY, MINUTE),
            *observations_every(START + 6 * DAY, START + 7 * DAY, MINUTE),
        ],
    )
    reader = Reader.open(tmp_path / "data")
    (result,) = queries.availability(reader, ["mail"], START, START + 7 * DAY)
    reader.close()
    assert result["unobserved"] == pytest.approx(5 * 86_400, abs=180)
    assert result["coverage"] == pytest.approx(2 / 7, abs=0.001)


def test_no_data_is_never_written_as_no_downtime(tmp_path: Path) -> None:
    """An outage of three failures that are further apart than the interval: it was, for how long nobody knows."""
    facts: list[Fact] = [change(TargetEvent.BEGIN, START - HOUR, MINUTE)]
    facts += [observation_of("mail", mark, START + number * HOUR) for number, mark in enumerate("+---++")]
    ledger(tmp_path / "data", facts)
    MailWatchProcess(tmp_path, [{"name": "mail", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}])
    window = ("--from", rfc3339(START - HOUR), "--to", rfc3339(START + DAY))
    displayed = run(tmp_path, "availability", *window).stdout
    assert displayed.count("no data") >= 4
    (reported,) = json.loads(run(tmp_path, "availability", *window, "--json").stdout)
    assert reported["downtime"] == {"min": None, "max": None}
    assert reported["mtbf"] is None
    assert "0 s" not in displayed
    for language, unclear in (("en", "the observations are too few"), ("it", "le osservazioni sono troppo poche")):
        made = run(tmp_path, "report", *window, "-o", str(tmp_path / f"{language}.zip"), "--lang", language)
        assert made.returncode == 0, made.stderr
        shutil.unpack_archive(tmp_path / f"{language}.zip", tmp_path / language)
        text = text_of(tmp_path / language / "report.pdf")
        assert unclear in text
        assert "0.0 s" not in text
        assert "0,0 s" not in text


def test_a_target_removed_from_the_config_is_evaluated_by_its_own_interval(tmp_path: Path) -> None:
    ledger(tmp_path / "data", observations_every(START, START + 2 * DAY, 15 * MINUTE))
    other = {"name": "other", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}
    MailWatchProcess(tmp_path, [other])
    window = ("--from", rfc3339(START), "--to", rfc3339(START + 2 * DAY))
    (reported,) = json.loads(run(tmp_path, "availability", *window, "--target", "mail", "--json").stdout)
    assert reported["coverage"] > 0.98
    made = run(tmp_path, "report", *window, "--target", "mail", "-o", str(tmp_path / "p.zip"))
    assert made.returncode == 0, made.stderr
    assert all(claim.valid for claim in verify(tmp_path / "p.zip", Trust()))


def test_a_name_that_never_was_is_an_error_that_names_the_nearest(folder: Path) -> None:
    window = ("--from", rfc3339(START), "--to", rfc3339(START + DAY))
    asked = run(folder, "availability", *window, "--target", "mial", "--json")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "no target 'mial'" in asked.stderr
    assert "is it mail?" in asked.stderr
    asked = run(folder, "availability", *window, "--target", "zzzzzzzz")
    assert asked.returncode == 2
    assert "there is no target 'zzzzzzzz', in the config or on record; there is only mail" in asked.stderr


def test_outages_of_one_target_and_of_one_that_never_was(folder: Path) -> None:
    assert run(folder, "outages", "--target", "mail", "--json").returncode == 0
    for words in (("outages", "--target", "mial", "--json"), ("probe", "mial", "--json")):
        asked = run(folder, *words)
        assert (asked.returncode, asked.stdout) == (2, "")
        assert "there is no target 'mial'" in asked.stderr
        assert "is it mail?" in asked.stderr


@pytest.mark.parametrize(
    ("known", "advice"),
    [
        ([], "there is none yet"),
        (["mail"], "there is only mail"),
        (["mail", "kept"], "there are kept, mail"),
        (
            [f"kept {n}" for n in range(11)],
            "there are 11, `mailwatch config show` lists the targets of the config",
        ),
        ([*(f"kept {n}" for n in range(11)), "zzzyx"], "is it zzzyx?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_names(known: list[str], advice: str) -> None:
    error = UnknownTargetError("zzzyy", known)
    assert str(error) == f"there is no target 'zzzyy', in the config or on record; {advice}"


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        ([], 60_000),
        ([5], 60_000),
        ([0, 300, 600], 300),
        ([0, 20, 40, 300, 600, 900, 1200], 300),
        ([0, 20, 40, 300, 580], 20),
        ([0, 1, 5], 1),
        ([9, 0], 60_000),
    ],
)
def test_the_interval_of_a_target_is_its_most_frequent_one(due: list[int], expected: int) -> None:
    assert usual_interval(due) == expected


def facts_at(folder: Path, index: int) -> Fact | None:
    reader = Reader.open(folder)
    (entry,) = reader.entries(from_index=index, to_index=index + 1)
    reader.close()
    return entry.fact


MARKS = "+++---?--+++"


@pytest.mark.parametrize("cut", range(1, len(MARKS)))
@pytest.mark.parametrize(
    "events", [(TargetEvent.END, TargetEvent.BEGIN), (TargetEvent.END,), (TargetEvent.CHANGE,)]
)
@pytest.mark.slow
def test_a_replay_over_a_change_agrees_with_the_live_decisions(
    tmp_path: Path, cut: int, events: tuple[TargetEvent, ...]
) -> None:
    """Also where a crash came before what follows from the end of a watching was on record."""
    observation: list[Fact] = [
        observation_of("mail", mark, START + number * MINUTE) for number, mark in enumerate(MARKS)
    ]
    at = START + cut * MINUTE - 1000
    facts = [
        *observation[:cut],
        *(change(event, at, MINUTE, host=f"h{number}") for number, event in enumerate(events)),
    ]
    facts += observation[cut:] if events[-1] is not TargetEvent.END else []
    ledger(tmp_path, facts)
    reader = Reader.open(tmp_path)
    live, index = Detector(), 1
    for fact in facts:
        live, changed = live.feed(IndexedFact(index, fact), Rules())
        index += 1 + len(changed)
    resumed = restore_state(reader, "mail", rule_book(reader))
    audited = audit_outages(reader, rule_book(reader), "mail")
    reader.close()
    assert audited == []
    for outage in resumed.recorded.values():
        if outage.state == "unwatched":
            # Its last entry is the one that ended the watching: what proves it reaches over that.
            assert isinstance(facts_at(tmp_path, outage.last_index), TargetChange)
    assert resumed.unrecorded == ()
    restored, state = resumed.detector.state, live.state
    assert (restored.name, restored.is_open) == (state.name, state.is_open)
    assert (restored.outage, restored.last_good) == (state.outage, state.last_good)
    if events[-1] is TargetEvent.END:
        assert resumed.detector.state == State()
        assert resumed.latest is None


def test_time_without_a_probe_in_an_outage_is_not_observed_also_without_a_gap_entry(tmp_path: Path) -> None:
    marks = [(0, "+"), (1, "-"), (2, "-"), (3, "-"), (3 + 5 * 1440, "-"), (4 + 5 * 1440, "+"), (5 + 5 * 1440, "+")]
    for interval, expected in ((MINUTE, 5 * DAY - 200), (None, 0)):
        facts = [
            replace(observation_of("mail", mark, START + at * MINUTE), interval=interval) for at, mark in marks
        ]
        (outage,) = detect([IndexedFact(index, fact) for index, fact in enumerate(facts)], Rules())
        # Records from before 2026-11 say what they said then.
        assert (outage.unobserved, outage.largest_gap) == (expected, 5 * DAY - 200)


def test_a_longer_time_than_the_interval_is_observed_where_that_was_longer_before() -> None:
    facts = [
        replace(observation_of("mail", mark, START + at * MINUTE), interval=MINUTE)
        for at, mark in enumerate("+---")
    ]
    facts[2] = replace(facts[2], interval=5 * MINUTE)
    facts[3:] = [replace(observation_of("mail", "-", START + 7 * MINUTE), interval=MINUTE)]
    facts += [replace(observation_of("mail", "+", START + at * MINUTE), interval=MINUTE) for at in (8, 9)]
    (outage,) = detect([IndexedFact(index, fact) for index, fact in enumerate(facts)], Rules())
    assert outage.unobserved == 0


def test_a_pause_that_began_before_the_window_counts_in_it_without_maintenance(tmp_path: Path) -> None:
    begin = change(TargetEvent.BEGIN, START - 4 * HOUR, MINUTE)
    facts: list[Fact] = [
        begin,
        observation_of("mail", "+", START - 3 * HOUR),
        replace(change(TargetEvent.CONTINUE, START - 2 * HOUR, MINUTE), reason=PAUSED),
        replace(change(TargetEvent.CONTINUE, START + 6 * HOUR, MINUTE), reason=RESUMED),
        *observations_every(START + 6 * HOUR + MINUTE, START + 12 * HOUR, MINUTE),
    ]
    ledger(tmp_path / "data", facts)
    with contextlib.closing(Reader.open(tmp_path / "data")) as reader:
        (result,) = queries.availability(reader, ["mail"], START, START + 12 * HOUR)
        assert result["paused"] == 6 * 3600
        assert result["unobserved"] == pytest.approx(6 * 3600, abs=180)
        # Wholly within the pause, after its end, and with announced maintenance, which is not unobserved time.
        assert queries.paused_length(reader, "mail", START + HOUR, START + 2 * HOUR) == HOUR
        assert queries.paused_length(reader, "mail", START + 6 * HOUR, START + 12 * HOUR) == 0
        excluded = [(START - HOUR, START + HOUR), (START + 5 * HOUR, START + 9 * HOUR)]
        assert queries.paused_length(reader, "mail", START, START + 12 * HOUR, excluded) == 4 * HOUR
        (later,) = queries.availability(reader, ["mail"], START + 7 * HOUR, START + 12 * HOUR)
        assert "paused" not in later

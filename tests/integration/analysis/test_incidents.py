"""Outages of a provider that overlap are one incident: what is in it, what it is called, how it is drawn."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mailwatch.analysis.detector import IndexedFact, detect
from mailwatch.analysis.incident_json import incident_json
from mailwatch.analysis.incidents import Incident, IncidentOutage, incidents, symptom_changes
from mailwatch.analysis.outage_record import outage_payload
from mailwatch.cli import main
from mailwatch.cli.incidents import incident_table, print_incident
from mailwatch.cli.terminal_format import UTC_ZONE, TerminalFormat
from mailwatch.cli.text_table import print_lines, shorten
from mailwatch.cli.timeline_chart import (
    POSSIBLE_MARK,
    SERVED_MARK,
    SURE_MARK,
    Bar,
    draw_axis,
    draw_timeline,
)
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, Rules, TlsMode
from mailwatch.settings import Login
from mailwatch.store import NewEntry, Reader, Store, queries
from mailwatch.times import rfc3339
from tests.helpers.config_entries import imap
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.records import made_record, payload_of
from tests.helpers.requirements import need_root
from tests.helpers.targets import Targets
from tests.servers import Certificates, Dovecot, Postfix, server_folder

MINUTE = 60_000
T0 = 1_769_119_200_000


def member(order: int, begin: int, end: int | None, **more: Any) -> IncidentOutage:
    """An outage seen down from minute `begin` to `end`, a minute of doubt on both sides; open without an end."""
    facts: dict[str, Any] = {
        "id": f"{order:012x}",
        "target": f"t{order}",
        "provider": "libero",
        "vantage_point": "home",
        "last_good": T0 + (begin - 1) * MINUTE,
        "first_bad": T0 + begin * MINUTE,
        "last_bad": T0 + (begin + 100 if end is None else end) * MINUTE,
        "first_good": None if end is None else T0 + (end + 1) * MINUTE,
    }
    return IncidentOutage(order=order, outage=made_record(**{**facts, **more}))


@st.composite
def outages(draw: st.DrawFn) -> list[IncidentOutage]:
    found = []
    for order in range(draw(st.integers(0, 12))):
        begin = draw(st.integers(0, 60))
        made = member(
            order,
            begin,
            draw(st.none() | st.integers(begin, begin + 15)),
            **({"last_good": None} if draw(st.booleans()) else {}),
            provider=draw(st.sampled_from(["libero", "tim", ""])),
            target=draw(st.sampled_from("abc")),
            kind=draw(st.sampled_from([Kind.IMAP, Kind.SMTP])),
        )
        found.append(made)
    return found


# What belongs together.


@given(outages())
def test_each_outage_is_in_exactly_one_incident(given_: list[IncidentOutage]) -> None:
    found = [outage.id for incident in incidents(given_) for outage in incident.outages]
    assert sorted(found) == sorted(m.outage.id for m in given_)


@given(outages())
def test_no_two_incidents_of_a_provider_touch(given_: list[IncidentOutage]) -> None:
    for one in incidents(given_):
        for other in incidents(given_):
            same = one.provider == other.provider
            if (
                one.id != other.id
                and same
                and (one.provider or one.members[0].outage.target == other.members[0].outage.target)
            ):
                spans = [
                    (
                        min(outage.begin for outage in i.outages),
                        i.first_good if i.first_good is not None else 10**18,
                    )
                    for i in (one, other)
                ]
                (begin, end), (other_begin, other_end) = sorted(spans)
                assert end < other_begin <= other_end
                assert begin <= end


@given(outages())
def test_the_members_of_an_incident_hang_together(given_: list[IncidentOutage]) -> None:
    """Without the whole, nothing in it could be parted in time."""
    for incident in incidents(given_):
        assert len({outage.provider for outage in incident.outages}) == 1
        until = incident.members[0].outage.begin
        for outage in incident.outages:
            assert outage.begin <= until
            until = max(until, 10**18 if outage.first_good is None else outage.first_good)


@given(outages(), st.randoms())
def test_the_order_in_which_they_are_given_does_not_matter(
    given_: list[IncidentOutage], chance: random.Random
) -> None:
    shuffled = list(given_)
    chance.shuffle(shuffled)
    assert incidents(shuffled) == incidents(given_)


@given(outages(), outages())
def test_the_name_stays_while_an_incident_grows(first: list[IncidentOutage], more: list[IncidentOutage]) -> None:
    later = [
        IncidentOutage(order=m.order + 100, outage=replace(m.outage, id=f"{m.order + 100:012x}")) for m in more
    ]
    grown = incidents([*first, *later])
    for before in incidents(first):
        (now_in,) = [i for i in grown if before.members[0] in i.members]
        # Swallowed by an older one it goes under that one's name, and is still found under its own.
        older = min(now_in.members, key=lambda m: m.order)
        assert now_in.id == before.id or older not in before.members
        assert now_in.matches(before.id)


@given(outages())
def test_bounds_and_stages_agree_with_the_members(given_: list[IncidentOutage]) -> None:
    for incident in incidents(given_):
        if incident.last_good is not None:
            assert incident.last_good <= incident.first_bad
        assert incident.first_bad <= incident.last_bad
        assert 0 <= incident.surely_down <= incident.last_bad - incident.first_bad
        assert incident.surely_down >= max(outage.last_bad - outage.first_bad for outage in incident.outages)
        stages = incident.stages()
        assert stages[0].at == incident.first_bad
        assert (stages[-1].targets == 0) == (incident.first_good is not None)
        for stage in stages:
            down = {
                m.key
                for m in incident.members
                if m.outage.first_bad <= stage.at
                and (m.outage.first_good is None or m.outage.first_good > stage.at)
            }
            assert stage.targets == len(down) == sum(stage.channels.values())
            assert (stage.trouble == ()) == (not down)
        json.dumps(incident_json(incident), allow_nan=False)


def test_edges_that_touch_are_one_incident_and_a_moment_between_them_makes_two() -> None:
    first = member(1, 0, 10)
    assert len(incidents([first, member(2, 12, 20)])) == 1  # last good at minute 11, as the first's first good
    later = member(2, 12, 20, last_good=T0 + 11 * MINUTE + 1)
    assert len(incidents([first, later])) == 2


def test_an_outage_that_bridges_two_incidents_makes_one_under_the_older_name() -> None:
    old, new = member(1, 0, 10), member(2, 30, 40)
    one, other = incidents([old, new])
    bridge = member(3, 5, 35, proven_afterwards=True)
    (both,) = incidents([old, new, bridge])
    assert both.id == one.id
    assert both.matches(other.id)
    assert both.surely_down == 40 * MINUTE


def test_unobserved_time_between_two_members_is_not_surely_down() -> None:
    (both,) = incidents([member(1, 0, 10), member(2, 12, 20)])
    assert (both.last_bad - both.first_bad, both.surely_down) == (20 * MINUTE, 18 * MINUTE)


def test_a_paused_target_is_neither_down_nor_up_and_keeps_no_incident_open() -> None:
    paused = replace(member(0, 0, None, last_bad=T0 + 3 * MINUTE), is_target_paused=True)
    still = [paused, member(1, 0, None), member(2, 0, 6)]
    (running,) = incidents(still)
    assert (running.state, running.until) == ("open", None)
    assert [(stage.at, stage.targets) for stage in running.stages()][-2:] == [
        (T0 + 3 * MINUTE, 2),
        (T0 + 7 * MINUTE, 1),
    ]
    (over,) = incidents([paused, member(1, 0, 5), member(2, 0, 6)])
    assert (over.state, over.until, over.first_good) == ("unwatched", T0 + 7 * MINUTE, None)
    json_of = incident_json(over)
    # On record the outage is open as before.
    assert [(one["state"], one.get("paused")) for one in json_of["outages"]] == [
        ("open", True),
        ("closed", None),
        ("closed", None),
    ]
    assert [stage["paused"] for stage in json_of["stages"] if "paused" in stage] == [["t0"]]
    # What fails days later is no part of it.
    assert len(incidents([paused, member(1, 0, 5), member(3, 5000, None)])) == 2
    shown = "\n".join(drawn(over, 100))
    assert "1 paused" in shown
    assert "still down" not in shown


def test_targets_without_a_provider_have_incidents_of_their_own_and_vantage_points_share_one() -> None:
    assert len(incidents([member(1, 0, 5, provider=""), member(2, 0, 5, provider="")])) == 2
    (seen_twice,) = incidents([member(1, 0, 5, target="t"), member(2, 1, 6, target="t", vantage_point="office")])
    assert incident_json(seen_twice)["vantage_points"] == ["home", "office"]
    assert [stage.targets for stage in seen_twice.stages()] == [1, 2, 1, 0]


@pytest.mark.parametrize(
    ("phases", "trouble"),
    [
        ({"connect": 5, "auth": 2}, "unreachable"),
        ({"tls": 1}, "unreachable"),
        ({"auth": 3, "connect": 2}, "login down"),
        ({"mailbox": 2, "fetch": 1}, "mail missing"),
        ({"auth": 2, "mailbox": 2}, "login down"),
        ({"submit": 1}, "sending refused"),
        ({"deliver": 1}, "delivery late"),
        ({}, "unreachable"),
    ],
)
def test_trouble_is_named_by_the_phase_that_failed_most(phases: dict[str, int], trouble: str) -> None:
    assert member(1, 0, 5, phases=phases).trouble == trouble


def test_restoration_is_shown_per_channel_and_per_account() -> None:
    (incident,) = incidents(
        [
            member(1, 0, 10, target="anna/imap", account="aa"),
            member(2, 1, 30, target="anna/smtp", kind=Kind.SMTP, account="aa", phases={"submit": 1}),
            member(3, 2, None, target="mario/imap", account="bb", phases={"auth": 4}),
        ]
    )
    public = incident_json(incident)

    def at(minute: int) -> str:
        return rfc3339(T0 + minute * MINUTE)

    assert public["channels"] == [
        {"kind": "imap", "targets": ["anna/imap", "mario/imap"], "first_bad": at(0), "first_good": None},
        {"kind": "smtp", "targets": ["anna/smtp"], "first_bad": at(1), "first_good": at(31)},
    ]
    assert public["accounts"] == [
        {"account": "aa", "targets": ["anna/imap", "anna/smtp"], "first_bad": at(0), "first_good": at(31)},
        {"account": "bb", "targets": ["mario/imap"], "first_bad": at(2), "first_good": None},
    ]
    assert (public["state"], public["first_good"], public["duration"]["max"]) == ("open", None, None)
    assert [(s["targets_down"], s["channels_down"], s["trouble"]) for s in public["stages"]] == [
        (1, {"imap": 1}, ["unreachable"]),
        (2, {"imap": 1, "smtp": 1}, ["sending refused", "unreachable"]),
        (3, {"imap": 2, "smtp": 1}, ["login down", "sending refused", "unreachable"]),
        (2, {"imap": 1, "smtp": 1}, ["login down", "sending refused"]),
        (1, {"imap": 1}, ["login down"]),
    ]


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("", []),
        ("ccc", [(0, "unreachable")]),
        ("cccaaa", [(0, "unreachable"), (3, "login down")]),
        ("ccaacaacaaaamf", [(0, "unreachable"), (8, "login down")]),  # two in a row are no turn
        ("cccaaammfm-", [(0, "unreachable"), (3, "login down"), (6, "mail missing")]),
        ("aaa---", [(0, "login down"), (3, "unreachable")]),
    ],
)
def test_three_observations_in_a_row_make_a_change(phases: str, expected: list[tuple[int, str]]) -> None:
    names = {"c": "connect", "a": "auth", "m": "mailbox", "f": "fetch", "-": None}
    assert list(symptom_changes((at, names[phase]) for at, phase in enumerate(phases))) == expected


def test_each_symptom_change_is_a_stage() -> None:
    whole = replace(member(1, 0, 30), symptom_changes=((T0, "unreachable"), (T0 + 10 * MINUTE, "login down")))
    (incident,) = incidents([whole, member(2, 5, 20)])
    stages = [((s.at - T0) // MINUTE, s.targets, s.trouble) for s in incident.stages()]
    both = ("login down", "unreachable")
    assert stages == [
        (0, 1, ("unreachable",)),
        (5, 2, ("unreachable",)),
        (10, 2, both),
        (21, 1, ("login down",)),
        (31, 0, ()),
    ]


# How it is drawn.


def drawn(incident: Incident, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    form = TerminalFormat(UTC_ZONE, "en")
    print_incident(console, incident, T0 + 200 * MINUTE, form)
    print_lines(console, incident_table([incident], form))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_chart_fits_the_terminal_and_truncates_no_time(width: int) -> None:
    name = "mario.rossi@libero.it/imap"
    members = [member(1, 0, 60, target=name), member(2, 2, None, target="anna.bianchi@libero.it/imap")]
    lines = drawn(incidents(members)[0], width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for needed in ("still down", "1 h", "22:00:00", "23:01:00", "unreachable", "2026-01-22 22:00", "Times: UTC"):
        assert needed in text
    # The tables cut names themselves, in the middle; rich would cut what matters at the end of a column.
    assert not re.search(r"…(\s|$)", text)


def test_bars_distinguish_certain_from_possible_downtime() -> None:
    bar = Bar(label="x", sure=[(20, 60)], possible=[(10, 80)], note="n")
    row = draw_timeline([bar], 0, 100, 27).plain.splitlines()[1]
    cells = re.search(rf"[{SURE_MARK}{POSSIBLE_MARK}{SERVED_MARK}]+", row)
    assert cells
    assert len(cells[0]) == 21
    share = [cells[0].count(mark) for mark in (SURE_MARK, POSSIBLE_MARK, SERVED_MARK)]
    assert share == [9, 6, 6]
    assert cells[0].strip(SERVED_MARK).strip(POSSIBLE_MARK) == SURE_MARK * 9


def test_a_short_outage_does_not_vanish_from_a_long_picture() -> None:
    row = draw_timeline(
        [Bar(label="x", sure=[(999_999, 999_999)], possible=[])], 0, 1_000_000, 40
    ).plain.splitlines()[1]
    assert row.count(SURE_MARK) == 1


@given(st.integers(0, 10**12), st.integers(1, 10**10), st.integers(16, 200))
def test_the_axis_is_never_longer_than_the_bar_but_for_its_last_time(start: int, length: int, cells: int) -> None:
    line = draw_axis(start, start + length, cells)
    times = re.findall(r"\d\d-\d\d \d\d:\d\d|\d\d:\d\d:\d\d|\d\d:\d\d", line)
    assert times
    assert len(line) <= cells
    assert " ".join(times) == " ".join(line.split())


@given(st.text(max_size=40), st.integers(8, 40))
@pytest.mark.slow
def test_a_name_is_cut_in_its_middle(text: str, width: int) -> None:
    cut = shorten(text, width)
    assert len(cut) <= max(width, 0)
    assert cut == text if len(text) <= width else (cut[0], cut[-1]) == (text[0], text[-1])


# From a ledger.


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A config, and a ledger with two incidents: two channels together, and one alone a day later."""
    store = Store.open(tmp_path / "data")
    for number, (name, begin, end) in enumerate([("imap", 0, 10), ("smtp", 3, 20), ("imap", 1440, 1450)]):
        record = made_record(
            T0 + begin * MINUTE,
            T0 + end * MINUTE,
            T0 + (end + 1) * MINUTE,
            last_good=T0 + (begin - 1) * MINUTE,
            id=f"{number:012x}",
            target=name,
            kind=Kind(name),
            vantage_point="home",
            causes={"refused": 3},
        )
        store.append_batch([NewEntry(kind="outage", time=T0, target=name, payload=outage_payload(record))])
    store.close()
    config = tmp_path / "config.yaml"
    config.write_text(
        "vantage_point: {name: home}\ndata_dir: data\ntargets: [{name: imap, kind: imap, host: localhost}]\n"
    )
    return config


def run(config: Path, *words: str) -> int:
    return main(["--config", str(config), "incidents", *words])


def test_the_command_lists_and_shows_incidents(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ledger, "--json") == 0
    newest, oldest = json.loads(capsys.readouterr().out)
    assert (len(newest["outages"]), len(oldest["outages"])) == (1, 2)
    assert run(ledger) == 0
    output = capsys.readouterr().out
    assert output.index(newest["id"]) < output.index(oldest["id"])
    for name in (oldest["id"], oldest["id"][:6], "000000000001"):
        assert run(ledger, "show", name, "--json") == 0
        assert json.loads(capsys.readouterr().out) == oldest
    assert run(ledger, "show", oldest["id"]) == 0
    assert "all up" in capsys.readouterr().out
    assert run(ledger, "--json", "--from", rfc3339(T0 + 1000 * MINUTE)) == 0
    assert json.loads(capsys.readouterr().out) == [newest]
    assert run(ledger, "--json", "--to", rfc3339(T0 + 1000 * MINUTE)) == 0
    assert json.loads(capsys.readouterr().out) == [oldest]
    assert run(ledger, "--open") == 0
    assert capsys.readouterr() == ("", "no incident on record\n")


def test_showing_an_incident_reads_its_observations(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for minute, phase in enumerate([None, *[Phase.CONNECT] * 4, *[Phase.AUTH] * 4, None, None]):
        at = T0 + minute * MINUTE
        observation = Observation(
            target="t",
            scheduled_at=at,
            started_at=at,
            ended_at=at,
            outcome=Outcome.DOWN if phase else Outcome.UP,
            cause=Cause.TIMEOUT if phase else None,
            failed_phase=phase,
        )
        store.append_batch([NewEntry(kind="observation", time=at, target="t", payload=observation)])
    reader = Reader.open(tmp_path)
    events = [IndexedFact(entry.index, entry.fact) for entry in reader.entries(target="t") if entry.fact]
    (outage,) = detect(events, Rules())
    payload = payload_of(outage, "lab", Kind.IMAP, "home")
    store.append_batch([NewEntry(kind="outage", time=T0, target="t", payload=payload)])
    (incident,) = queries.incidents(reader)
    assert [stage.trouble for stage in incident.stages()] == [("unreachable",), ()]
    stages = queries.with_symptoms(reader, incident).stages()
    assert [((s.at - T0) // MINUTE, s.trouble) for s in stages] == [
        (1, ("unreachable",)),
        (5, ("login down",)),
        (9, ()),
    ]
    reader.close()
    store.close()


@pytest.mark.parametrize(
    ("words", "status", "reported"),
    [
        (["show"], 2, "write `mailwatch incidents`, or `mailwatch incidents show ID`"),
        (["hide", "x"], 2, "write `mailwatch incidents`"),
        (["show", "nothing"], 1, "no incident has the id nothing"),
        (["show", "00000000000"], 1, "2 incidents begin with 00000000000"),
    ],
)
def test_wrong_use_prints_the_usage(
    ledger: Path, words: list[str], status: int, reported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ledger, *words) == status
    assert reported in capsys.readouterr().err


async def test_targets_of_one_account_are_shown_as_that_without_its_name(
    own_dovecot: Dovecot, targets: Targets, tmp_path: Path
) -> None:
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    found = [targets.imap(own_dovecot), replace(targets.imap(own_dovecot, TlsMode.STARTTLS), name="lab-starttls")]
    found.append(replace(targets.pop3(own_dovecot), login=None))
    own_dovecot.stop()
    for target in found:
        harness.add_target(target)
        for _ in range(3):
            await harness.probe(target)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        (incident,) = queries.incidents(reader)
    one, other, none = (next(m for m in incident.members if m.outage.target == t.name) for t in found)
    assert one.outage.account == other.outage.account != ""
    assert none.outage.account == ""
    login = found[0].login
    assert isinstance(login, Login)
    assert login.username not in json.dumps(incident_json(incident))
    assert none.outage.kind is Kind.POP3
    await harness.close()


def test_a_provider_that_goes_and_comes_back_channel_by_channel_is_one_incident(
    own_dovecot: Dovecot, certificates: Certificates, tmp_path: Path
) -> None:
    need_root("postfix")
    secret, interval = tmp_path / "secret", {"interval": "500ms"}
    with contextlib.ExitStack() as servers:
        folder = servers.enter_context(server_folder())
        postfix = Postfix(folder, certificates, own_dovecot.auth_socket)
        servers.enter_context(postfix.running())
        smtp = {"name": "lab-smtp", "kind": "smtp", "port": postfix.submissions_port}
        targets = [imap(own_dovecot, certificates, secret, **interval, **more) for more in ({}, smtp)]
        process = MailWatchProcess(tmp_path, targets, detection={"recheck": ["500ms"]})
        servers.enter_context(process.running())
        for name in ("lab-imap", "lab-smtp"):
            process.wait_for_state(name, "up")
        own_dovecot.stop()
        postfix.stop()
        opened = process.wait_until(lambda: process.api("incidents?open=true"), "an incident")[0]
        process.wait_until(lambda: len(process.api("outages?open=true")) == 2, "both channels down")
        own_dovecot.start()
        process.wait_until(lambda: process.api("outages?open=true")[0]["target"] == "lab-smtp", "IMAP back")
        process.wait_until(lambda: process.state("lab-imap") == "up", "IMAP up")
        (half,) = process.api("incidents")
        assert half["state"] == "open"
        assert {c["kind"]: c["first_good"] is None for c in half["channels"]} == {"imap": False, "smtp": True}
        postfix.start()
        process.wait_until(lambda: process.api("incidents")[0]["state"] == "closed", "all back")
        (whole,) = process.api("incidents")
        outages = {outage["target"]: outage for outage in process.api("outages")}
        assert whole["id"] == opened["id"] == half["id"]
        assert whole["stages"][-1]["targets_down"] == 0
        assert max(stage["targets_down"] for stage in whole["stages"]) == 2
        assert [channel["first_good"] for channel in whole["channels"]] == [
            outages[name]["first_good"] for name in ("lab-imap", "lab-smtp")
        ]
        assert whole["first_bad"] == min(outage["first_bad"] for outage in outages.values())
        assert whole["first_good"] == outages["lab-smtp"]["first_good"]
        assert len({member["account"] for member in whole["outages"]} - {None}) == 1
        full = process.api(f"incidents/{whole['id']}")
        assert {**full, "stages": whole["stages"]} == whole
        assert process.get("/api/v1/incidents/none").startswith("404")
        assert json.loads(process.command("incidents", "--json").stdout) == [whole]
        assert SURE_MARK in process.command("incidents", "show", whole["id"][:8]).stdout
        assert process.command("ledger", "audit").returncode == 0


def test_an_incident_whose_member_is_removed_ends_without_restoration() -> None:
    left = member(0, 10, None, unwatched=True, last_bad=T0 + 20 * MINUTE)
    (incident,) = incidents([left, member(1, 12, 14)])
    assert (incident.state, incident.first_good) == ("unwatched", None)
    assert incident.until == T0 + 20 * MINUTE
    assert [(stage.targets, len(stage.restored), len(stage.no_longer_watched)) for stage in incident.stages()][
        -1
    ] == (0, 0, 1)
    public = incident_json(incident)
    assert public["state"] == "unwatched"
    assert (public["first_good"], public["duration"]["max"]) == (None, None)
    assert public["stages"][-1]["unwatched"] == ["t0"]
    assert public["channels"][0]["first_good"] is None
    # It does not reach on for ever, as an open one does.
    assert len(incidents([left, member(1, 30, 40)])) == 2
    assert len(incidents([member(0, 10, None), member(1, 300, 400)])) == 1
    assert next(iter(incidents([left, member(1, 12, None)]))).state == "open"

"""What the operator can make anyone believe: nothing about time, and nothing between two tokens afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from mailwatch.cli import main
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.ledger_range import EvidenceError, check_within_tokens
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.verify import Trust, verify
from mailwatch.model import Rules
from mailwatch.store import CheckpointRow, NewEntry, Reader, Store, Tokens
from mailwatch.store.entry_rows import Entry
from tests.helpers.bundle_files import files_of, pack
from tests.helpers.ledger_factory import DAY, HOUR
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.servers.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return quiet(tmp_path_factory.mktemp("a") / "authority")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return quiet(tmp_path_factory.mktemp("b") / "other")


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


def verified(path: Path, trust: Trust) -> dict[str, tuple[bool, str]]:
    return {claim.claim: (claim.valid, claim.detail) for claim in verify(path, trust)}


def refused(path: Path, trust: Trust) -> list[tuple[str, str]]:
    return [(claim.claim, claim.detail) for claim in verify(path, trust) if not claim.valid]


def record_outage(operator: Operator, authority: Authority, marks: str = "++----++") -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe(marks)
    operator.stamp(authority)


def test_a_recorded_outage_is_valid_evidence(operator: Operator, authority: Authority) -> None:
    record_outage(operator, authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    _, words = verified(path, trusting(authority))["tokens"]
    stated = json.loads(zipfile.ZipFile(path).read("outage.json"))["outside_times"]
    assert stated["not_before"] in words
    assert stated["not_after"] in words


@pytest.mark.parametrize(("dated", "words"), [(-30 * DAY, "stands before entries"), (DAY, "is over entries")])
def test_an_outage_cannot_be_moved_to_another_time(
    operator: Operator, authority: Authority, dated: int, words: str
) -> None:
    """All hashes and signatures are right, and the tokens are a real authority's: but they are of today."""
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++----++", dated=operator.clock() + dated)
    operator.stamp(authority)
    (claim, detail), *_ = refused(operator.bundle(authority), trusting(authority))
    assert claim == "times"
    assert words in detail


def test_an_observation_is_dated_as_its_entry_is(
    operator: Operator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the headers would tell the time to the tokens, and the observations another one to the reader."""
    append = operator.store.append_batch

    def today(drafts: Sequence[NewEntry]) -> list[Entry]:
        return append([type(one)(kind=one.kind, time=operator.clock(), target=one.target, payload=one.payload)
                       for one in drafts])  # fmt: skip

    monkeypatch.setattr(operator.store, "append_batch", today)
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++----++", dated=operator.clock() - 30 * DAY)
    operator.stamp(authority)
    claims = refused(operator.bundle(authority), trusting(authority))
    assert claims[0][0] == "entries"
    assert "has another date than the observation in it" in claims[0][1]


@pytest.mark.parametrize(
    ("begun", "claim", "words"),
    [
        (DAY, "entries", "has another date than the observation in it"),
        (-(10**13), "entries", "has another date than the observation in it"),
        (-DAY, "times", "ms before the previous one had ended"),
    ],
)
def test_an_observation_cannot_claim_an_arbitrary_start(
    operator: Operator, authority: Authority, begun: int, claim: str, words: str
) -> None:
    """The last bad observation would end an outage days later, or begin it days before."""
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++---")
    operator.begun_after_end = begun
    operator.observe("-")
    operator.begun_after_end = 0
    operator.observe("++")
    operator.stamp(authority)
    claims = refused(operator.bundle(authority), trusting(authority))
    assert claims[0][0] == claim
    assert words in claims[0][1]


def test_a_clock_that_was_off_is_stated_and_valid(operator: Operator, authority: Authority) -> None:
    operator.clock_error = -3 * HOUR
    record_outage(operator, authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    _, words = verified(path, trusting(authority))["times"]
    assert 10_790_000 < int(words.removesuffix(" ms").rpartition(" ")[2]) < 10_810_000


def test_a_clock_that_was_set_in_between_is_stated_and_valid(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++--")
    operator.step(-2 * HOUR)
    operator.observe("--")
    operator.step(0)
    operator.observe("++")
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    assert (
        "it was set, or MailWatch was stopped, for 14400000 ms" in verified(path, trusting(authority))["times"][1]
    )


def test_a_clock_set_ahead_within_an_outage_makes_it_no_longer(operator: Operator, authority: Authority) -> None:
    """The stock program on a machine whose clock is set by four days: what took seconds is stated in seconds."""
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++--")
    operator.step(4 * DAY)
    operator.observe("--++")
    operator.step(0)
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    outage = json.loads(zipfile.ZipFile(path).read("outage.json"))["outage"]
    assert outage["duration"]["max"] < 60
    assert outage["clock"] == {"stepped": pytest.approx(4 * DAY / 1000, abs=1), "reboots": 0}
    # The clock is as it was before when the tokens are asked for, and the times are shown by that.
    assert "clock_error" not in json.loads(zipfile.ZipFile(path).read("outage.json"))


def test_a_clock_that_was_wrong_at_a_token_only_is_no_error_of_the_times(
    operator: Operator, authority: Authority
) -> None:
    """NTP sets a clock right that was years behind when the token before was asked for."""
    operator.clock_error = -3 * 365 * DAY
    operator.observe("+")
    operator.stamp(authority)
    operator.step(0)
    operator.observe("++----++")
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert "clock_error" not in json.loads(zipfile.ZipFile(path).read("outage.json"))
    assert refused(path, trusting(authority)) == []


def by_the_enclosed_script(path: Path) -> tuple[int, str]:
    with zipfile.ZipFile(path) as opened:
        opened.extract("verify.py", path.parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path.parent / "verify.py"), str(path)], capture_output=True, text=True
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("off", [0, 4 * DAY])
def test_the_monotonic_clock_is_compared_with_the_tokens(
    operator: Operator, authority: Authority, off: int
) -> None:
    """An operator who makes even that clock run by four days more, with the wall clock or without it."""
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++--")
    operator.run_ahead = 4 * DAY
    operator.step(off)
    operator.observe("--++")
    operator.step(0)
    operator.stamp(authority)
    path = operator.bundle(authority)
    claims = refused(path, trusting(authority))
    assert claims[0][0] == "times"
    assert "the clock that nobody can set advanced by" in claims[0][1]
    assert claims[1][0] == "outage"
    assert "longer than the tokens around it allow" in claims[1][1]
    script, result = by_the_enclosed_script(path)
    assert script == 1
    assert "WRONG it lasted no longer than the tokens around it are apart" in result
    with operator.reader() as reader:
        newest = next(reader.entries(kinds=["outage"], descending=True, limit=1))
        case = find_outage_evidence(
            reader, Tokens(operator.folder), operator.store.keys, newest.payload["id"], None
        )
    with pytest.raises(EvidenceError, match="the clocks were wrong"):
        check_within_tokens(case.range, case.record)


def test_the_enclosed_script_reads_the_tokens_themselves(operator: Operator, authority: Authority) -> None:
    """The entry that names the token after the outage lies behind the range."""
    record_outage(operator, authority)
    path = operator.bundle(authority)
    assert by_the_enclosed_script(path)[1].count("it lasted no longer than the tokens around it are apart") == 1
    files = files_of(path)
    proof = json.loads(files["proof.json"])
    proof["tokens"][0]["checkpoint"], proof["tokens"][1]["checkpoint"] = (
        proof["tokens"][1]["checkpoint"],
        proof["tokens"][0]["checkpoint"],
    )
    pack(path, files | {"proof.json": json.dumps(proof).encode()})
    script, result = by_the_enclosed_script(path)
    assert script == 1
    assert "WRONG a token is over its checkpoint" in result


def test_the_first_token_may_come_long_after_the_first_entry(operator: Operator, authority: Authority) -> None:
    """The first report of a new owner begins at entry 0 and ends before the entry that names the token."""
    operator.observe("++----++", dated=operator.clock() - HOUR)
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert json.loads(files_of(path)["proof.json"])["start"]["size"] == 0
    assert refused(path, trusting(authority)) == []


def test_a_clock_error_beyond_ten_minutes_must_be_stated(operator: Operator, authority: Authority) -> None:
    """An observation of 2023, made today with a clock of then: valid only with the error on its first page."""
    operator.clock_error = -3 * HOUR
    record_outage(operator, authority)
    path = operator.bundle(authority)
    files = files_of(path)
    stated = json.loads(files["outage.json"])
    assert stated["clock_error"] == pytest.approx(3 * 3600, abs=2)
    for value in (None, 0, 60.0, -1, "10800", True):
        forged = stated | {"clock_error": value}
        if value is None:
            del forged["clock_error"]
        files["outage.json"] = json.dumps(forged).encode()
        pack(path, files)
        assert "outage" in [claim for claim, _ in refused(path, trusting(authority))], value


def test_a_failure_dated_outside_the_tokens_is_refused(operator: Operator, authority: Authority) -> None:
    """One entry that says that the clock was set by years, and everything after it dated by that."""
    operator.observe("+")
    operator.stamp(authority)
    operator.step(-5 * 365 * DAY)
    operator.observe("++----++")
    operator.step(0)
    operator.stamp(authority)
    path = operator.bundle(authority)
    files = files_of(path)
    stated = json.loads(files["outage.json"])
    # The program says by how much its times are wrong, on the first page too.
    assert stated.pop("clock_error") == pytest.approx(5 * 365 * DAY / 1000, abs=2)
    assert refused(path, trusting(authority)) == []
    # But they cannot be laid beside those of others.
    assert "its clock was off by" in read_member(path, trusting(authority)).reason
    for claimed in ({}, {"clock_error": 3600}):
        files["outage.json"] = json.dumps(stated | claimed).encode()
        pack(path, files)
        (_, detail), *_ = [one for one in refused(path, trusting(authority)) if one[0] == "outage"]
        assert "of which" in detail


def test_self_made_tokens_are_named(operator: Operator, authority: Authority, other: Authority) -> None:
    """One of a trusted authority lends the others nothing."""
    operator.observe("+")
    operator.stamp(authority)
    operator.stamp(other)
    operator.observe("++----++")
    operator.stamp(authority)
    operator.stamp(other)
    path = operator.bundle(authority, other)
    assert refused(path, trusting(authority, other)) == []
    (claim, detail), *_ = refused(path, trusting(authority))
    assert claim == "tokens"
    assert "--trust may be repeated" in detail
    assert "lead only to certificates in the bundle itself" in verified(path, Trust())["tokens"][1]


def under_rules(operator: Operator, authority: Authority, *phases: tuple[int, int, str]) -> None:
    """An observation, a token, and then each phase: `open_after`, `close_after`, and what was observed by them."""
    for number, (open_after, close_after, marks) in enumerate(phases):
        operator.rules = Rules(open_after=open_after, close_after=close_after)
        operator.start()
        if number == 0:
            operator.observe("+")
            operator.stamp(authority)
        operator.observe(marks)
    operator.stamp(authority)


@pytest.mark.parametrize(
    "case",
    [
        "open",
        "from the start",
        "restarted",
        "unicode",
        "long words",
        "no tokens",
        "other rules",
        "open, restarted by other rules",
        "closed by stricter rules",
        "closed by looser rules",
        "opened by looser rules",
        "rules there and back",
        "many observations",
    ],
)
def test_a_good_bundle_is_never_refused(
    tmp_path: Path, operator: Operator, authority: Authority, case: str
) -> None:
    match case:
        case "open":
            record_outage(operator, authority, "++----")
        case "from the start":
            operator.observe("----")
            operator.stamp(authority)
            operator.observe("--++")
            operator.stamp(authority)
        case "restarted":
            operator.observe("+")
            operator.stamp(authority)
            operator.observe("+--")
            operator.entry("node", {"event": "stop"})
            operator.start()
            operator.observe("--?-++")
            operator.stamp(authority)
        case "unicode":
            operator.target = "caselle-è-🜛-‮x\u2028y"
            record_outage(operator, authority)
        case "long words":
            operator.observe("+")
            operator.stamp(authority)
            operator.observe("+----++", detail="\x1b[31m\x00\n" + "è" * 5000)
            operator.stamp(authority)
        case "no tokens":
            operator.observe("++----++")
        case "other rules":
            operator.observe("+")
            operator.stamp(authority)
            operator.rules = Rules(open_after=2, close_after=1, recheck=())
            operator.start()
            operator.observe("+--+")
            operator.stamp(authority)
        case "open, restarted by other rules":
            operator.observe("+")
            operator.stamp(authority)
            operator.observe("+----")
            operator.rules = Rules(open_after=6, close_after=4)
            operator.start()
            operator.observe("--")
            operator.stamp(authority)
        case "closed by stricter rules":
            under_rules(operator, authority, (3, 2, "+---"), (6, 4, "-++-++++"))
        case "closed by looser rules":
            under_rules(operator, authority, (4, 3, "+----"), (2, 1, "-+"))
        case "opened by looser rules":
            under_rules(operator, authority, (5, 4, "+---"), (1, 2, "-++"))
        case "rules there and back":
            under_rules(operator, authority, (3, 2, "+---"), (6, 4, "-+"), (3, 2, "-"), (1, 5, "+++++"))
        case "many observations":
            for _ in range(40):
                operator.observe("+--")
            record_outage(operator, authority, "-" * 60 + "++")
    path = operator.bundle(*[authority] * (case != "no tokens"))
    assert refused(path, trusting(authority)) == []
    script, result = by_the_enclosed_script(path)
    assert script == 0, result


def test_rules_that_no_entry_confirms_open_nothing(operator: Operator, authority: Authority) -> None:
    """Before the first start in the range only the outage's own entries say which rules were in force."""
    under_rules(operator, authority, (5, 4, "+---"), (1, 2, "-++"))
    path = operator.bundle(authority)
    files = files_of(path)
    stated = json.loads(files["outage.json"])
    assert stated["rules_before"] == {"open_after": 5, "close_after": 4, "recheck_ms": [5000, 10000, 20000]}
    for claimed, words in (
        ({"open_after": 1}, "opens unrecorded"),
        ({"open_after": 5.0}, "do not have the form of rules"),
        (None, "outage.json has no rules_before"),
    ):
        rules = None if claimed is None else stated["rules_before"] | claimed
        files["outage.json"] = json.dumps(stated | {"rules_before": rules}).encode()
        pack(path, files)
        assert any(words in detail for _, detail in refused(path, trusting(authority))), claimed
    under_rules(operator, authority, (3, 2, "+---"), (6, 4, "-++-++++"))
    path = operator.bundle(authority)
    files = files_of(path)
    stated = json.loads(files["outage.json"])
    files["outage.json"] = json.dumps(stated | {"rules_before": stated["rules"]}).encode()
    pack(path, files)
    assert any("other rules than were in force" in detail for _, detail in refused(path, trusting(authority)))


class _GrowingReader(Reader):
    """A reader of a ledger that `grow` extends before each query, as the monitor may."""

    grow: Callable[[], None] = staticmethod(lambda: None)

    def entries(self, **wanted: Any) -> Iterator[Entry]:
        self.grow()
        return super().entries(**wanted)

    def checkpoint(self, *, at_most: int | None = None, at_least: int | None = None) -> CheckpointRow | None:
        self.grow()
        return super().checkpoint(at_most=at_most, at_least=at_least)

    def last_checkpoint(self) -> CheckpointRow | None:
        self.grow()
        return super().last_checkpoint()


@pytest.mark.parametrize("steps", ["-!", "--!", "---!", "?!", "++!", "++-!", "---++!", "----++!"])
def test_an_open_outage_is_evidence_while_the_ledger_grows(operator: Operator, steps: str) -> None:
    """Each query finds one observation more, or a checkpoint (!)."""
    operator.observe("++----")
    operator.store.checkpoint()
    operator.observe("-")
    reader, later = _GrowingReader.open(operator.folder), cycle(steps)

    def grow() -> None:
        step = next(later)
        operator.store.checkpoint() if step == "!" else operator.observe(step)

    (opened,) = reader.entries(kinds=["outage"])
    reader.grow = grow
    case = find_outage_evidence(reader, Tokens(operator.folder), operator.store.keys, opened.payload["id"], None)
    path = operator.folder / "growing.zip"
    with path.open("wb") as out:
        write_outage_bundle(out, reader, operator.store.keys, case, "en", [])
    assert case.range.end.size < reader.size()
    reader.close()
    assert refused(path, Trust()) == []


def test_an_open_outage_is_stated_as_of_the_newest_checkpoint(operator: Operator) -> None:
    operator.observe("++---")
    path = operator.bundle()
    operator.observe("--")
    with operator.reader() as reader:
        (opened,) = reader.entries(kinds=["outage"])
        wanted = reader, Tokens(operator.folder), operator.store.keys, opened.payload["id"], None
        case = find_outage_evidence(*wanted)
        with path.open("wb") as out:
            write_outage_bundle(out, reader, operator.store.keys, case, "en", [])
        assert (case.record.down, case.range.end.size < case.record.last_index + 3) == (3, True)
        assert refused(path, Trust()) == []
        operator.observe("++")
        # An outage that has ended is not stated as if it lasted: first its end is signed.
        with pytest.raises(EvidenceError, match="is not signed yet"):
            find_outage_evidence(*wanted)


def test_a_hostile_name_discloses_nothing_of_its_own(
    operator: Operator,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line a claim: no line feed, markup or command to the terminal comes from the bundle."""
    operator.target = "x\nvalid  outage  [bold]\x1b[2Jmade up"
    record_outage(operator, authority)
    path = operator.bundle(authority)
    claims = verify(path, trusting(authority))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["verify", str(path), "--trust", str(authority.chain)]) == 0
    lines = capsys.readouterr().out.splitlines()
    last = next(number for number, line in enumerate(lines) if line.startswith("The bundle is valid"))
    shown, caveats = lines[: len(claims)], lines[len(claims) : last]
    assert all(line.startswith(("valid  ", "note   ")) for line in shown)
    assert [line.split()[1] for line in shown] == [claim.claim.split()[0] for claim in claims]
    assert [line.split()[:2] for line in caveats] == [
        ["note", "pages"],
        ["caveat", "local_server"],
        ["caveat", "guard_off"],
    ]
    assert len(lines) == last + 2
    assert "x\\nvalid  outage  [bold]\\x1b[2Jmade up" in lines[8]


def test_each_authority_alone_bounds_the_case(operator: Operator, authority: Authority, other: Authority) -> None:
    """One that is asked daily is older than the one that is asked hourly, on both sides."""
    operator.observe("+")
    operator.stamp(other)
    operator.observe("++")
    operator.stamp(authority)
    operator.observe("++----++")
    operator.stamp(authority)
    operator.observe("++")
    operator.stamp(other)
    path = operator.bundle(authority, other)
    assert refused(path, trusting(authority, other)) == []
    with zipfile.ZipFile(path) as opened:
        proof, stated = (json.loads(opened.read(f"{name}.json")) for name in ("proof", "outage"))
    first, last = stated["outage"]["ledger"]["first"], stated["outage"]["ledger"]["last"]
    sides = {(one["authority"], one["entry"] < first, one["checkpoint"] > last) for one in proof["tokens"]}
    assert sides == {(one.folder.name, early, not early) for one in (authority, other) for early in (True, False)}


def test_a_token_of_an_unknown_authority_does_not_affect_known_ones(
    operator: Operator, authority: Authority, other: Authority
) -> None:
    """Its certificate is not in the config: a verifier of the bundle could not check it."""
    operator.observe("+")
    operator.stamp(authority)
    operator.stamp(other, distrust="its signature does not lead to a trusted authority")
    operator.observe("++----++")
    operator.stamp(other, distrust="its signature does not lead to a trusted authority")
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    assert "2 by Test signer" in verified(path, Trust())["tokens"][1]


def test_a_token_whose_file_is_gone_is_replaced_by_the_next_one(operator: Operator, authority: Authority) -> None:
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+")
    operator.stamp(authority).unlink()
    operator.observe("++----++")
    operator.stamp(authority).unlink()
    operator.stamp(authority)
    path = operator.bundle(authority)
    assert refused(path, trusting(authority)) == []
    times = json.loads(zipfile.ZipFile(path).read("outage.json"))["outside_times"]
    assert None not in times.values()

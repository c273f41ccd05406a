"""Bundles of several vantage points as one case: counted right, nobody twice, and contradictions reported."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import (
    at_least_k,
    coverage_steps,
    group_channels,
    joint_statement,
    partition_members,
)
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.verify import Trust
from mailwatch.store import Store, StoreDamagedError
from mailwatch.times import Window, intersect_windows, merge_windows, parse_rfc3339, total_length
from tests.helpers import ledger_factory as ledgers
from tests.helpers.bundle_mutations import manifested
from tests.helpers.command import mailwatch
from tests.helpers.joint_parts import END, START, down, part_of, without_an_observation
from tests.helpers.ledger_factory import HOUR, MINUTE
from tests.helpers.pdf import text_of
from tests.helpers.vector_cases import zip_of
from tests.helpers.vector_ledger import VectorLedger

SPANS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair))), max_size=6
)
POINTS = st.lists(SPANS, max_size=7)


def covers(spans: list[Window], at: float) -> bool:
    return any(start <= at < end for start, end in spans)


@given(POINTS)
def test_the_coverage_steps_match_a_count_by_hand(points: list[list[Window]]) -> None:
    levels = at_least_k(coverage_steps(points), len(points))
    assert len(levels) == len(points)
    for at in range(31):
        count = sum(covers(spans, at) for spans in points)
        assert [covers(level, at) for level in levels] == [k < count for k in range(len(points))]
    for level in levels:
        assert tuple(level) == merge_windows(level)


@given(SPANS, SPANS)
def test_spans_are_united_and_intersected(first: list[Window], second: list[Window]) -> None:
    a, b = merge_windows(first), merge_windows(second)
    both = intersect_windows(a, b)
    assert [covers(both, at) for at in range(31)] == [covers(first, at) and covers(second, at) for at in range(31)]
    assert total_length(a) == sum(covers(first, at) for at in range(31))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    return [
        part_of(folder / "a", down(2, 6), "home-a"),
        part_of(folder / "b", down(4, 9), "home-b"),
        part_of(folder / "c", down(99, 99), "home-c"),
    ]


def joint(paths: list[Path]) -> dict[str, Any]:
    members, left_out = partition_members(read_member(path, Trust()) for path in paths)
    return joint_statement(group_channels(members), members, left_out)


def times(statement: dict[str, Any]) -> list[list[float]]:
    """Hours since the start."""
    return [[round((parse_rfc3339(at) - START) / HOUR, 1) for at in pair] for pair in statement["times"]]


def test_at_least_k_of_three(three: list[Path]) -> None:
    statement = joint(three)
    assert statement["left_out"] == []
    (channel,) = statement["groups"]
    assert (channel["provider"], channel["kind"], len(channel["vantage_points"])) == ("libero", "imap", 3)
    one, two, all_of_them = channel["at_least"]
    assert times(one["surely"]) == [[2.0, 9.0]]
    assert times(two["surely"]) == [[4.0, 6.0]]
    assert all_of_them["possibly"] == {"seconds": 0, "times": []}
    # From the last bad observation's start to the first one's end, and from the good ones around them.
    assert two["surely"]["seconds"] == 2 * 3600 - 60 - 0.2
    assert two["possibly"]["seconds"] == 2 * 3600 + 60 + 0.2
    assert len(channel["outages"]) == 2
    assert "a@example.org" not in json.dumps(statement)


def test_a_vantage_point_that_observed_up_meanwhile_is_named(three: list[Path]) -> None:
    found = joint(three)["groups"][0]["contradictions"]
    reported = {
        (one["vantage_point"], *times({"times": [[one["from"], one["to"]]]})[0], one["down"]) for one in found
    }
    assert reported == {("home-a", 6.0, 9.0, 1), ("home-b", 2.0, 4.0, 1), ("home-c", 2.0, 9.0, 2)}


def test_the_order_of_the_bundles_changes_nothing(three: list[Path]) -> None:
    assert joint(three) == joint(three[::-1])


def test_two_bundles_of_one_outage_count_alike_in_any_order(tmp_path: Path) -> None:
    """One is made while the outage is open, one afterwards; `verify` takes them by their SHA-256."""
    paths = []
    with VectorLedger.opened(tmp_path / "ledger", "twice") as ledger:
        for number, marks in enumerate(("+---", "-++")):
            ledger.observe(marks)
            paths.append(tmp_path / f"{number}.zip")
            paths[-1].write_bytes(zip_of(manifested(ledger.outage(), ledger.key)))
    assert joint(paths) == joint(paths[::-1])
    assert [one["state"] for one in joint(paths)["groups"][0]["outages"]] == ["closed"]


def test_a_ledger_counts_once_however_many_bundles_are_of_it(three: list[Path], tmp_path: Path) -> None:
    half = part_of(three[0].with_suffix("").with_suffix(""), down(2, 6), "home-a", start=START + 3 * HOUR)
    again = tmp_path / "again.zip"
    shutil.copy(three[0], again)
    statement = joint([*three, half, again])
    assert len(statement["members"]) == 4
    assert [one["reason"] for one in statement["left_out"]] == [
        f"the same range of the same ledger as {three[0].name}"
    ]
    del statement["members"], statement["left_out"]
    first = joint(three)
    assert statement["groups"] == first["groups"]


@pytest.mark.sqlite
def test_a_ledger_with_two_histories_is_left_out(tmp_path: Path, three: list[Path]) -> None:
    first = part_of(tmp_path / "x", down(1, 3), "home-x")
    # MailWatch itself begins no second ledger under the keys of another.
    Store.open(tmp_path / "y").close()
    for key in ("ledger.pem", "targets.key"):
        shutil.copy(tmp_path / "x" / "keys" / key, tmp_path / "y" / "keys")
    patterns = {"a@example.org": down(1, 8)}
    ledgers.write(tmp_path / "y", patterns, START, END, provider="libero", vantage="home-x", every=30).close()
    second = part_of(tmp_path / "y", down(1, 8), "home-x")
    statement = joint([first, second, *three])
    assert {one["reason"] for one in statement["left_out"]} == {
        f"its ledger signs two different histories: entry 1 of {first.name} and {second.name} is not the same"
    }
    assert len(statement["members"]) == 3


@pytest.mark.parametrize("size", [3, 64])
def test_a_bundle_does_not_begin_at_a_checkpoint_whose_subtrees_are_damaged(tmp_path: Path, size: int) -> None:
    part_of(tmp_path / "x", down(2, 4), "home-x")
    with contextlib.closing(sqlite3.connect(tmp_path / "x" / "mailwatch.sqlite")) as connection:
        connection.execute("DROP TRIGGER checkpoints_no_update")
        connection.execute(f"UPDATE checkpoints SET hashes = zeroblob({size})")
        connection.commit()
    with pytest.raises(StoreDamagedError, match="the subtrees kept with checkpoint"):
        part_of(tmp_path / "x", down(2, 4), "home-x", start=START + 6 * HOUR)


def test_providers_are_not_mixed(tmp_path: Path, three: list[Path]) -> None:
    other = part_of(tmp_path / "o", down(2, 6), "home-o", provider="other")
    unnamed = part_of(tmp_path / "u", down(2, 6), "home-u", provider="")
    statement = joint([*three, other, unnamed])
    assert [len(one["vantage_points"]) for one in statement["groups"]] == [3, 1, 1]


def test_a_bad_bundle_is_named(three: list[Path], tmp_path: Path) -> None:
    statement = joint([*three[:2], without_an_observation(three[2], tmp_path / "bad.zip")])
    assert [one["file"] for one in statement["left_out"]] == ["bad.zip"]
    assert statement["left_out"][0]["reason"] == "not valid: entries"
    assert len(statement["groups"][0]["vantage_points"]) == 2


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return mailwatch("merge", *words)


def test_merge_on_the_command_line(three: list[Path], tmp_path: Path) -> None:
    bad = without_an_observation(three[2], tmp_path / "bad.zip")
    refused = run(*three, bad, "-o", tmp_path / "no.zip")
    assert refused.returncode == 1
    assert "bad.zip left out: entries:" in refused.stderr
    assert "--keep-going" in refused.stderr
    assert not (tmp_path / "no.zip").exists()
    texts = {}
    for lang in ("en", "it"):
        made = run(*three, bad, three[0], "--keep-going", "-o", tmp_path / f"{lang}.zip", "--lang", lang)
        assert made.returncode == 0, made.stderr
        assert "3 bundles of 3 vantage points" in made.stdout
        shutil.unpack_archive(tmp_path / f"{lang}.zip", tmp_path / lang)
        texts[lang] = text_of(tmp_path / lang / "report.pdf")
        declared = (tmp_path / lang / "report.pdf").read_bytes()
        assert re.findall(rb"pdfaid:(\w+)>(\w+)<", declared) == [(b"part", b"3"), (b"conformance", b"B")]
    assert "2 of 3" in texts["en"]
    assert "2 su 3" in texts["it"]
    # Different keys do not make different people: nothing on the page says that they are independent.
    assert "independent" not in texts["en"].replace("How independent they are", "")
    assert "indipendenti" not in texts["it"].replace("Quanto sono indipendenti", "")
    assert "electronic mail · Vantage points: 3 page 1 of" in texts["en"]
    assert "posta elettronica · Punti di osservazione: 3 pagina 1 di" in texts["it"]
    assert "bad.zip" in texts["en"]
    stated = {lang: json.loads((tmp_path / lang / "joint.json").read_bytes()) for lang in ("en", "it")}
    # Only how the report was made differs.
    assert [stated[lang].pop("report")["language"] for lang in ("en", "it")] == ["en", "it"]
    assert stated["en"] == stated["it"]
    listed = (tmp_path / "en" / "members.sha256").read_text()
    assert sorted(listed.split()[1::2]) == sorted(path.name for path in three)
    subprocess.run(["pdfdetach", "-saveall", "-o", tmp_path, tmp_path / "en" / "report.pdf"], check=True)
    assert (tmp_path / "joint.json").read_bytes() == (tmp_path / "en" / "joint.json").read_bytes()


def test_members_can_be_enclosed(three: list[Path], tmp_path: Path) -> None:
    made = run(*three[:2], "--enclose", "-o", tmp_path / "joint.zip")
    assert made.returncode == 0, made.stderr
    shutil.unpack_archive(tmp_path / "joint.zip", tmp_path / "joint")
    checked = subprocess.run(
        ["sha256sum", "-c", "members.sha256"], cwd=tmp_path / "joint", capture_output=True, text=True, check=False
    )
    assert checked.stdout.count(": OK") == 2, checked.stderr


def test_wrong_use_exits_with_2(tmp_path: Path) -> None:
    assert run(tmp_path / "none.zip", "-o", tmp_path / "o.zip").returncode == 2
    assert run("-o", tmp_path / "o.zip").returncode == 2


def test_an_outage_bundle_is_a_member_too(bundle: Path, trust: Trust) -> None:
    member: JointMember = read_member(bundle, trust)
    assert member.reason == ""
    (channel,) = member.channels
    ((begin, end),) = channel.surely
    assert channel.possibly[0][0] < begin < end < channel.possibly[0][1]
    # It was seen to work before and after.
    assert channel.up[0][0] < begin
    assert channel.up[-1][1] > end


def test_both_languages_have_the_same_words_and_places() -> None:
    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [shape(inner) for inner in value]
        return sorted(set(re.findall(r"{\w*}", str(value))))

    assert shape(texts("it", "joint").loaded) == shape(texts("en", "joint").loaded)


def test_a_count_that_falls_together_is_never_drawn_higher() -> None:
    from mailwatch.evidence.report.joint import MAX_POINTS, _chart_points

    counted = [(at * MINUTE, at % 7) for at in range(5 * MAX_POINTS)]
    drawn = _chart_points(counted, 0, 5 * MAX_POINTS * MINUTE, min)
    assert len(drawn) <= MAX_POINTS + 2
    for place, count in drawn[:-1]:
        assert count <= max(c for at, c in counted if at / (5 * MAX_POINTS * MINUTE) >= place - 1e-9)

"""`mailwatch verify` on a joint zip: its members, what follows from them, and zips that lie."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.joint.bundle import write_joint
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.joint.verify import UNCHECKED_PREFIX, check_joint
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.verify import Claim, Trust
from tests.helpers.command import mailwatch
from tests.helpers.joint_parts import down, part_of, without_an_observation


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("joint")
    return [part_of(folder / "a", down(2, 6), "home-a"), part_of(folder / "b", down(4, 9), "home-b")]


def run(verb: str, *words: object) -> subprocess.CompletedProcess[str]:
    return mailwatch(verb, *words)


@pytest.fixture(scope="module")
def enclosed(bundles: list[Path]) -> Path:
    path = bundles[0].parent / "enclosed.zip"
    assert run("merge", *bundles, "--enclose", "-o", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def alone(bundles: list[Path]) -> Path:
    path = bundles[0].parent / "alone.zip"
    assert run("merge", *bundles, "-o", path).returncode == 0
    return path


def failed(claims: list[Claim]) -> list[tuple[str, str]]:
    return [(claim.claim, claim.detail) for claim in claims if not claim.valid]


def test_enclosed_members_are_checked_and_joint_json_is_computed_again(enclosed: Path) -> None:
    result = run("verify", enclosed)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("a valid bundle") == 2
    assert "joint.json follows from its 2 bundles of 2 vantage points" in " ".join(result.stdout.split())
    reported = json.loads(run("verify", enclosed, "--json").stdout)
    assert reported["valid"] is True
    assert [one["claim"].split()[0] for one in reported["claims"]] == [
        "archive", "members", "report", "member", "member", "joint", "merger", "pages",
    ]  # fmt: skip


def test_members_that_are_not_enclosed_are_asked_for(alone: Path, bundles: list[Path]) -> None:
    result = run("verify", alone)
    assert result.returncode == 1
    words = " ".join(result.stdout.split())
    assert "not checked joint" in words
    assert "2 of its 2 bundles are missing" in words
    assert "sha256sum -c members.sha256" in words
    assert "No errors found, but some claims could not be checked." in words
    assert "NOT" not in words
    half = check_joint(alone, Trust(), bundles[:1])
    assert [claim for claim, detail in failed(half)] == ["joint"]
    assert failed(half)[0][1].startswith(f"{UNCHECKED_PREFIX}1 of its 2 bundles")
    whole = run("verify", alone, "--member", bundles[0], "--member", bundles[1])
    assert whole.returncode == 0, whole.stdout


def test_another_bundle_is_no_member(alone: Path, bundles: list[Path], tmp_path: Path) -> None:
    bad = without_an_observation(bundles[0], tmp_path / "bad.zip")
    assert ("bad.zip is no member of it") in dict(failed(check_joint(alone, Trust(), [bad, bundles[1]]))).values()
    result = run("verify", alone, "--member", bad)
    assert (result.returncode, "NOT valid" in result.stdout) == (1, True)
    assert run("verify", bundles[0], "--member", bundles[1]).returncode == 2
    assert run("verify", alone, "--member", tmp_path / "none.zip").returncode == 2


def rewritten(path: Path, made: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """The zip with other files; what is packed stays stored as it was."""
    with zipfile.ZipFile(path) as opened, zipfile.ZipFile(made, "w") as out:
        for info in opened.infolist():
            other = change(info.filename, opened.read(info))
            if other is not None:
                out.writestr(other[0], other[1], info.compress_type)
    return made


def test_each_false_statement_is_found(enclosed: Path, bundles: list[Path], tmp_path: Path) -> None:
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in bundles)
    first = f"members/{digests[0]}.zip"
    bad = without_an_observation(bundles[0], tmp_path / "bad").read_bytes()
    lies: dict[str, Callable[[str, bytes], tuple[str, bytes] | None]] = {
        "archive": lambda name, raw: (name.replace("members.sha256", "members.txt"), raw),
        "joint": lambda name, raw: (name, raw.replace(b"members/", b"member/")),
        f"member {digests[0][:12]}": lambda name, raw: (name, bad if name == first else raw),
    }
    for claim, lie in lies.items():
        found = failed(check_joint(rewritten(enclosed, tmp_path / "lie.zip", lie), Trust()))
        assert found[0][0] == claim, found
    missing = rewritten(enclosed, tmp_path / "less.zip", lambda name, raw: None if name == first else (name, raw))
    assert "is missing, though others are enclosed" in failed(check_joint(missing, Trust()))[0][1]


def stated_by(bundles: list[Path], made: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A joint zip of which joint.json and the file attached to its report say something else."""
    read_ones = [read_member(path, Trust()) for path in bundles]
    members, left_out = partition_members(read_ones)
    groups = group_channels(members)
    stated = joint_statement(groups, members, left_out, Rendering("en", ZoneInfo("UTC"), "").as_json())
    change(stated)
    text = pretty_json(stated)
    files = [
        File("joint.json", text),
        File("report.pdf", joint_report(groups, stated, text, "en", ZoneInfo("UTC"))),
    ]
    with made.open("wb") as out:
        write_joint(out, files, list(zip(read_ones, bundles, strict=True)), enclose=False)
    return made


@pytest.mark.slow
def test_a_joint_json_that_claims_more_than_its_members_is_refused(bundles: list[Path], tmp_path: Path) -> None:
    """A forger of joint.json attaches the same to the report: only the members show it."""

    def longer(statement: dict[str, Any]) -> None:
        statement["groups"][0]["at_least"][0]["surely"]["seconds"] += 60

    def more(statement: dict[str, Any]) -> None:
        statement["all"] = "up"

    unchanged = stated_by(bundles, tmp_path / "true.zip", lambda _: None)
    assert failed(check_joint(unchanged, Trust(), bundles)) == []
    for change, name in ((longer, "groups"), (more, "all")):
        made = stated_by(bundles, tmp_path / f"{name}.zip", change)
        assert failed(check_joint(made, Trust(), bundles)) == [
            ("joint", f"{name} does not follow from the members")
        ]


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        (b"[]", "not a JSON object"),
        (b'{"members": []}', "lists no members"),
        (b'{"members": [7]}', "without a file and a SHA-256"),
        (b'{"members": [{"file": "x", "sha256": "../../x"}]}', "whose SHA-256 is none"),
        (b'{"members": [{"file": "x", "sha256": "%s"}]}' % (b"a" * 64), "what was left out"),
        (b"[" * 100_000, "would unpack to"),
        (b"[" * 4000, "not JSON"),
    ],
)
def test_a_joint_json_made_by_anyone_is_refused(
    stated: bytes, complaint: str, alone: Path, tmp_path: Path
) -> None:
    made = rewritten(
        alone, tmp_path / "odd.zip", lambda name, raw: (name, stated if name == "joint.json" else raw)
    )
    ((_, detail),) = failed(check_joint(made, Trust()))
    assert complaint in detail


def test_a_member_that_is_packed_twice_is_not_unpacked(enclosed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(enclosed) as opened, zipfile.ZipFile(tmp_path / "twice.zip", "w") as out:
        for name in opened.namelist():
            out.writestr(name, opened.read(name), zipfile.ZIP_DEFLATED)
    found = failed(check_joint(tmp_path / "twice.zip", Trust()))
    assert [detail.endswith("is packed twice") for _, detail in found[:2]] == [True, True]
    assert list(tmp_path.glob("mailwatch-joint-*")) == []

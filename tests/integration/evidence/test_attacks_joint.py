"""Attacks on joint cases, by who holds a key of a member and by who holds none: /docs/explanation/evidence.md.

The ids are those of the review of the evidence: B1, B2, D1 to D5; A12 is in test_pages.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.cli import main
from mailwatch.evidence.bundle import manifest_files, pretty_json
from mailwatch.evidence.joint.forks import FORKED, forked_ledgers, shared_machines
from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import counted_as, group_channels, known_as, partition_members
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.pages.compare import examine_with_pages
from mailwatch.evidence.pages.joint import verify_joint_with_pages
from mailwatch.evidence.report.formatting import texts
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.report.typesetting import compile_pdf
from mailwatch.evidence.stated import ServiceJson
from mailwatch.evidence.verify import Trust, examine
from mailwatch.ledger.checkpoint import origin_of, verifier_key
from mailwatch.monotonic import Origin
from mailwatch.store import Reader, Store, Tokens, begin_successor, queries
from mailwatch.store.keys import load_keys
from mailwatch.times import DAY_MS
from tests.helpers import ledger_factory as ledgers
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.bundle_mutations import manifested
from tests.helpers.command import mailwatch
from tests.helpers.forged_ledger import Change, Payload, forge, with_interval
from tests.helpers.joint_parts import END, START, down, part_of, without_an_observation
from tests.helpers.ledger_factory import HOUR, MINUTE
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.helpers.pdf import pages_of, text_of
from tests.helpers.vector_cases import zip_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def honest(folder: Path) -> Path:
    return part_of(folder / "a", down(2, 6), "home-a")


@pytest.fixture(scope="module")
def other(folder: Path) -> Path:
    return part_of(folder / "b", down(4, 9), "home-b")


def members(*paths: Path) -> list[JointMember]:
    read = [read_member(path, Trust()) for path in paths]
    assert [one.reason for one in read] == [""] * len(paths)
    return read


def reasons(*paths: Path) -> list[str]:
    _, left_out = partition_members(members(*paths))
    return [reason for _, reason in left_out]


def salted(_: int, payload: Payload) -> Payload:
    """The same salt over another payload."""
    return payload | {"attempts": []} if payload.get("outcome") == "up" else payload


def phase_of(index: int) -> Change:
    """Another time of a phase in one observation, on which nothing in the statement depends."""

    def change(at: int, payload: Payload) -> Payload:
        if at != index:
            return payload
        (attempt,) = payload["attempts"]
        return payload | {"attempts": [attempt | {"phases": {"connect": 30_000}}]}

    return change


@pytest.mark.parametrize("sparse", [False, True], ids=["all checkpoints", "one checkpoint"])
def test_d1_one_ledger_signed_by_two_keys_is_no_second_vantage_point(
    honest: Path, other: Path, tmp_path: Path, sparse: bool
) -> None:
    copies = [
        forge(honest, tmp_path / f"{at}.zip", Ed25519PrivateKey.generate(), sparse=sparse) for at in range(2)
    ]
    fine, left_out = partition_members(members(honest, *copies, other))
    assert [one.name for one in fine] == [other.name]
    assert len(left_out) == 3
    assert all("one of two ledgers is a copy" in reason for _, reason in left_out)
    result = mailwatch("merge", honest, *copies, "-o", tmp_path / "joint.zip")
    assert result.returncode == 1
    assert "have an entry in common, which two ledgers cannot" in " ".join(result.stderr.split())


def test_d1_other_payloads_under_the_same_salts_are_a_copy_too(honest: Path, tmp_path: Path) -> None:
    copy = forge(honest, tmp_path / "copy.zip", Ed25519PrivateKey.generate(), salted)
    assert all("is a copy" in reason for reason in reasons(honest, copy))


def test_d2_two_ledgers_of_one_machine_are_named(tmp_path: Path, honest: Path, other: Path) -> None:
    """Both were written in this process. A third was written on another machine."""
    with patch("mailwatch.monotonic.origin", lambda: Origin("ab" * 8, "cd" * 8)):
        far = part_of(tmp_path / "c", down(1, 2), "home-c")
    read = members(honest, other, far)
    assert shared_machines(read) == [sorted((read[0].ledger, read[1].ledger))]


@pytest.fixture(scope="module")
def early(folder: Path, honest: Path) -> Path:
    """The first half of the honest ledger, which ends at a checkpoint that the forged ones do not sign."""
    return part_of(folder / "a", down(2, 6), "home-a", start=START + HOUR, end=START + 6 * HOUR)


def test_d3_a_fork_is_found_where_no_checkpoints_meet(honest: Path, early: Path, tmp_path: Path) -> None:
    key = load_keys(honest.parent / "a").private
    forked = forge(honest, tmp_path / "forked.zip", key, phase_of(50), sparse=True)
    first, second = members(early, forked)
    assert first.ledger == second.ledger
    assert not first.signed.keys() & second.signed.keys()
    found = reasons(early, forked)
    assert found == [f"{FORKED}: entry 50 of {early.name} and forked.zip is not the same"] * 2
    assert reasons(forked, early) == [f"{FORKED}: entry 50 of {early.name} and forked.zip is not the same"] * 2
    same = forge(honest, tmp_path / "same.zip", key, sparse=True)
    assert reasons(early, same) == []


@pytest.mark.sqlite
def test_d3_a_fork_before_the_range_is_found_by_the_subtrees_there(tmp_path: Path, honest: Path) -> None:
    Store.open(tmp_path / "y").close()
    for name in ("ledger.pem", "targets.key"):
        (tmp_path / "y" / "keys" / name).write_bytes((honest.parent / "a" / "keys" / name).read_bytes())
    patterns = {"a@example.org": down(2, 6)}
    ledgers.write(tmp_path / "y", patterns, START, END, provider="libero", vantage="home-a", every=30).close()
    late = part_of(tmp_path / "y", down(2, 6), "home-a", start=START + 11 * HOUR + 30 * MINUTE)
    before = part_of(honest.parent / "a", down(2, 6), "home-a", start=START + 2 * HOUR, end=START + 9 * HOUR)
    first, second = members(before, late)
    # The subtree of the first 512 entries stands before the later range, and its end is in the earlier one.
    assert first.first < 512 < first.end < second.first
    assert list(forked_ledgers([first, second])) == [first.ledger]
    assert (
        reasons(before, late)
        == [f"{FORKED}: {before.name} and {late.name} differ before entry {second.first}"] * 2
    )


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "operator")
    try:
        yield Operator(store, tmp_path / "operator")
    finally:
        store.close()


def test_d4_an_outage_dated_back_by_years_does_not_count(operator: Operator, tmp_path: Path) -> None:
    """The clock of the machine is four years behind, and a true authority stamps what is recorded."""
    authority = quiet(tmp_path / "authority")
    operator.clock_error = -1400 * DAY_MS
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("++----++")
    operator.stamp(authority)
    read = read_member(operator.bundle(authority), trusting(authority))
    assert read.failed_claim == "times"
    fine, left_out = partition_members([read])
    assert (fine, len(left_out)) == ([], 1)


def test_d5_names_that_differ_in_case_and_blanks_are_one_provider(honest: Path, tmp_path: Path) -> None:
    spelled = part_of(tmp_path / "c", down(3, 7), "home-c", provider=" LIBERO")
    (group,) = group_channels(members(honest, spelled))
    assert (group.provider, len(group.views), group.peak) == ("libero", 2, 2)


def test_d5_an_interval_that_is_none_hides_no_contradiction(honest: Path, other: Path, tmp_path: Path) -> None:
    """Bundles from before 2026-11 have an interval that no entry proves."""
    key = load_keys(other.parent / "b").private
    lied = forge(other, tmp_path / "lied.zip", key, restate=with_interval(other, 0.001))
    read = read_member(lied, Trust())
    assert read.reason == "period: its observations are 60 s apart, not 0.001 s as it states"
    true = forge(other, tmp_path / "true.zip", key, restate=with_interval(other, 60.0))
    (group,) = group_channels(members(honest, true))
    assert len(group.contradictions) == 2


def test_d5_nor_does_one_on_record_that_is_none(tmp_path: Path) -> None:
    lied = read_member(part_of(tmp_path / "l", down(13, 14), "l", recorded_interval=1), Trust())
    assert lied.reason == "period: its observations are further apart than the intervals on record allow"
    true = read_member(part_of(tmp_path / "t", down(13, 14), "t", recorded_interval=MINUTE), Trust())
    assert true.reason == ""


def test_a_member_whose_pages_are_not_those_of_its_entries_is_left_out(
    operator: Operator,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Painted anew and signed again by the owner's own key: alone it is not valid, so it is not in a joint zip."""
    operator.observe("+----++")
    case, painted = operator.bundle(report="en"), tmp_path / "painted.zip"
    files = files_of(case)
    files["report.pdf"] = forged_pages(files["outage.json"], "outage.json")
    painted.write_bytes(zip_of(manifested(files, operator.store.keys.private)))
    assert read_member(painted, Trust(), examine_with_pages).failed_claim == "pages"
    made = tmp_path / "joint.zip"
    merge = ["merge", str(painted), str(other), "--enclose", "-o", str(made), "--lang", "it"]
    assert main(merge) == 1
    assert "painted.zip left out: pages: report.pdf is not the one" in capsys.readouterr().err
    # Another program may have merged it.
    monkeypatch.setattr("mailwatch.cli.merge.examine_with_pages", examine)
    assert main(merge) == 0
    found = [claim for claim in verify_joint_with_pages(made, Trust()).claims if not claim.valid]
    assert "painted.zip: pages: report.pdf is not the one" in found[0].detail


def packed(path: Path, files: Files) -> Path:
    """Write a joint zip as `merge` does: members are stored, the rest is compressed."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            how = zipfile.ZIP_STORED if name.endswith(".zip") else zipfile.ZIP_DEFLATED
            made.writestr(name, content, how)
    return path


@pytest.fixture(scope="module")
def key_file(honest: Path) -> Path:
    return honest.parent / "a" / "keys" / "ledger.pem"


@pytest.fixture(scope="module")
def merged(honest: Path, other: Path, key_file: Path) -> Path:
    """A joint zip of two members and one that was left out, signed by the first."""
    path, bad = honest.parent / "merged.zip", without_an_observation(other, honest.parent / "bad.zip")
    words = ("--keep-going", "--enclose", "--key", key_file, "--lang", "it", "-o", path)
    result = mailwatch("merge", honest, other, bad, *words)
    assert result.returncode == 0, result.stderr
    assert "signed by mailwatch/" in result.stdout
    return path


def refused(path: Path, trust: Trust | None = None) -> dict[str, str]:
    return {
        one.claim: one.detail for one in verify_joint_with_pages(path, trust or Trust()).claims if not one.valid
    }


def test_who_merged_is_named_and_the_pages_are_made_again(merged: Path, honest: Path) -> None:
    claims = {one.claim: one for one in verify_joint_with_pages(merged, Trust()).claims}
    notes = [one.detail for one in claims.values() if not one.valid or one.note]
    # Of the members only that they state no report.
    assert [one for one in notes if "does not state how its report was made" not in one] == []
    assert "the ledger of home-a" in claims["merger"].detail
    assert claims["pages"].detail.endswith("is the same to the byte")
    own = (honest.parent / "a" / "keys" / "ledger.pub").read_text().strip()
    other = (honest.parent / "b" / "keys" / "ledger.pub").read_text().strip()
    assert refused(merged, Trust({own, other})) == {}
    assert "merger" in refused(merged, Trust({other}))


def test_the_pages_of_a_joint_zip_do_not_depend_on_who_makes_them_again(merged: Path, tmp_path: Path) -> None:
    elsewhere = {**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(tmp_path)}
    result = mailwatch("verify", merged, "--json", env=elsewhere)
    (*_, pages) = json.loads(result.stdout)["claims"]
    assert (pages["claim"], pages["status"]) == ("pages", "valid"), pages


def forged_pages(statement: bytes, name: str = "joint.json") -> bytes:
    """9000 of 9000 vantage points, with the true statement attached."""
    template = b'#set document(title: "x")\n9000 su 9000 punti, 31 giorni\n'
    template += b'#pdf.attach("%s", bytes(sys.inputs.statement), relationship: "source", ' % name.encode()
    template += b'mime-type: "application/json", description: "x")'
    return compile_pdf(template, "/", {}, statement=statement.decode()) + b"\n"


def signed_by(files: Files, key: Ed25519PrivateKey) -> Files:
    """The files, signed by anyone who has a key."""
    public = key.public_key()
    left = {name: content for name, content in files.items() if not name.startswith("manifest.")}
    left["keys/merger.pub"] = f"{verifier_key(origin_of(public), public)}\n".encode()
    digests: dict[str, dict[str, str | int]] = {
        name: {"sha256": sha256(raw).hexdigest(), "size": len(raw)} for name, raw in left.items()
    }
    return left | {file.name: file.content for file in manifest_files(digests, key)}


SIGNATURE = ("manifest.json", "manifest.sig", "keys/merger.pub")


def unsigned(files: Files) -> Files:
    return {name: content for name, content in files.items() if name not in SIGNATURE}


def test_b1_other_pages_are_refused_signed_or_not(merged: Path, tmp_path: Path) -> None:
    files = files_of(merged)
    files["report.pdf"] = forged_pages(files["joint.json"])
    assert refused(packed(tmp_path / "1.zip", files)).keys() == {"merger", "pages"}
    assert refused(packed(tmp_path / "2.zip", unsigned(files))).keys() == {"merger", "pages"}
    again = refused(packed(tmp_path / "3.zip", signed_by(files, Ed25519PrivateKey.generate())))
    assert "joint.json says that" in again["merger"]
    result = mailwatch("verify", tmp_path / "1.zip")
    assert result.returncode == 1
    # Nor do they pass where nothing was ever signed.
    stated = json.loads(files["joint.json"]) | {"merged_by": None}
    files["joint.json"] = pretty_json(stated)
    files["report.pdf"] = forged_pages(files["joint.json"])
    assert refused(packed(tmp_path / "4.zip", unsigned(files))).keys() == {"pages"}


def test_b2_who_made_it_and_what_was_left_out_cannot_be_changed(merged: Path, tmp_path: Path) -> None:
    """Anyone can sign anew with a key of their own: then it is they who are named."""
    files, key = files_of(merged), Ed25519PrivateKey.generate()
    stated = json.loads(files["joint.json"])
    assert len(stated["left_out"]) == 1
    lie = stated | {"made_by": "AGCOM", "left_out": []}
    files["joint.json"] = pretty_json(lie)
    files["report.pdf"] = forged_pages(files["joint.json"])
    assert "merger" in refused(packed(tmp_path / "1.zip", files))
    assert "merger" in refused(packed(tmp_path / "2.zip", unsigned(files)))
    lie["merged_by"] = origin_of(key.public_key())
    files["joint.json"] = pretty_json(lie)
    files["report.pdf"] = joint_report(
        group_channels(members(*members_in(merged, tmp_path))), lie, files["joint.json"], "it", ZoneInfo("UTC")
    )
    claims = {
        one.claim: one
        for one in verify_joint_with_pages(packed(tmp_path / "3.zip", signed_by(files, key)), Trust()).claims
    }
    assert "no ledger of a member (compare it with the key of who merged)" in claims["merger"].detail


def members_in(merged: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(merged) as opened:
        names = [name for name in opened.namelist() if name.startswith("members/")]
        return [Path(opened.extract(name, folder)) for name in names]


def test_an_unsigned_zip_is_possible_and_verify_says_so(honest: Path, other: Path, tmp_path: Path) -> None:
    path = tmp_path / "unsigned.zip"
    result = mailwatch("--config", tmp_path / "none.yaml", "merge", honest, other, "--enclose", "-o", path)
    assert result.returncode == 0, result.stderr
    assert "not signed: there is no ledger here whose key could sign" in " ".join(result.stderr.split())
    claims = {one.claim: one for one in verify_joint_with_pages(path, Trust()).claims}
    assert all(one.valid for one in claims.values())
    assert claims["merger"].note
    assert "nothing shows who merged" in claims["merger"].detail
    assert not claims["pages"].note


def test_the_sources_of_each_member_are_stated(merged: Path) -> None:
    stated = json.loads(files_of(merged)["joint.json"])
    for one in stated["members"]:
        assert one["begun"]["entry"] == 0
        assert (one["tokens"], one["clock_error"]) == ([], None)
        assert one["addresses"].keys() == {"192.0.2.1:993"}
    assert [len(ledgers) for ledgers in stated["same_machine"]] == [2]


@pytest.mark.parametrize("language", ["it", "en"])
def test_the_pages_of_three_members_of_which_one_is_bad(
    honest: Path, other: Path, tmp_path: Path, language: str
) -> None:
    bad = without_an_observation(other, tmp_path / "bad.zip")
    path = tmp_path / "joint.zip"
    done = mailwatch("merge", honest, other, bad, "--keep-going", "--lang", language, "-o", path)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", tmp_path)
    pages, w = text_of(tmp_path / "report.pdf"), texts(language, "joint")
    for key in ("no_mandate_text", "no_tokens", "clock_unknown", "stamped_none"):
        assert " ".join(w[key].split()) in pages.replace("- ", ""), key
    assert "bad.zip" in pages
    assert "192.0.2.1:993" in pages


@pytest.mark.parametrize(
    "stated", [5, [], "x", {"language": "it"}, {"language": "it", "timezone": "/", "place": 1}]
)
def test_a_hostile_key_report_of_a_joint_zip_becomes_a_claim(merged: Path, tmp_path: Path, stated: object) -> None:
    files = files_of(merged)
    files["joint.json"] = pretty_json(json.loads(files["joint.json"]) | {"merged_by": None, "report": stated})
    files["report.pdf"] = forged_pages(files["joint.json"])
    assert refused(packed(tmp_path / "lie.zip", unsigned(files))).keys() == {"pages"}


@pytest.mark.sqlite
def test_a_successor_counts_as_the_ledger_that_appointed_it(honest: Path, tmp_path: Path) -> None:
    """A ledger that was lost and goes on under another key is one vantage point, not two."""
    folder = tmp_path / "s"
    before = part_of(folder, down(2, 4), "home-s", end=START + 6 * HOUR)
    (folder / "mailwatch.sqlite").unlink()
    begin_successor(folder)
    patterns = {"a@example.org": down(14, 16)}
    ledgers.write(folder, patterns, START + 12 * HOUR, START + 24 * HOUR, provider="libero", every=30).close()
    after = part_of(folder, down(14, 16), "home-s", start=START + 13 * HOUR, end=START + 22 * HOUR)
    read = members(before, after, honest)
    assert read[1].ledger != read[0].ledger
    assert counted_as(read)[read[1].ledger] == read[0].ledger
    (group,) = group_channels(partition_members(read)[0])
    assert [len(view.outages) for view in group.views if view.ledger == read[0].ledger] == [2]
    assert len(group.views) == 2
    # Without the signature of the old key anyone could say so, of any ledger.
    read[1].chain = [{**link, "appointed": False} for link in read[1].chain]
    fine, left_out = partition_members(read)
    assert [one.name for one in fine] == [before.name, honest.name]
    assert left_out[0][1].endswith("by its owner's word alone")


def first_page(path: Path, folder: Path) -> str:
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", folder)
    return pages_of(folder / "report.pdf")[0]


def test_the_caveats_of_a_member_are_stated_and_on_the_first_page(
    merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = json.loads(files_of(merged)["joint.json"])
    codes = {found["code"] for one in stated["members"] for found in one["caveats"]}
    assert "guard_off" in codes
    # On the first page and from `verify`, each with the name of the member.
    page = first_page(merged, tmp_path)
    found = verify_joint_with_pages(merged, Trust()).caveats
    assert {one.code for one in found} >= codes
    names = {known_as(one["vantage_point"], one["ledger"]) for one in stated["members"]}
    assert {one.figures["member"] for one in found} == names
    caveats = page.partition("Da sapere prima di farvi affidamento")[2]
    assert all(name in caveats for name in names), page
    assert main(["verify", str(merged)]) == 0
    printed = capsys.readouterr().out
    assert "guard_off" in printed
    assert "That it is valid does not answer the caveats in red" in printed
    lie = stated | {"members": [{**one, "caveats": []} for one in stated["members"]], "merged_by": None}
    files = unsigned(files_of(merged)) | {"joint.json": pretty_json(lie)}
    files["report.pdf"] = forged_pages(files["joint.json"])
    assert refused(packed(tmp_path / "lie.zip", files))["joint"] == "members does not follow from the members"


def test_d5_the_interval_that_an_outage_bundle_states_hides_no_minute_but_the_first(tmp_path: Path) -> None:
    """On record is another one, or it is inferred from the third good observation on."""
    folder, up = tmp_path / "o", []
    ledgers.write(folder, {"mail": down(2, 3)}, START, START + 6 * HOUR, provider="libero", every=30).close()
    for interval in ("60s", "1ms"):
        out = io.BytesIO()
        with contextlib.closing(Reader.open(folder)) as reader:
            (record,), keys = queries.outage_records(reader), load_keys(folder)
            service: ServiceJson = {"kind": "imap", "provider": "libero", "interval": interval}
            case = find_outage_evidence(reader, Tokens(folder), keys, record.id, service)
            write_outage_bundle(out, reader, keys, case, "en", [])
        (tmp_path / f"{interval}.zip").write_bytes(out.getvalue())
        (read,) = members(tmp_path / f"{interval}.zip")
        up.append(list(read.channels[0].up))
    (true, *after), (lied, *after_lie) = up
    assert after == after_lie
    assert lied == (true[0] + MINUTE, true[1])

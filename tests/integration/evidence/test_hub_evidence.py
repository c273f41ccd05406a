"""A hub makes one joint zip of what its members pushed: both verifiers accept it; it lists who is not in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.collective import make_evidence, write_association
from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.joint.verify import check_joint
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.evidence.pages.joint import verify_joint_with_pages
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.verify import Claim, Trust, examine, verify
from mailwatch.hub.consents import agreements
from mailwatch.hub.joint_case import Hub, JointCase, asked_of, joint_case
from mailwatch.hub.member_bundle import NOT_READABLE, NOTHING_PUSHED, OTHER_CHANNELS, Asked
from mailwatch.hub.quorum import confirmed_outages
from mailwatch.ledger.checkpoint import origin_of, verifier_key
from mailwatch.store import Tokens
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import place_of
from mailwatch.times import Millis, parse_rfc3339, rfc3339
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.bundle_mutations import manifested
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.joint_parts import least_pdf
from tests.helpers.ledger_factory import MINUTE
from tests.helpers.paths import TESTS
from tests.helpers.requirements import need_program
from tests.helpers.vector_cases import zip_of

NODE = Path("/usr/bin/node")
PROGRAM = TESTS / "second_verifier" / "verify.mjs"
HOW = Rendering("en", ZoneInfo("Europe/Rome"), "")
MINUTES = 40


def down(begin: int, end: int) -> Callable[[Millis], str]:
    """Down in the minutes from `begin` to `end`."""
    return lambda at: "-" if begin * MINUTE <= at - START < end * MINUTE else "+"


def second(path: Path) -> dict[str, str]:
    """What the second verifier finds wrong, by claim."""
    need_program(NODE)
    done = subprocess.run([str(NODE), str(PROGRAM), str(path)], capture_output=True, text=True, check=True)
    return {claim: why for claim, why in json.loads(done.stdout)["claims"].items() if why}


def wrong(claims: list[Claim]) -> dict[str, str]:
    return {claim.claim: claim.detail for claim in claims if not claim.valid}


class Association:
    """A hub, and members that push at some minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hub = folder, LivingHub(folder / "hub", 2)
        self.members: dict[str, WrittenMember] = {}

    def add(self, name: str, pattern: Callable[[Millis], str], **more: Any) -> WrittenMember:
        made = WrittenMember(self.folder / name, pattern, MINUTES, vantage=name, **more)
        self.members[name] = made
        self.hub.join(made, name)
        return made

    def go_to(self, minute: int, **sent: frozenset[str]) -> list[tuple[bool, int]]:
        """Have all push what they have by then, of a member's targets only those in `sent`; decide."""
        self.hub.at = START + minute * MINUTE + 1000
        for name, member in self.members.items():
            self.hub.take(member, member.size_at(self.hub.at), sent.get(name))
        return self.hub.decide()

    def made_of(self) -> Hub:
        data_dir = self.hub.data_dir
        return Hub(
            place_of(data_dir), self.hub.store.keys, self.hub.reader, Tokens(data_dir), "office",
            self.hub.register.members(), agreements(self.hub.reader, self.hub.store.keys.origin),
        )  # fmt: skip

    def case(self, asked: Asked, **more: Any) -> contextlib.AbstractContextManager[JointCase]:
        return joint_case(self.made_of(), asked, HOW, self.folder, **more)

    def joint(self, asked: Asked, name: str = "joint.zip", **more: Any) -> Path:
        path = self.folder / name
        with self.case(asked, **more) as case, path.open("wb") as out:
            case.write(out)
        return path


@pytest.fixture(scope="module")
def association(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Association]:
    made = Association(tmp_path_factory.mktemp("association"))
    made.add("grandma", down(10, 20), others={"secret": down(12, 14)})
    made.add("shop", down(11, 21))
    made.add("school", down(0, 0))
    made.add("elsewhere", down(0, 0), provider="other")
    never = WrittenMember(made.folder / "never", down(0, 0), 2)
    made.hub.join(never, "never")
    sent = {"grandma": frozenset({"mail"})}
    assert made.hub.agree(made.members["grandma"], ("mail",)).status == 200
    assert made.hub.agree(made.members["shop"], "all").status == 200
    assert made.hub.agree(never, "checkpoints").status == 200
    assert made.go_to(5, **sent) == []
    assert made.go_to(15, **sent) == [(True, 2)]
    assert made.go_to(30, **sent) == [(False, 0)]
    # Within ten minutes of the push before, so it is none of the checkpoints in the table.
    made.go_to(36, **sent)
    made.hub.store.checkpoint()
    yield made
    made.hub.close()


@pytest.fixture(scope="module")
def confirmed(association: Association) -> Path:
    """The joint zip of the outage that the hub confirmed."""
    (outage,) = confirmed_outages(association.hub.reader)
    return association.joint(asked_of(outage, association.hub.at), outage=outage)


def stated_in(path: Path) -> Any:
    return json.loads(files_of(path)["joint.json"])


def test_both_verifiers_accept_the_joint_zip_of_a_confirmed_outage(confirmed: Path) -> None:
    examined = verify_joint_with_pages(confirmed, Trust())
    assert wrong(examined.claims) == {}
    assert "same to the byte" in next(claim.detail for claim in examined.claims if claim.claim == "pages")
    assert second(confirmed) == {}
    stated = stated_in(confirmed)
    (group,) = stated["groups"]
    assert [len(one["surely"]["times"]) for one in group["at_least"]] == [1, 1, 0]
    assert [one["vantage_point"] for one in group["contradictions"]] == ["school"]
    (outage,) = confirmed_times(stated)
    # Both were down from the eleventh to the twentieth minute; the bounds are those of their observations.
    assert outage == (START + 11 * MINUTE + 200, START + 19 * MINUTE)


def confirmed_times(stated: Any) -> list[tuple[Millis, Millis]]:
    times = stated["groups"][0]["at_least"][1]["surely"]["times"]
    return [(parse_rfc3339(start), parse_rfc3339(end)) for start, end in times]


def test_it_lists_each_member_and_why_one_has_no_bundle(confirmed: Path, association: Association) -> None:
    hub = stated_in(confirmed)["hub"]
    assert {one["name"]: one["reason"] for one in hub["members"]} == {
        "grandma": "", "shop": "", "school": "", "elsewhere": OTHER_CHANNELS, "never": NOTHING_PUSHED,
    }  # fmt: skip
    assert hub["ledger"] == association.hub.store.keys.origin
    assert hub["confirmed"]["k"] == 2
    assert hub["confirmed"]["ended"] is not None
    assert {one["name"]: one["send"] for one in hub["members"]} == {
        "grandma": 1, "shop": "all", "school": None, "elsewhere": None, "never": "checkpoints",
    }  # fmt: skip


def test_nothing_is_stated_for_an_owner_and_what_is_withheld_is_not_there(
    confirmed: Path, association: Association, tmp_path: Path
) -> None:
    own = association.hub.store.keys.origin
    with zipfile.ZipFile(confirmed) as opened:
        names = [name for name in opened.namelist() if name.startswith("members/")]
        for name in names:
            opened.extract(name, tmp_path)
    assert len(names) == 3
    for name in names:
        path = tmp_path / name
        files = files_of(path)
        stated = json.loads(files["period.json"])
        assert stated["maker"]["ledger"] == own
        assert files["keys/maker.pub"].startswith(own.encode())
        assert stated["ledger"] != own
        assert not {"own_witness", "witnesses", "declarations", "claim"} & stated.keys()
        assert "report.pdf" not in files
        assert b'"target":"secret"' not in b"".join(files.values())
        claim = examine(path, Trust()).claims[-1]
        assert (claim.claim, claim.valid, claim.note) == ("files", True, True)
        assert f"{own} signs, a hub that made the bundle" in claim.detail
        # The evidence reaches to the newest push, though no checkpoint of it is in the table.
        assert stated["window"]["to"] == rfc3339(START + 36 * MINUTE + 200)


@pytest.fixture(scope="module")
def bundle(confirmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of the bundle of one member."""
    path = tmp_path_factory.mktemp("bundle") / "member.zip"
    with zipfile.ZipFile(confirmed) as opened:
        path.write_bytes(opened.read(next(name for name in opened.namelist() if name.startswith("members/"))))
    return files_of(path)


def changed(files: Files, **more: object) -> Files:
    return files | {"period.json": pretty_json({**json.loads(files["period.json"]), **more})}


def without(files: Files, name: str) -> Files:
    return {key: content for key, content in files.items() if key != name}


OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHERS_KEY = f"{verifier_key(origin_of(OTHER.public_key()), OTHER.public_key())}\n".encode()
ATTACKS: dict[str, Callable[[Files, Ed25519PrivateKey], Files]] = {
    "another one signs": lambda files, _: manifested(files, OTHER),
    "another one takes its place": lambda files, _: manifested(files | {"keys/maker.pub": OTHERS_KEY}, OTHER),
    "no key of the maker": lambda files, key: manifested(without(files, "keys/maker.pub"), key),
    "no maker": lambda files, key: manifested(changed(files, maker=None), key),
    "the ledger's own key": lambda files, key: manifested(
        files | {"keys/maker.pub": files["keys/ledger.pub"]}, key
    ),
    "a key of the owner's witness": lambda files, key: manifested(changed(files, own_witness="w+0+AA"), key),
    "a claim of the owner": lambda files, key: manifested(changed(files, claim={}), key),
    "declarations": lambda files, key: manifested(changed(files, declarations=[]), key),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_both_verifiers_refuse_a_bundle_in_which_another_one_speaks(
    name: str, bundle: Files, association: Association, tmp_path: Path
) -> None:
    key = association.hub.store.keys.private
    path = tmp_path / "attack.zip"
    path.write_bytes(zip_of(manifested(bundle, key)))
    assert (wrong(verify(path, Trust())), second(path)) == ({}, {})
    path.write_bytes(zip_of(ATTACKS[name](bundle, key)))
    assert "files" in wrong(verify(path, Trust()))
    assert "files" in second(path)


def test_who_trusts_only_the_owners_key_does_not_trust_the_hubs_word(bundle: Files, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(zip_of(bundle))
    owner, maker = (bundle[f"keys/{name}.pub"].decode().strip() for name in ("ledger", "maker"))
    assert "is not among the keys of --trust" in wrong(verify(path, Trust(keys={owner})))["files"]
    assert wrong(verify(path, Trust(keys={owner, maker}))) == {}


def test_a_list_of_members_that_does_not_fit_the_bundles_is_refused(
    confirmed: Path, association: Association, tmp_path: Path
) -> None:
    files, key = files_of(confirmed), association.hub.store.keys.private
    hub = stated_in(confirmed)["hub"]
    first, *others = sorted(hub["members"], key=lambda one: str(one["reason"]))
    lies = [
        {"members": others},
        {"members": [{**first, "reason": NOTHING_PUSHED}, *others]},
        {"members": [{**first, "send": 0}, *others]},
        {"ledger": first["ledger"]},
        {"more": 1},
    ]
    for lie in lies:
        text = pretty_json({**stated_in(confirmed), "hub": {**hub, **lie}})
        made = files | {"joint.json": text, "report.pdf": least_pdf(text, "joint.json")}
        path = tmp_path / "lie.zip"
        path.write_bytes(zip_of(manifested(made, key)))
        assert set(wrong(check_joint(path, Trust()))) == {"joint"}, lie
        assert set(second(path)) == {"joint"}, lie


def test_of_a_window_each_channel_of_all_members(association: Association) -> None:
    window = START + 8 * MINUTE, START + 25 * MINUTE
    path = association.joint(Asked(window), "all.zip")
    assert wrong(verify_joint_with_pages(path, Trust()).claims) == {}
    assert second(path) == {}
    stated = stated_in(path)
    assert [(one["provider"], len(one["vantage_points"])) for one in stated["groups"]] == [
        ("lab", 3),
        ("other", 1),
    ]
    assert {one["name"] for one in stated["hub"]["members"] if one["reason"]} == {"never"}
    only = association.joint(Asked(window, provider=" LAB "), "lab.zip")
    assert [one["provider"] for one in stated_in(only)["groups"]] == ["lab"]


def test_without_any_evidence_it_says_why(association: Association) -> None:
    long_ago = START - 1000 * MINUTE, START - 900 * MINUTE
    with (
        pytest.raises(EvidenceError, match="no vantage point has evidence of it"),
        association.case(Asked(long_ago)),
    ):
        pass
    assert not list(association.folder.glob(".mailwatch-joint-*"))


@pytest.mark.sqlite
def test_a_damaged_ledger_of_one_member_leaves_the_others_theirs(tmp_path: Path) -> None:
    made = Association(tmp_path)
    made.add("grandma", down(10, 20))
    broken = made.add("broken", down(10, 20))
    made.go_to(30)
    made.hub.ledgers.close()
    file = member_place(made.hub.data_dir, broken.origin).data_dir / "mailwatch.sqlite"
    file.write_bytes(b"no database" * 1000)
    for beside in file.parent.glob("mailwatch.sqlite-*"):
        beside.unlink()
    path = made.joint(Asked((START + 8 * MINUTE, START + 25 * MINUTE)))
    assert wrong(verify_joint_with_pages(path, Trust()).claims) == {}
    reasons = {one["name"]: one["reason"] for one in stated_in(path)["hub"]["members"]}
    assert reasons == {"grandma": "", "broken": NOT_READABLE}
    made.hub.close()


@pytest.mark.nightly
def test_many_members_need_hardly_more_memory_than_few(tmp_path: Path) -> None:
    found = {}
    for count in (3, 30):
        folder = tmp_path / str(count)
        folder.mkdir()
        path = folder / "joint.zip"
        found[count] = make_evidence(write_association(folder, count), path)
        assert wrong(check_joint(path, Trust())) == {}
    assert found[30]["left_out"] == 3
    assert found[30]["peak_mib"] < found[3]["peak_mib"] + 100

"""Verifies a joint zip: its members are those it names, each bundle is valid, and joint.json follows from them.

Members that are not enclosed may be given separately. Without them only the zip itself can be verified, and the
result says so: a joint report without its bundles proves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mailwatch.errors import is_local_failure
from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.code_version import code_version
from mailwatch.evidence.joint.hub_case import hub_fault
from mailwatch.evidence.joint.member import Examine, JointMember, read_member
from mailwatch.evidence.joint.quorum import (
    ChannelGroup,
    counted_as,
    group_channels,
    joint_statement,
    known_as,
    partition_members,
)
from mailwatch.evidence.joint.signature import merger_claim
from mailwatch.evidence.joint.witnessed import REASON, unwitnessed
from mailwatch.evidence.stated import ReportJson
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Claim, Trust, examine
from mailwatch.evidence.verify.archive import Archive, VerificationError, ZipShape
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.evidence.verify.pdf import check_report
from mailwatch.evidence.verify.silence import silent_libraries
from mailwatch.evidence.warnings import Caveat

logger = logging.getLogger(__name__)

JOINT_FILE = "joint.json"
JOINT_SHAPE = ZipShape(
    re.compile(
        r"joint\.json|report\.pdf|members\.sha256|members/[0-9a-f]{64}\.zip"
        r"|manifest\.(json|sig)|keys/merger\.pub"
    ),
    ("report.pdf", "members.sha256"),
    (JOINT_FILE,),
)
MAX_MEMBERS = 10_000
UNCHECKED_PREFIX = "not checked: "
"""Prefix of the detail of a claim that cannot be checked, but is not shown to be false."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_joint(path: Path) -> bool:
    """Return whether a zip claims to be a joint zip."""
    try:
        with zipfile.ZipFile(path) as opened:
            return JOINT_FILE in opened.namelist()
    except BaseException as error:
        # A file that cannot be opened becomes a failed claim in `Archive`.
        if is_local_failure(error):
            raise
        return False


def check_joint(path: Path, trust: Trust, extra_members: Sequence[Path] = ()) -> list[Claim]:
    """Verify a joint zip with its enclosed members and `extra_members`, without their pages. Raises OSError."""
    return examine_joint(path, trust, extra_members).claims


@dataclass(frozen=True, slots=True)
class JointResult:
    """A verified joint zip. Use `groups` and `stated`, which is joint.json, only if all claims are valid.

    `caveats`: those of the members, each with the name of its vantage point and ledger as the figure `member`.
    """

    claims: list[Claim]
    groups: list[ChannelGroup] = field(default_factory=list)
    stated: dict[str, object] = field(default_factory=dict)
    caveats: tuple[Caveat, ...] = ()


def examine_joint(
    path: Path, trust: Trust, extra_members: Sequence[Path] = (), examine_bundle: Examine | None = None
) -> JointResult:
    """Verify a joint zip with its enclosed members and `extra_members`. Raises OSError.

    `examine_bundle`: verifies the members, and compares them with the shipped catalogue; without it neither
    their caveats nor their pages are compared.
    """
    made = _JointCheck(trust, examine_bundle)
    with silent_libraries(), tempfile.TemporaryDirectory(prefix="mailwatch-joint-") as folder:
        try:
            archive = Archive(path, JOINT_SHAPE)
        except VerificationError as error:
            return JointResult([Claim("archive", False, str(error))])
        try:
            made.run(archive, Path(folder), extra_members)
        except BaseException as error:
            if is_local_failure(error):
                raise
            # The only catch-all: an error that no check foresaw becomes a failed claim, with its place in the log.
            logger.info("a joint zip could not be checked", exc_info=error)
            made.claims.append(
                Claim("joint", False, f"{UNEXPECTED_PREFIX} {type(error).__name__} {str(error)[:120]}")
            )
        finally:
            archive.close()
    return JointResult(made.claims, made.groups, made.stated, made.caveats())


@dataclass(frozen=True, slots=True)
class StatedMember:
    """A bundle listed in joint.json."""

    file: str
    sha256: str

    @property
    def enclosed_name(self) -> str:
        """The member's name in the zip, if enclosed."""
        return f"members/{self.sha256}.zip"


@dataclass(frozen=True, slots=True)
class StatedJoint:
    """The members stated in joint.json; `json`: all of it."""

    members: tuple[StatedMember, ...]
    left_out_count: int
    json: dict[str, object]


class _JointCheck:
    def __init__(self, trust: Trust, examine_bundle: Examine | None) -> None:
        self._trust, self._examine = trust, examine_bundle
        self.claims: list[Claim] = []
        self.groups: list[ChannelGroup] = []
        self.stated: dict[str, object] = {}
        self._found: dict[str, JointMember] = {}
        self._enclosed: Archive | None = None
        """The joint zip, if it encloses its members."""

    def run(self, archive: Archive, folder: Path, given: Sequence[Path]) -> None:
        self._add_claim("archive", f"{len(archive.names)} files, each once and within its bounds")
        try:
            stated = self._stated(archive)
            self._listed(archive, stated)
            pdf, statement = archive.read("report.pdf"), archive.read(JOINT_FILE)
            self._add_claim("report", check_report(pdf, statement, JOINT_FILE, self._trust.certificates))
        except VerificationError as error:
            self.claims.append(Claim("joint", False, str(error)))
            return
        whole = self._members(archive, stated, folder, given)
        if whole:
            self._follows(stated)
        elif all(claim.valid or claim.detail.startswith(UNCHECKED_PREFIX) for claim in self.claims):
            missing = len(stated.members) - len(self._found)
            self.claims.append(
                Claim(
                    "joint", False,
                    f"{UNCHECKED_PREFIX}{missing} of its {len(stated.members)} bundles are missing; put them "
                    "beside "
                    "members.sha256 and `sha256sum -c members.sha256` compares them, `--member FILE.zip` checks "
                    "them here and computes joint.json again",
                )
            )  # fmt: skip
        else:
            self.claims.append(Claim("joint", False, f"{UNCHECKED_PREFIX}a member is not valid"))
        vantage_points = {one.ledger: one.vantage for one in self._found.values()}
        self.claims.append(merger_claim(archive, stated.json.get("merged_by"), vantage_points, self._trust))

    def caveats(self) -> tuple[Caveat, ...]:
        """Return the caveats of the members that are valid bundles."""
        return tuple(
            Caveat(one.code, {**one.figures, "member": known_as(member.vantage, member.ledger)})
            for member in self._found.values()
            for one in member.caveats
        )

    def _add_claim(self, name: str, detail: str) -> None:
        self.claims.append(Claim(name, True, detail, isinstance(detail, Note)))

    def _stated(self, archive: Archive) -> StatedJoint:
        """Parse the members in joint.json."""
        stated = archive.json(JOINT_FILE)
        members = stated.get("members")
        if not isinstance(members, list) or not 0 < len(members) <= MAX_MEMBERS:
            raise VerificationError(f"{JOINT_FILE} lists no members")
        read = []
        for one in members:
            if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("file", "sha256")):
                raise VerificationError(f"{JOINT_FILE} lists a member without a file and a SHA-256")
            if not _DIGEST.fullmatch(one["sha256"]):
                raise VerificationError(f"{JOINT_FILE} lists a member whose SHA-256 is none")
            read.append(StatedMember(one["file"], one["sha256"]))
        digests = [one.sha256 for one in read]
        if digests != sorted(set(digests)):
            raise VerificationError(f"the members of {JOINT_FILE} are not each listed once, in order")
        left_out = stated.get("left_out")
        if not isinstance(left_out, list) or not isinstance(stated.get("made_by"), str):
            raise VerificationError(f"{JOINT_FILE} does not say what was left out, or who made it")
        return StatedJoint(tuple(read), len(left_out), stated)

    def _listed(self, archive: Archive, stated: StatedJoint) -> None:
        """Compare members.sha256 and the enclosed files with joint.json."""
        enclosed = {name for name in archive.names if name.startswith("members/")}
        listed = {one.enclosed_name for one in stated.members}
        if unlisted := sorted(enclosed - listed):
            raise VerificationError(f"{unlisted[0]} is enclosed, but no member of {JOINT_FILE}")
        if enclosed and enclosed != listed:
            raise VerificationError(f"{sorted(listed - enclosed)[0]} is missing, though others are enclosed")
        names = ((one, one.enclosed_name if enclosed else one.file) for one in stated.members)
        lines = "".join(f"{one.sha256}  {name}\n" for one, name in names)
        if archive.read("members.sha256") != lines.encode():
            raise VerificationError(f"members.sha256 does not list the members of {JOINT_FILE}")
        how = "enclosed" if enclosed else "not enclosed"
        self._add_claim(
            "members", f"members.sha256 names the {len(stated.members)} bundles of {JOINT_FILE}, which are {how}"
        )

    def _members(self, archive: Archive, stated: StatedJoint, folder: Path, given: Sequence[Path]) -> bool:
        """Verify each member, one claim each; return whether all are present and valid."""
        beside = {_digest(path): path for path in given}
        whole = True
        for one in stated.members:
            digest, name = one.sha256, one.enclosed_name
            label = f"member {digest[:12]}"
            path = beside.pop(digest, None)
            if name in archive.names:
                path = folder / f"{digest}.zip"
                try:
                    archive.copy(name, path)
                except VerificationError as error:
                    self.claims.append(Claim(label, False, str(error)))
                    whole = False
                    continue
            if path is None:
                whole = False
                continue
            member = read_member(path, self._trust, self._examine or examine)
            if name in archive.names:
                path.unlink()
                self._enclosed = archive
            member.name = one.file
            if member.sha256 != digest:
                self.claims.append(Claim(label, False, f"it is another file: its SHA-256 is {member.sha256}"))
            elif member.reason:
                self.claims.append(Claim(label, False, f"{one.file[:80]}: {member.reason}"))
            else:
                self._found[digest] = member
                words = f"{one.file[:80]}: a valid bundle, of {member.vantage} ({member.ledger})"
                if member.pages is not None:
                    words += f"; {member.pages.detail}"
                self.claims.append(Claim(label, True, words, member.pages is not None and member.pages.note))
                continue
            whole = False
        for digest, path in beside.items():
            self.claims.append(Claim(f"member {digest[:12]}", False, f"{path.name} is no member of it"))
        return whole and not beside

    @contextlib.contextmanager
    def _opener(self, member: JointMember) -> Iterator[Path]:
        """Give the file of a member once more, as a copy outside the zip for that time."""
        assert member.source is not None
        path = member.source.path
        if self._enclosed is not None:
            self._enclosed.copy(f"members/{member.sha256}.zip", path)
        try:
            yield path
        finally:
            if self._enclosed is not None:
                path.unlink()

    def _follows(self, stated: StatedJoint) -> None:
        """Recompute joint.json from its members and compare."""
        found = [self._found[one.sha256] for one in stated.members]
        members, left_out = partition_members(found, self._opener)
        if left_out:
            self.claims.append(
                Claim("joint", False, f"{left_out[0][0].name[:80]} does not count: {left_out[0][1]}")
            )
            return
        report = cast(ReportJson | None, stated.json.get("report"))
        # Joint zips from before 2026-12 state no report; their providers had to be spelled alike.
        hub = cast(dict[str, object], stated.json.get("hub", {}))
        if "hub" in stated.json and (fault := hub_fault(stated.json, [one.ledger for one in members])):
            self.claims.append(Claim("joint", False, fault))
            return
        groups = group_channels(members, alike=report is not None, target=str(hub.get("target", "")))
        again = json.loads(pretty_json(joint_statement(groups, members, [], report, stated.json.get("merged_by"))))
        # Members left out are named but not enclosed, and another version may verify: copy these keys. Who merged
        # answers for them.
        again |= {key: stated.json[key] for key in ("left_out", "made_by", "hub") if key in stated.json}
        if self._examine is None or not _same_catalogue(report):
            _copy_caveats(stated.json, again)
        _pass_over_addresses(stated.json, again)
        if stated.json.get("witnessed") is True:
            again["witnessed"] = True
        if different := sorted(
            key for key in again.keys() | stated.json.keys() if again.get(key) != stated.json.get(key)
        ):
            self.claims.append(Claim("joint", False, f"{different[0][:40]} does not follow from the members"))
            return
        if stated.json.get("witnessed") and (bad := unwitnessed(members)):
            self.claims.append(Claim("joint", False, f"{bad[0].name[:80]} does not count: {REASON}"))
            return
        points = len(set(counted_as(members).values()))
        words = f"{JOINT_FILE} follows from its {len(members)} bundles of {points} vantage points"
        if stated.left_out_count:
            words += f"; {stated.left_out_count} left out are listed, but not enclosed: they cannot be checked"
        if hub:
            words += f"; which members there are, and what each agreed to send, is the word of {hub['ledger']}"
        self._add_claim("joint", words)
        self.groups, self.stated = groups, stated.json


def _same_catalogue(report: ReportJson | None) -> bool:
    """Return whether the caveats of the members come from the catalogue of this version."""
    return isinstance(report, dict) and report.get("mailwatch") == code_version()


def _copy_caveats(stated: dict[str, object], again: dict[str, object]) -> None:
    """Take the stated caveats of the members, which another catalogue gave."""
    theirs, ours = stated["members"], again["members"]
    assert isinstance(theirs, list)
    assert isinstance(ours, list)
    for its, own in zip(theirs, ours, strict=True):
        if "caveats" in its and "caveats" in own:
            own["caveats"] = its["caveats"]


def _pass_over_addresses(stated: dict[str, object], again: dict[str, object]) -> None:
    """Drop the observers' own addresses where the members as stated have none, as none did before 2026-12."""
    theirs, ours = stated["members"], again["members"]
    assert isinstance(theirs, list)
    assert isinstance(ours, list)
    for its, own in zip(theirs, ours, strict=True):
        if "public_addresses" not in its:
            own.pop("public_addresses", None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

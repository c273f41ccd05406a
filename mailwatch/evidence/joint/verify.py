"""Verifies a joint zip: its members are those it names, each bundle is valid, and joint.json follows from them.

Members that are not enclosed may be given separately. Without them only the zip itself can be verified, and the
result says so: a joint report without its bundles proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailwatch.errors import is_local_failure
from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Claim, Trust
from mailwatch.evidence.verify.archive import Archive, VerificationError, ZipShape
from mailwatch.evidence.verify.pdf import check_report

logger = logging.getLogger(__name__)

JOINT_FILE = "joint.json"
JOINT_SHAPE = ZipShape(
    re.compile(r"joint\.json|report\.pdf|members\.sha256|members/[0-9a-f]{64}\.zip"),
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
    except Exception as error:
        # A file that cannot be opened becomes a failed claim in `Archive`.
        if is_local_failure(error):
            raise
        return False


def check_joint(path: Path, trust: Trust, extra_members: Sequence[Path] = ()) -> list[Claim]:
    """Verify a joint zip with its enclosed members and `extra_members`. Raises OSError."""
    made = _JointCheck(trust)
    with tempfile.TemporaryDirectory(prefix="mailwatch-joint-") as folder:
        try:
            archive = Archive(path, JOINT_SHAPE)
        except VerificationError as error:
            return [Claim("archive", False, str(error))]
        try:
            made.run(archive, Path(folder), extra_members)
        except Exception as error:
            if is_local_failure(error):
                raise
            # The only catch-all: an error that no check foresaw becomes a failed claim, with its place in the log.
            logger.info("a joint zip could not be checked", exc_info=error)
            made.claims.append(
                Claim("joint", False, f"{UNEXPECTED_PREFIX} {type(error).__name__} {str(error)[:120]}")
            )
        finally:
            archive.close()
    return made.claims


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
    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self.claims: list[Claim] = []
        self._found: dict[str, JointMember] = {}

    def run(self, archive: Archive, folder: Path, given: Sequence[Path]) -> None:
        self._add_claim("archive", f"{len(archive.names)} files, each once and within its bounds")
        try:
            stated = self._stated(archive)
            self._listed(archive, stated)
            self._add_claim(
                "report", check_report(archive.read("report.pdf"), archive.read(JOINT_FILE), JOINT_FILE)
            )
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

    def _add_claim(self, name: str, detail: str) -> None:
        self.claims.append(Claim(name, True, detail))

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
            member = read_member(path, self._trust)
            if name in archive.names:
                path.unlink()
            member.name = one.file
            if member.sha256 != digest:
                self.claims.append(Claim(label, False, f"it is another file: its SHA-256 is {member.sha256}"))
            elif member.reason:
                self.claims.append(Claim(label, False, f"{one.file[:80]}: {member.reason}"))
            else:
                self._found[digest] = member
                self._add_claim(label, f"{one.file[:80]}: a valid bundle, of {member.vantage} ({member.ledger})")
                continue
            whole = False
        for digest, path in beside.items():
            self.claims.append(Claim(f"member {digest[:12]}", False, f"{path.name} is no member of it"))
        return whole and not beside

    def _follows(self, stated: StatedJoint) -> None:
        """Recompute joint.json from its members and compare."""
        members, left_out = partition_members(self._found[one.sha256] for one in stated.members)
        if left_out:
            self.claims.append(
                Claim("joint", False, f"{left_out[0][0].name[:80]} does not count: {left_out[0][1]}")
            )
            return
        again = json.loads(pretty_json(joint_statement(group_channels(members), members, [])))
        # Members left out are named but not enclosed, and another version may verify: copy these keys.
        again |= {key: stated.json[key] for key in ("left_out", "made_by")}
        if different := sorted(
            key for key in again.keys() | stated.json.keys() if again.get(key) != stated.json.get(key)
        ):
            self.claims.append(Claim("joint", False, f"{different[0][:40]} does not follow from the members"))
            return
        points = len({one.ledger for one in members})
        words = f"{JOINT_FILE} follows from its {len(members)} bundles of {points} vantage points"
        if stated.left_out_count:
            words += f"; {stated.left_out_count} left out are listed, but not enclosed: they cannot be checked"
        self._add_claim("joint", words)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Writes the joint zip: joint.json, report.pdf, the digests of all members, and optionally the members.

Who merges signs it: joint.json names who made it and what was left out, which no member shows.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.bundle import ZIP_DATE, File, manifest_files
from mailwatch.evidence.joint.member import JointMember
from mailwatch.ledger.checkpoint import origin_of, verifier_key

MERGER_KEY = "keys/merger.pub"


def write_joint(
    out: IO[bytes],
    files: Sequence[File],
    members: Sequence[tuple[JointMember, Path]],
    *,
    enclose: bool,
    key: Ed25519PrivateKey | None = None,
) -> None:
    """Write the joint zip with fixed dates, signed with `key` if given.

    Enclosed members are named by their digest, since two may share a file name.
    """
    listed = sorted(members, key=lambda pair: pair[0].sha256)
    lines = "".join(f"{one.sha256}  {_place(one) if enclose else one.name}\n" for one, _ in listed)
    inside = [*files, File("members.sha256", lines.encode())]
    if key is not None:
        inside.append(
            File(MERGER_KEY, f"{verifier_key(origin_of(key.public_key()), key.public_key())}\n".encode())
        )
        digests: dict[str, dict[str, str | int]] = {
            file.name: {"sha256": hashlib.sha256(file.content).hexdigest(), "size": len(file.content)}
            for file in inside
        }
        digests |= {_place(one): {"sha256": one.sha256, "size": one.size} for one, _ in listed if enclose}
        inside += manifest_files(digests, key)
    with zipfile.ZipFile(out, "w") as made:
        for file in inside:
            made.writestr(_info(file.name, zipfile.ZIP_DEFLATED), file.content, compresslevel=6)
        for one, path in listed if enclose else ():
            # A bundle is already compressed.
            info = _info(_place(one), zipfile.ZIP_STORED)
            with path.open("rb") as member, made.open(info, "w", force_zip64=True) as place:
                shutil.copyfileobj(member, place, 1 << 20)


def _place(one: JointMember) -> str:
    return f"members/{one.sha256}.zip"


def _info(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.compress_type = method
    info.external_attr = 0o644 << 16
    return info

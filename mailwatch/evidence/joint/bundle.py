"""Writes the joint zip: joint.json, report.pdf, the digests of all members, and optionally the members."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mailwatch.evidence.bundle import ZIP_DATE, File
from mailwatch.evidence.joint.member import JointMember


def write_joint(
    out: IO[bytes], files: Sequence[File], members: Sequence[tuple[JointMember, Path]], *, enclose: bool
) -> None:
    """Write the joint zip with fixed dates. Enclosed members are named by their digest, since two may share a file
    name.
    """
    listed = sorted(members, key=lambda pair: pair[0].sha256)
    lines = "".join(f"{one.sha256}  {_place(one) if enclose else one.name}\n" for one, _ in listed)
    with zipfile.ZipFile(out, "w") as made:
        for file in (*files, File("members.sha256", lines.encode())):
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

"""Finds the file system of the data_dir: SQLite's write-ahead log needs a local one.

The log shares memory between the processes that have the database open. No network file system shares it with
other machines, and some not even within one machine (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
"""Exists on Linux; on other systems nothing is known, and nothing reported."""
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.davfs2",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "fuse.smbnetfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "prl_fs",
        "smb3",
        "smbfs",
        "vboxsf",
    ]
)
"""Names of file systems whose files are on another machine, or shared with one."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: Path
    kind: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether its files are on another machine, by the name of its kind."""
        return self.kind in NETWORK_FILE_SYSTEMS


def mount_of(path: Path, mounts: Path | None = None) -> Mount | None:
    """Return the mount that contains a path, which need not exist yet; None if unknown."""
    try:
        lines = (mounts or MOUNTINFO).read_text(errors="surrogateescape").splitlines()
        wanted = path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    found: Mount | None = None
    for line in lines:
        mount = _parse_line(line)
        # The last of several mounts at one point is on top.
        if (
            mount is not None
            and wanted.is_relative_to(mount.point)
            and (found is None or len(mount.point.parts) >= len(found.point.parts))
        ):
            found = mount
    return found


def network_mount_warning(data_dir: Path, mounts: Path | None = None) -> str:
    """Return a warning if a data_dir is not on this machine; "" if it is, or if that is unknown."""
    mount = mount_of(data_dir, mounts)
    if mount is None or not mount.remote:
        return ""
    return (
        f"{data_dir} lies on {mount.kind} ({mount.source} on {mount.point}), where SQLite may damage the ledger; "
        "name a folder on a disk of this machine, and send backups there instead (docs/how-to/backup.md)"
    )


def _parse_line(line: str) -> Mount | None:
    """Parse a line of mountinfo (proc_pid_mountinfo(5))."""
    here, separator, there = line.partition(" - ")
    fields, source = here.split(" "), there.split(" ")
    if not separator or len(fields) < 5 or len(source) < 2:
        return None
    return Mount(Path(_unescape(fields[4])), source[0], _unescape(source[1]))


def _unescape(text: str) -> str:
    """Replace the octal escapes, for example of spaces."""
    return re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), text)

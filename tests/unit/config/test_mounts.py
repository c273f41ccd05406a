"""A data_dir on a network file system is warned of, with the mount and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailwatch.cli import main
from mailwatch.config import mounts
from mailwatch.config.mounts import MOUNTINFO, mount_of, network_mount_warning

LINES = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /srv/mail\040watch rw,relatime shared:5 - nfs4 nas:/export/mail rw,vers=4.2
31 30 8:1 / /srv/mail\040watch/local rw - xfs /dev/sdb1 rw
32 27 0:41 / /mnt/share rw - cifs //nas/share rw
33 27 0:42 / /home/me/remote rw - fuse.sshfs me@nas: rw
34 27 0:43 / /twice rw - nfs nas:/x rw
35 27 8:2 / /twice rw - ext4 /dev/sdc1 rw
36 27 0:44 / /ntfs rw - fuseblk /dev/sdd1 rw
nonsense
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(LINES)
    return file


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/mail watch/data", "nfs4"),
        ("/srv/mail watch", "nfs4"),
        ("/srv/mail watch/local/data", "xfs"),
        ("/srv/mail watching", "ext4"),
        ("/mnt/share/data", "cifs"),
        ("/home/me/remote/data", "fuse.sshfs"),
        ("/twice/data", "ext4"),
        ("/ntfs/data", "fuseblk"),
        ("/var/lib/mailwatch", "ext4"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(table: Path, path: str, kind: str) -> None:
    found = mount_of(Path(path), table)
    assert found is not None
    assert found.kind == kind
    assert bool(network_mount_warning(Path(path), table)) == (kind in ("nfs4", "cifs", "fuse.sshfs"))


def test_the_warning_names_the_mount_and_what_to_do(table: Path) -> None:
    message = network_mount_warning(Path("/srv/mail watch/data"), table)
    assert "/srv/mail watch/data lies on nfs4 (nas:/export/mail on /srv/mail watch)" in message
    assert "name a folder on a disk of this machine" in message


def test_an_unknown_file_system_gives_no_warning(tmp_path: Path) -> None:
    assert network_mount_warning(tmp_path, tmp_path / "nowhere") == ""
    assert mount_of(tmp_path) is not None or not MOUNTINFO.exists()


def test_config_check_warns_about_a_network_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "vantage_point: {name: x}\ndata_dir: data\ntargets: [{name: a, kind: imap, provider: libero}]\n"
    )
    (tmp_path / "mountinfo").write_text("1 0 0:1 / / rw - nfs nas:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    assert main(["--config", str(config), "config", "check"]) == 0
    output = capsys.readouterr().err
    assert f"warning: {config}:2: data_dir: {tmp_path / 'data'} lies on nfs (nas:/home on /)" in output

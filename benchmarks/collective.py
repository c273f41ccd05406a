"""How much memory and processor time a hub needs for the joint evidence of all its members."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mailwatch.times import rfc3339
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE, Pattern

MEMBERS = 300
MINUTES = 60
SEND = (None, None, frozenset({"mail"}))
"""What members send: all, or one of two targets."""


def down_from(minute: int) -> Pattern:
    """Down for a quarter of an hour."""
    return lambda at: "-" if minute * MINUTE <= at - START < (minute + 15) * MINUTE else "+"


def write_association(folder: Path, members: int) -> Path:
    """Write a hub to which so many members pushed an hour of two targets each; return its config.

    Every tenth member has pushed nothing.
    """
    hub = LivingHub(folder / "hub", 2)
    hub.at = START + MINUTES * MINUTE
    for number in range(members):
        name = f"owner-{number:04}"
        made = WrittenMember(
            folder / "member", down_from(20 + number % 5), MINUTES, others={"other": down_from(0)}, vantage=name
        )
        hub.join(made, name)
        if number % 10 != 9:
            hub.take(made, made.size_at(hub.at), SEND[number % len(SEND)])
        made.store.close()
        subprocess.run(["rm", "-r", str(made.folder)], check=True)
    hub.store.checkpoint()
    hub.close()
    path = folder / "config.yaml"
    target = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": 9, "tls": "none"}
    path.write_text(yaml.safe_dump({"data_dir": str(hub.data_dir), "targets": [target]}))
    return path


def make_evidence(config: Path, out: Path) -> dict[str, Any]:
    """Run the command on the whole hour; return its figures. Raises ValueError if it fails."""
    window = ["--from", rfc3339(START), "--to", rfc3339(START + MINUTES * MINUTE)]
    words = ["--config", str(config), "hub", "evidence", *window, "-o", str(out)]
    command = [sys.executable, "-m", "mailwatch", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as making:
        _, status, used = os.wait4(making.pid, 0)
        making.returncode = os.waitstatus_to_exitcode(status)
        said = making.stderr.read() if making.stderr is not None else ""
    if making.returncode:
        raise ValueError(said)
    return {
        "peak_mib": round(used.ru_maxrss / 1024),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "bytes": out.stat().st_size,
        "left_out": said.count(" left out: "),
    }


def measure(console: Console, members: int = MEMBERS) -> dict[str, Any]:
    """Make the evidence of a tenth of the members, and of all."""
    parent = Path("build")
    parent.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    for count in (members // 10, members):
        status = console.status(f"{count} members")
        with status, tempfile.TemporaryDirectory(prefix="collective-", dir=parent) as name:
            folder = Path(name).absolute()
            config = write_association(folder, count)
            found[str(count)] = make_evidence(config, folder / "joint.zip")
    return found


def show(found: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print the figures, and return them."""
    for count, figures in found.items():
        console.print(
            f"joint evidence of {count} members: {figures['peak_mib']} MiB at most, {figures['cpu_seconds']} s of "
            f"processor time, {figures['bytes']:,} bytes, {figures['left_out']} left out"
        )
    return found

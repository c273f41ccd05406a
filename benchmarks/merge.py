"""How long it takes to merge many bundles of a week.

One ledger of a week is written for each of a few outages; every bundle is one of them signed anew by a key of
its own, which to the verifier is a vantage point of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from benchmarks.evidence import seen
from mailwatch.evidence.bundle import Bundle, pretty_json
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign, verifier_key
from mailwatch.ledger.checkpoint import verify as verified
from mailwatch.store import Reader, Tokens
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.times import Millis
from tests.helpers import ledger_factory as ledgers
from tests.helpers.ledger_factory import DAY, HOUR

START: Millis = 1_767_225_600_000
TEMPLATES = 4


def template(folder: Path, number: int) -> Path:
    """Write a week of observations a minute apart with an outage of days, and its bundle."""
    begin, end = START + DAY + number * 3 * HOUR, START + (3 + number) * DAY
    patterns = {"mail": lambda at: "-" if begin <= at < end else "+"}
    ledgers.write(folder, patterns, START, START + 7 * DAY, provider="libero", observe=seen).close()
    reader, path = Reader.open(folder), folder.with_suffix(".zip")
    watched = [ReportTarget("mail", "libero", "imap")]
    window = (START + HOUR, START + 7 * DAY - HOUR)
    case = find_period_evidence(reader, Tokens(folder), load_keys(folder), window, watched, "home")
    with path.open("wb") as out:
        write_period_bundle(out, reader, load_keys(folder), case, "en", [])
    reader.close()
    return path


def signed_anew(number: int, templates: list[Path], folder: Path) -> Path:
    """Write bundle `number`: a template's entries under another key."""
    key = Ed25519PrivateKey.generate()
    origin, path = origin_of(key.public_key()), folder / f"{number:03}.zip"
    with zipfile.ZipFile(templates[number % len(templates)]) as opened, path.open("wb") as out:
        old = load_keys(templates[number % len(templates)].with_suffix("")).public
        proof = json.loads(opened.read("proof.json")) | {"ledger": origin}
        made = [verified(note, old) for note in proof["checkpoints"]]
        proof["checkpoints"] = [sign(Checkpoint(origin, one.size, one.root), key) for one in made]
        stated = json.loads(opened.read("period.json")) | {"ledger": origin}
        bundle = Bundle(out)
        bundle.add("period.json", [pretty_json(stated)])
        bundle.add("entries.jsonl", [opened.read("entries.jsonl")])
        bundle.add("proof.json", [pretty_json(proof)])
        bundle.add("keys/ledger.pub", [f"{verifier_key(origin, key.public_key())}\n".encode()])
        bundle.close(key)
    return path


def measure(bundles: int) -> dict[str, Any]:
    """Make the bundles, merge them, and watch time and memory of all processes."""
    parent = Path("build")
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="merge-", dir=parent) as name:
        folder = Path(name)
        templates = [template(folder / f"template{number}", number) for number in range(min(TEMPLATES, bundles))]
        with ProcessPoolExecutor() as pool:
            paths = list(pool.map(partial(signed_anew, templates=templates, folder=folder), range(bundles)))
        command = [sys.executable, "-m", "mailwatch", "merge", *map(str, paths), "-o", str(folder / "joint.zip")]
        began, most = time.monotonic(), 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as merging:
            while merging.poll() is None:
                most = max(most, _resident(merging.pid))
                time.sleep(0.5)
        return {
            "bundles": bundles,
            "exit": merging.returncode,
            "seconds": round(time.monotonic() - began, 1),
            "megabytes": round(most / 1e6),
            "joint_bytes": (folder / "joint.zip").stat().st_size,
            "cores": os.cpu_count(),
        }


def _resident(session: int) -> int:
    """The memory of all processes of a session, pages that they share counted in each."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print the result in one line; return it."""
    console.print(
        f"merge: {result['bundles']} bundles of a week in [bold]{result['seconds']} s[/] and "
        f"{result['megabytes']} MB of all its processes, on {result['cores']} cores (exit {result['exit']})"
    )
    return result

"""Vectors of joint cases as they are since 2026-12: contradictions, spellings, a successor, witnesses, merger."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.verify import Trust
from mailwatch.ledger.checkpoint import origin_of, verifier_key
from mailwatch.ledger.cosignature import cosign, cosigner_key
from tests.helpers.bundle_files import Files
from tests.helpers.bundle_mutations import manifested
from tests.helpers.joint_parts import least_pdf
from tests.helpers.ledger_factory import MINUTE, SECOND
from tests.helpers.vector_cases import Json, Vector, put, zip_of
from tests.helpers.vector_ledger import VectorLedger

MERGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
REPORT = {
    "language": "en", "timezone": "Etc/UTC", "place": "", "typst": "0", "mailwatch": "vectors", "machine": "none",
}  # fmt: skip
SOURCE = "joint-contradictions.zip"


def _witness_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"-"))


@contextlib.contextmanager
def _opened(folder: Path, name: str, provider: str) -> Iterator[VectorLedger]:
    with VectorLedger.opened(folder / name, f"joint {name}") as ledger:
        ledger.provider, ledger.vantage, ledger.peer = provider, f"home-{name}", f"192.0.2.{ord(name)}:993"
        ledger.rounding = itertools.cycle((0, 0, -1, 0, 0, 0, -1, -1, 0, 0, -1))
        ledger.at += ord(name) * SECOND // 10
        yield ledger


def _written(folder: Path, name: str, ledger: VectorLedger, files: Files) -> Path:
    path = folder / f"{name}.zip"
    path.write_bytes(zip_of(manifested(files, ledger.key)))
    return path


def _bundles(folder: Path) -> Iterator[Path]:
    """Two that saw it down, one of which lost its ledger, and the window of one that saw it up."""
    with _opened(folder, "a", "Lab") as ledger:
        ledger.observe("+" * 8)
        ledger.sign()
        for _ in range(2):
            at, clock = ledger.at, {"boot": ledger.boot, "at": ledger.at - ledger.offset}
            ledger.entry(
                "address",
                {"at": at, "address": "8.8.4.4", "family": 4, "server": "stun.example.org:3478", "clock": clock},
            )
            ledger.observe("+" * 4)
        ledger.observe("-" * 6 + "++")
        yield _written(folder, "a", ledger, ledger.outage())
    with _opened(folder, "b", "ＬＡＢ") as ledger:
        ledger.observe("+" * 18 + "-" * 6 + "++")
        yield _written(folder, "b", ledger, ledger.outage())
        ledger.observe("++")
        ledger.lose()
        ledger.observe("+" * 4)
        ledger.sign()
        ledger.observe("+---++")
        yield _written(folder, "b-successor", ledger, ledger.outage())
    with _opened(folder, "c", "lab ") as ledger:
        ledger.observe("+" * 28)
        yield _written(folder, "c", ledger, ledger.period(12 * MINUTE + 30 * SECOND, 23 * MINUTE + 20 * SECOND))


def _witnessing(folder: Path) -> Iterator[Path]:
    """Two on one machine, each of which cosigned a checkpoint of the other one before its outage."""
    for name, other in ("de", "ed"):
        with _opened(folder, name, "lab") as ledger:
            ledger.boot = "ab" * 8
            ledger.observe("++")
            made, witness, seconds = ledger.store.checkpoint(), _witness_of(other), ledger.at // 1000
            assert made is not None
            ledger.entry("witness", {
                "checkpoint": made.size, "witness": str(cosigner_key(witness.public_key())),
                "cosignature": str(cosign(made.text(), witness, seconds)), "time": seconds * 1000,
                "asked": ledger.at, "answered": ledger.at, "offset_ms": 0,
            })  # fmt: skip
            ledger.observe("+---++")
            files = ledger.outage()
            stated = json.loads(files["outage.json"])
            stated["own_witness"] = str(cosigner_key(_witness_of(name).public_key()))
            yield _written(folder, name, ledger, files | {"outage.json": pretty_json(stated)})


def _joined(
    paths: Sequence[Path],
    *,
    change: Callable[[Json], None] = lambda _: None,
    merger: Ed25519PrivateKey | None = None,
    enclose: bool = True,
) -> Files:
    members = sorted((read_member(path, Trust()) for path in paths), key=lambda one: one.sha256)
    fine, left_out = partition_members(members)
    assert not left_out, [reason for _, reason in left_out]
    merged_by = merger and origin_of(merger.public_key())
    stated: dict[str, Any] = joint_statement(group_channels(fine), fine, [], REPORT, merged_by)  # type: ignore[arg-type]
    stated["made_by"] = "MailWatch vectors"
    change(stated)
    text, by_name = pretty_json(stated), {path.name: path for path in paths}
    names = {one.sha256: f"members/{one.sha256}.zip" if enclose else one.name for one in members}
    files = {
        "joint.json": text,
        "report.pdf": least_pdf(text, "joint.json"),
        "members.sha256": "".join(f"{digest}  {name}\n" for digest, name in names.items()).encode(),
    }
    if enclose:
        files |= {names[one.sha256]: by_name[one.name].read_bytes() for one in members}
    if merger is None:
        return files
    key = verifier_key(origin_of(merger.public_key()), merger.public_key())
    return manifested(files | {"keys/merger.pub": f"{key}\n".encode()}, merger)


def _alone(stated: Json) -> None:
    for one in stated["members"]:
        one.pop("counted_as", None)


def _witnessed(stated: Json) -> None:
    stated["witnessed"] = True


LIES: dict[str, tuple[Callable[[Json], None], str]] = {
    "contradiction": (
        lambda stated: stated["groups"][0]["contradictions"].pop(),
        "a time in which another one saw it up is left out",
    ),
    "provider": (put("groups/0/provider", "LAB"), "the provider has a name that no member gave it"),
    "peer": (put("members/0/address_count", 1), "other addresses of servers are stated"),
    "unwitnessed": (_witnessed, "the members are said to have witnessed each other"),
}
"""Changes of what joint.json states, which who merged signs."""


def joint_vectors(folder: Path) -> Iterator[Vector]:
    """Make the vectors of this module, in a folder that is empty."""
    a, b, successor, c = _bundles(folder)
    three = (a, b, c)
    signed = _joined(three, merger=MERGER)
    yield Vector(
        SOURCE, zip_of(signed), "",
        "three spellings of a provider; a window of clocks that are rounded each on its own shows it up",
    )  # fmt: skip
    for name, (change, why) in LIES.items():
        made = _joined(three, change=change, merger=MERGER)
        yield Vector(f"bad-joint-{name}.zip", zip_of(made), "joint", why, SOURCE)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    forged = signed | {"manifest.sig": manifested(signed, other)["manifest.sig"]}
    yield Vector("bad-joint-merger.zip", zip_of(forged), "merger", "another key signed who merged", SOURCE)
    both = (b, successor)
    yield Vector(
        "joint-successor.zip", zip_of(_joined(both)), "", "a ledger and the one it appointed are one vantage point"
    )
    yield Vector(
        "bad-joint-successor.zip", zip_of(_joined(both, change=_alone)), "joint",
        "a successor is not said to count as the ledger before it", "joint-successor.zip",
    )  # fmt: skip
    witnesses = tuple(_witnessing(folder))
    yield Vector(
        "joint-witnessed.zip", zip_of(_joined(witnesses, change=_witnessed)), "",
        "two members, on one machine, that cosigned each other before the outage",
    )  # fmt: skip

"""More vectors: what a fresh author of a verifier found to pass, and forms of zips that none of the others has."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.helpers.bundle_files import Files
from tests.helpers.bundle_mutations import manifested
from tests.helpers.vector_cases import Change, Json, Lines, Signed, Vector, entries_changed, in_json, of_kind, put


def _failed(lines: Lines, **change: Any) -> None:
    for line in lines:
        if line.get("payload", {}).get("outcome") == "down":
            line["payload"] |= change


def _without_cause(lines: Lines) -> None:
    for line in lines:
        if line.get("payload", {}).get("outcome") == "down":
            del line["payload"]["cause"]


def _renamed(lines: Lines) -> None:
    for line in lines:
        if line["header"]["kind"] == "outage" and "payload" in line:
            line["payload"]["id"] = "0" * 12


def _never_recorded(files: Files, key: Ed25519PrivateKey) -> Files:
    """The entries about outages are about others, long before the window; the statement states none."""

    def edit(lines: Lines) -> None:
        _renamed(lines)
        for line in lines:
            if line["header"]["kind"] == "outage" and "payload" in line:
                line["payload"] |= {"first_bad": 1, "last_bad": 1, "first_good": 1}

    def state(stated: Json) -> None:
        stated["outages"] = []
        for one in stated["availability"]:
            one["mttr"] = one["mtbf"] = None

    return in_json("period.json", state)(entries_changed(edit)(files, key), key)


def _earlier(lines: Lines) -> None:
    put("payload/first_bad", -86_400_000)(of_kind(lines, "outage", -1))


def _nested(stated: Json) -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    stated["more"] = value


def _early_cosignature(lines: Lines) -> None:
    put("payload/checkpoint", 1000)(of_kind(lines, "witness"))


def _with_causes(edit: Callable[[Lines], None], causes: Callable[[int], dict[str, int]]) -> Change:
    """Failures with other causes, which the statement counts."""

    def changed(files: Files, key: Ed25519PrivateKey) -> Files:
        def state(stated: Json) -> None:
            stated["outage"]["causes"] = causes(stated["outage"]["observations"]["down"])

        return in_json("outage.json", state)(entries_changed(edit)(files, key), key)

    return changed


FRESH: dict[str, tuple[str, Change, str, str]] = {
    "down-offline": (
        "outage",
        _with_causes(lambda lines: _failed(lines, cause="offline"), lambda count: {"offline": count}),
        "outage",
        "failures of our own line count as the provider's",
    ),
    "down-without-cause": (
        "outage",
        _with_causes(_without_cause, lambda _: {}),
        "outage",
        "failures have no cause",
    ),
    "outage-unrecorded": ("unwatched", entries_changed(_renamed), "outage", "no entry is about the outage"),
    "outage-entry": (
        "outage",
        entries_changed(_earlier),
        "outage",
        "its entry is not what the replay gives there",
    ),
    "period-unrecorded": ("period", _never_recorded, "period", "outages that the replay gives are not on record"),
    "clock-event": (
        "stepped",
        entries_changed(lambda lines: of_kind(lines, "clock")["payload"].update(milliseconds="420000")),
        "entries",
        "the clock was set by a text",
    ),
    "nested": ("outage", in_json("outage.json", _nested), "outage", "JSON is nested 101 deep"),
    "byte-order-mark": (
        "outage",
        lambda files, _: files | {"outage.json": b"\xef\xbb\xbf" + files["outage.json"]},
        "outage",
        "JSON begins with a byte order mark",
    ),
    "format": (
        "outage",
        in_json("outage.json", put("format", "mailwatch-evidence/2")),
        "outage",
        "the statement is in a format of later",
    ),
    "proof-format": (
        "outage",
        in_json("proof.json", put("format", "mailwatch-proof/2")),
        "checkpoints",
        "the proof is in a format of later",
    ),
    "more-in-outage": (
        "outage",
        in_json("outage.json", put("outage/verdict", "broken")),
        "outage",
        "the stated outage has another key",
    ),
    "cosignature-early": (
        "cosigned",
        entries_changed(_early_cosignature),
        "witness",
        "a cosignature over a checkpoint that is signed later, and not in the bundle",
    ),
}
"""Changes, with the key, of good bundles: the source, the change, the claim that must fail, and why."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a zip is written. `descriptor`: bytes of the data descriptor, 0 without one."""

    deflated: bool = False
    descriptor: int = 0
    zip64: bool = False
    comment: bytes = b""
    crc_off: int = 0
    descriptor_off: int = 0
    tail: bytes = b""


def _deflated(content: bytes) -> bytes:
    """Blocks that are not compressed (RFC 1951 section 3.2.4): the same bytes with any zlib."""
    parts = [content[at : at + 0xFFFF] for at in range(0, len(content), 0xFFFF)] or [b""]
    heads = [
        struct.pack("<BHH", number == len(parts) - 1, len(one), len(one) ^ 0xFFFF)
        for number, one in enumerate(parts)
    ]
    return b"".join(head + one for head, one in zip(heads, parts, strict=True))


def written(files: Files, form: Form) -> bytes:
    """A zip in a form that zipfile does not write (APPNOTE 4.3, 4.5.3)."""
    made, directory = b"", b""
    for name in sorted(files):
        content = files[name]
        packed = (_deflated(content) if form.deflated else content) + form.tail
        crc, sizes = zlib.crc32(content) ^ form.crc_off, (len(packed), len(content))
        flags, method = 8 if form.descriptor else 0, 8 if form.deflated else 0
        begin = len(made)
        local = (0, 0, 0) if form.descriptor else (crc, *((0xFFFFFFFF,) * 2 if form.zip64 else sizes))
        extra = struct.pack("<HHQQ", 1, 16, *reversed(sizes)) if form.zip64 else b""
        kept = (crc, *((0xFFFFFFFF,) * 2 if form.zip64 else sizes))
        common = struct.pack("<HHHHH", 45 if form.zip64 else 20, flags, method, 0, 33)
        made += (
            b"PK\3\4"
            + common
            + struct.pack("<LLLHH", *local, len(name), len(extra))
            + name.encode()
            + extra
            + packed
        )
        if form.descriptor:
            numbers = struct.pack("<LQQ" if form.descriptor >= 20 else "<LLL", crc ^ form.descriptor_off, *sizes)
            made += (b"PK\7\x08" if form.descriptor > len(numbers) else b"") + numbers
        directory += b"PK\1\2" + struct.pack("<H", 0x031E) + common + struct.pack("<LLL", *kept)
        directory += struct.pack("<HHHHHLL", len(name), len(extra), len(form.comment), 0, 0, 0o100644 << 16, begin)
        directory += name.encode() + extra + form.comment
    end = struct.pack("<HHHHLLH", 0, 0, len(files), len(files), len(directory), len(made), 0)
    return made + directory + b"PK\5\6" + end


FORMS: dict[str, tuple[Form, str, str]] = {
    "deflated": (Form(deflated=True), "", "all files are deflated"),
    "streamed-12": (Form(descriptor=12), "", "data descriptors of 12 bytes"),
    "streamed-16": (Form(deflated=True, descriptor=16), "", "deflated, with data descriptors of 16 bytes"),
    "streamed-20": (Form(descriptor=20), "", "data descriptors of 20 bytes"),
    "streamed-24": (Form(descriptor=24), "", "data descriptors of 24 bytes"),
    "zip64": (Form(zip64=True), "", "zip64 extra fields in both headers"),
    "bad-streamed": (Form(descriptor=16, descriptor_off=1), "archive", "data descriptors with another CRC-32"),
    "bad-file-comment": (Form(comment=b"see page 2"), "archive", "files have comments"),
}
"""Zips of the files of `outage`: the form, the claim that must fail, and why."""


def more_vectors(good: dict[str, Signed]) -> Iterator[Vector]:
    """Make the vectors of this module."""
    for name, (source, edit, fails, why) in FRESH.items():
        files, key = good[source]
        yield Vector(
            f"bad-{name}.zip", written(manifested(edit(files, key), key), Form()), fails, why, f"{source}.zip"
        )
    for name, (form, fails, why) in FORMS.items():
        yield Vector(f"{name}.zip", written(good["outage"][0], form), fails, why, "outage.zip" if fails else "")

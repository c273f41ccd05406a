"""Snapshots of bundles and letters, and of what `verify` says of them and of older ones."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

from tests.contracts.maker import OLD, STORED, Maker, Row
from tests.contracts.snapshots import EXPECTED, difference


def bundles(maker: Maker) -> None:
    """Evidence, made again from the stored ledger, and what `verify` says of it and of all older bundles."""
    made = maker.out / "bundles"
    maker.text("bundles/zlib", zlib.ZLIB_RUNTIME_VERSION + "\n")
    trust = ("--trust", STORED / "authority.pem")
    outages = {one["id"]: one for one in maker.asked("outages")}
    oldest = list(outages)[-1]
    proven = next(key for key, one in outages.items() if one.get("proven_afterwards"))
    away = maker.asked("outages", config="away")[-1]["id"]
    window = ("--from", "2026-11-29T11:00:00Z", "--to", "2026-11-29T22:00:00Z")

    def write(name: str, *words: object, config: str = "home") -> None:
        status, printed = maker.run("--config", maker.work / config / "config.yaml", *words, "-o", made / name)
        assert status == 0, (words, status, printed)

    write("outage.zip", "report", oldest, "--lang", "en")
    write("proven.zip", "report", proven, "--lang", "it")
    write("away.zip", "report", away, "--lang", "it", config="away")
    write("period.zip", "report", *window, "--lang", "it")
    write("target.zip", "report", *window, "--target", "anna-second", "--lang", "en")
    write("letter.pdf", "claim", oldest, "--lang", "it")
    write("letter-en.pdf", "claim", oldest, "--lang", "en", "--formal")
    members = [_member(made / f"{name}.zip") for name in ("outage", "away")]
    key = maker.work / "home" / "data" / "keys" / "ledger.pem"
    status, printed = maker.run("merge", *members, "-o", made / "joint.zip", *trust, "--key", key)
    assert status == 0, printed

    claims = {}
    for of, folder in (("now", made), ("96e3dbd", STORED / "bundles")):
        joined = members if of == "now" else [folder / "outage.zip", folder / "away.zip"]
        for path in sorted(folder.glob("*.zip")):
            options = [word for member in joined for word in ("--member", member)] if path.stem == "joint" else []
            claims[f"{of}/{path.stem}"] = _claims(maker.run("verify", path, *trust, *options, "--json"))
    for path in sorted(OLD.glob("*.zip")):
        options = [word for member in ("a-en", "a-away") for word in ("--member", OLD / f"{member}.zip")]
        more = options if path.stem == "a-joint" else []
        authority = OLD / f"{'b-stamped' if path.stem.startswith('b-stamped') else 'a'}-authority.pem"
        claims[f"656f141/{path.stem}"] = _claims(maker.run("verify", path, "--trust", authority, *more, "--json"))
    maker.json("verify.json", claims)
    for path in made.glob("*.docx"):
        _keep_text(path)


def _member(made: Path) -> Path:
    """Take the stored bundle where it holds the same: a joint report names the SHA-256, and zlibs differ."""
    stored = EXPECTED / "bundles" / made.name
    return made if difference(stored, made) else stored


def _claims(ended: tuple[int, str]) -> Row:
    status, printed = ended
    reported = json.loads(printed)
    # A member is named by its SHA-256.
    claims = [[re.sub("[0-9a-f]{12}", "...", one["claim"]), one["valid"]] for one in reported.pop("claims")]
    return {"status": status, "claims": claims, "keys": sorted(reported)}


def _keep_text(path: Path) -> None:
    """Of a .docx the text counts; the rest is the library's, with the time of day."""
    with zipfile.ZipFile(path) as packed:
        text = packed.read("word/document.xml")
    path.with_suffix(".docx.xml").write_bytes(text.replace(b"><", b">\n<"))
    path.unlink()

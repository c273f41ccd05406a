"""Verifies who merged a joint zip: the note over its manifest, and the files that the manifest lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mailwatch.evidence.joint.bundle import MERGER_KEY
from mailwatch.evidence.verify import Claim, Trust
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError, origin_of, verifier_key

MERGER = "merger"
SIGNATURE_FILES = ("manifest.json", "manifest.sig", MERGER_KEY)


def merger_claim(archive: Archive, stated: object, vantage_points: Mapping[str, str], trust: Trust) -> Claim:
    """Return the claim on who merged. `stated`: who that is, by joint.json. `vantage_points`: the names of the
    members' vantage points by ledger.
    """
    if stated is None and not any(name in archive.names for name in SIGNATURE_FILES):
        return Claim(
            MERGER, True, "not signed: nothing shows who merged the bundles, nor what else was left out", note=True
        )
    try:
        return Claim(MERGER, True, _signed_by(archive, stated, vantage_points, trust))
    except VerificationError as error:
        return Claim(MERGER, False, str(error))


def _signed_by(archive: Archive, stated: object, vantage_points: Mapping[str, str], trust: Trust) -> str:
    try:
        text = archive.read(MERGER_KEY).decode().removesuffix("\n")
        key = checkpoint.parse_verifier_key(text)
        origin = origin_of(key)
        if text != verifier_key(origin, key):
            raise VerificationError(f"{MERGER_KEY} is not named after its key")
        raw = archive.read("manifest.json")
        signed = checkpoint.verify_text(archive.read("manifest.sig").decode(), key)
    except UnicodeDecodeError:
        raise VerificationError(f"{MERGER_KEY} or manifest.sig is not UTF-8") from None
    except CheckpointError as error:
        raise VerificationError(f"{MERGER_KEY} or manifest.sig: {error}") from None
    if signed != f"{origin}\nmanifest {hashlib.sha256(raw).hexdigest()}\n":
        raise VerificationError("manifest.sig signs another manifest")
    _check_files(archive)
    if stated != origin:
        raise VerificationError(f"joint.json says that {str(stated)[:80]} merged the bundles, but {origin} signed")
    if trust.keys and text not in trust.keys:
        raise VerificationError(f"{origin} merged the bundles, and is not among the keys of --trust")
    known = "among the keys of --trust" if trust.keys else "compare it with the key of who merged"
    own = vantage_points.get(origin)
    whose = "no ledger of a member" if own is None else f"the ledger of {own}"
    return f"all files are those that {origin} signed, {whose} ({known})"


def _check_files(archive: Archive) -> None:
    listed = archive.json("manifest.json").get("files")
    if not isinstance(listed, dict):
        raise VerificationError("manifest.json lists no files")
    for name in archive.names:
        if name not in archive.seen:
            archive.read(name)
    digests = {name: of for name, of in archive.seen.items() if not name.startswith("manifest.")}
    if different := sorted(digests.keys() ^ listed.keys()):
        raise VerificationError(f"{different[0][:80]} is in the manifest or in the zip, but not in both")
    for name, digest in digests.items():
        if listed[name] != digest:
            raise VerificationError(f"{name} is not the file of the manifest")

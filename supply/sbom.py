"""Prints the bill of materials of an installation: CycloneDX 1.5 as JSON (https://cyclonedx.org/docs/1.5/json/).

python -m supply.sbom [requirements.txt]

It lists what is pinned, with the SHA-256 of each file that pip may take, and the licence where that is known. The
system below (Debian, Python) is not in it. The same pins give the same bytes: it holds no time and no chance.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from mailwatch import __version__

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^ \\;]+)(.*?)(?=^[A-Za-z0-9#]|\Z)", re.MULTILINE | re.DOTALL)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def pins(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Read a file of requirements: the version and the hashes (SHA-256) of each name."""
    return {name.lower(): (version, tuple(_HASH.findall(rest))) for name, version, rest in _PIN.findall(text)}


def bill(text: str) -> dict[str, Any]:
    """Return the bill of materials of what is pinned in `text`."""
    pinned = pins(text)
    parts = [_component(name, *pinned[name]) for name in sorted(pinned)]
    root = {
        "type": "application", "bom-ref": "mailwatch", "name": "mailwatch", "version": __version__,
        "licenses": [{"license": {"id": "GPL-3.0-or-later"}}], "purl": f"pkg:pypi/mailwatch@{__version__}",
    }  # fmt: skip
    made: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": parts,
        "dependencies": [{"ref": "mailwatch", "dependsOn": [part["bom-ref"] for part in parts]}],
    }
    name = json.dumps(made, sort_keys=True)
    return {**made, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"}


def _component(name: str, version: str, hashes: tuple[str, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        # One for each file, of which pip takes that for this system.
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{version}/#files",
                "hashes": [{"alg": "SHA-256", "content": one}],
            }
            for one in hashes
        ],
    }
    if licence := _licence(name, version):
        made["licenses"] = [{"license": {"name": licence}}]
    return made


def _licence(name: str, version: str) -> str:
    """Return what the installed package says of its licence, "" where it is not installed in this version."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ""
    if found.version != version:
        return ""
    about = found.metadata
    classified = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or () if "License ::" in one]
    expression, free_text = (" ".join(about.get_all(name) or ()) for name in ("License-Expression", "License"))
    licence = expression or "; ".join(classified) or free_text.strip()
    return licence.splitlines()[0][:200] if licence else ""


def main() -> None:
    """Print the bill of the file that is named, without one of requirements.txt."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "requirements.txt")
    sys.stdout.write(json.dumps(bill(path.read_text(encoding="utf-8")), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

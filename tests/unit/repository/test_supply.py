"""What MailWatch is made of is pinned by hash, what builds it too, and the bill of materials says just that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest

from supply.sbom import bill, pins
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_the_bill_lists_exactly_the_pins(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supply.sbom", name], capture_output=True, text=True, check=True, cwd=ROOT
    )
    made = json.loads(done.stdout)
    lines = (ROOT / name).read_text().splitlines()
    pinned = {tuple(line.split(" ")[0].split("==")) for line in lines if re.match(r"[a-z0-9]", line)}
    assert {(part["name"], part["version"]) for part in made["components"]} == pinned
    assert len(made["components"]) == len(pinned) > 5
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", (ROOT / name).read_text())
    listed = [file["hashes"][0]["content"] for part in made["components"] for file in part["externalReferences"]]
    assert sorted(listed) == sorted(hashes)
    assert all(part["externalReferences"] for part in made["components"])


def test_the_bill_is_cyclonedx_and_the_same_each_time() -> None:
    text = (ROOT / "requirements.txt").read_text()
    made = bill(text)
    assert made == bill(text)
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", made["serialNumber"])
    assert made["serialNumber"] != bill(text.replace("==", "==0.", 1))["serialNumber"]
    references = [part["bom-ref"] for part in made["components"]]
    assert made["dependencies"] == [{"ref": "mailwatch", "dependsOn": references}]
    assert len(set(references)) == len(references)
    # What is installed says its licence; the tests run on the pinned versions.
    assert sum("licenses" in part for part in made["components"]) > len(references) // 2


def test_pins_are_read_with_all_their_hashes() -> None:
    one, other = "a" * 64, "b" * 64
    text = (
        f"x-y==1.0 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{other}\n    # via z\n"
        f"z==2 \\\n    --hash=sha256:{one}\n"
    )
    assert pins(text) == {"x-y": ("1.0", (one, other)), "z": ("2", (one,))}


def test_the_build_uses_pinned_dependencies_only() -> None:
    built = re.findall(r"pip (?:install|wheel) [^&\n]*(?:\\\n[^&\n]*)*", (ROOT / "Dockerfile").read_text())
    built += re.findall(r"pip install .*", (ROOT / "Makefile").read_text())
    assert len(built) >= 8
    for line in built:
        offline, hashed = "--no-index" in line, "--require-hashes" in line
        own = "--no-deps" in line and "--no-build-isolation" in line
        assert offline or hashed or own, line
        wheels = "--only-binary :all:" in line and "--no-binary" not in line
        assert offline or wheels or "--no-build-isolation" in line or "requirements-build.txt" in line, line
    needed = {"hatchling", "setuptools", "editables"}
    pinned = pins((ROOT / "requirements-build.txt").read_text())
    assert needed <= pinned.keys()
    assert all(hashes for _, hashes in pinned.values())


def test_build_and_test_dependencies_have_the_same_versions() -> None:
    # Both go into one environment: a second version would be taken out by the first, and back again.
    dev, build = (pins((ROOT / f"requirements-{name}.txt").read_text()) for name in ("dev", "build"))
    run = pins((ROOT / "requirements.txt").read_text())
    for name in build.keys() & dev.keys():
        assert build[name] == dev[name]
    assert all(dev[name] == run[name] for name in run)


def test_the_distribution_has_the_strictest_licence_of_its_parts() -> None:
    parts = {part["name"]: part for part in bill((ROOT / "requirements.txt").read_text())["components"]}
    assert parts["aioimaplib"]["licenses"] == [{"license": {"name": "GPL-3.0-only"}}]
    assert "org.opencontainers.image.licenses=GPL-3.0-only" in (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "GPL-3.0-or-later"
    readme = (ROOT / "README.md").read_text().partition("## Licence")[2]
    assert "GPL-3.0-or-later" in readme
    assert "GPL-3.0-only" in readme

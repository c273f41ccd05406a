"""What the documents say is so: commands, links, causes, and what must never be committed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.cli import VERBS, main, parse
from mailwatch.model import Cause, Kind, Phase
from tests.helpers.command import mailwatch
from tests.helpers.paths import ROOT, TESTDATA
from tools.generate import stale


@pytest.mark.parametrize("name", VERBS)
def test_each_command_is_in_the_readme_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"`mailwatch {name}" in (ROOT / "README.md").read_text()
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: mailwatch {name}" in capsys.readouterr().out


def test_help_loads_no_heavy_package() -> None:
    program = "import sys; from mailwatch.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    for words in (["--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        loaded = done.stdout.splitlines()[-1].split()
        assert "mailwatch.cli" in loaded
        assert not {"sqlalchemy", "pydantic", "mailwatch.config"} & set(loaded)


def test_each_command_in_a_block_of_code_is_one() -> None:
    found = 0
    for document in (ROOT / "README.md", ROOT / "README.it.md", *(ROOT / "docs").rglob("*.md")):
        if document.name == "commands.md":  # Its lines are usage, with [optional] words.
            continue
        text = document.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ {4,}(?:\.venv/bin/)?mailwatch ([a-z-].*)$", text, re.MULTILINE):
            assert parse(shlex.split(line, comments=True)).run, f"{document.name}: {line}"
            found += 1
    assert found > 25


def test_links_in_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_anchors_of_links_are_headings() -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            page = (document.parent / link) if link else document
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document.name}: {link}#{anchor}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
    unit = (ROOT / "docs" / "how-to" / "mailwatch.service").read_text()
    copy = tmp_path / "mailwatch.service"
    copy.write_text(unit.replace("/opt/mailwatch/bin/mailwatch", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_of_systemd_and_the_unit_name_the_same_places() -> None:
    folder = ROOT / "docs" / "how-to"
    page, unit = (folder / "systemd.md").read_text(), (folder / "mailwatch.service").read_text()
    settings = dict(line.lstrip("#").split("=", 1) for line in unit.splitlines() if re.match(r"#?\w+=", line))
    assert settings["Environment"] == f"MAILWATCH_DATA_DIR=/var/lib/{settings['StateDirectory']}"
    assert f"\n    data_dir: /var/lib/{settings['StateDirectory']}\n" in page
    name = settings["LoadCredential"].partition(":")[0]
    assert f"LoadCredential={settings['LoadCredential']}" in page
    assert f"password_file: /run/credentials/mailwatch.service/{name} " in page


CONTRACTS = TESTDATA / "contracts" / "expected"
VALUES = {value.value for values in (Cause, Kind, Phase) for value in values}
"""Keys of counters by cause, kind or phase, which are explained as values."""


def keys_of(value: object) -> Iterator[str]:
    """Yield the keys of all mappings in a JSON value."""
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_of(inner)


@pytest.mark.parametrize(
    ("page", "snapshots"),
    [
        ("api.md", "cli/{outages*,incidents*,offline,availability,probe,notify*,ledger*}.json"),
        ("api.md", "api/owner/{targets,observations,observations-*}.json"),
        ("ledger.md", "entries.json"),
        ("format.md", "entries.json"),
    ],
)
def test_each_key_of_a_contract_is_on_its_page(page: str, snapshots: str) -> None:
    # An outage in the ledger has the keys of the API.
    text = "".join((ROOT / "docs" / "reference" / name).read_text() for name in {page, "api.md"})
    head, _, rest = snapshots.partition("{")
    names, _, tail = rest.partition("}")
    files = [file for name in names.split(",") for file in CONTRACTS.glob(f"{head}{name}{tail}")]
    assert files
    found = {key for file in files for key in keys_of(json.loads(file.read_text()))}
    # The snapshots' own keys, and kinds of entries such as outage.open.
    found -= VALUES | {"shape", "status"} | {key for key in found if "." in key}
    assert sorted(key for key in found if not re.search(rf"\b{key}\b", text)) == []


def test_generated_pages_are_what_the_code_gives_now() -> None:
    assert stale() == [], "run: make docs-generate"


def test_each_cause_that_this_version_knows_is_explained() -> None:
    text = (ROOT / "docs" / "reference" / "causes.md").read_text()
    reported = [cause for row in re.findall(r"^\| ([a-z, ]+) \|", text, re.MULTILINE) for cause in row.split(", ")]
    assert {cause.value for cause in Cause} - set(reported) == set()


def test_a_command_used_wrongly_exits_with_2_and_says_how() -> None:
    for words in (
        [],
        ["nonsense"],
        ["outages", "show"],
        ["availability"],
        ["--config", "/nowhere", "run"],
        ["--conf", "x", "run"],
    ):
        done = mailwatch(*words)
        assert done.returncode == 2, words
        assert done.stderr, words
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_pins_have_hashes_and_no_index_address() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-docs.txt"):
        text = (ROOT / name).read_text()
        pins = re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)
        assert len(pins) > 20
        assert "://" not in text
        assert "--index" not in text
        blocks = re.split(r"\n(?=[a-z0-9])", text)
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)


@pytest.mark.parametrize(("name", "wanted"), [("requirements.txt", "run"), ("requirements-dev.txt", "dev")])
def test_every_dependency_is_pinned(name: str, wanted: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + (project["optional-dependencies"]["dev"] if wanted == "dev" else [])
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / name).read_text(), re.MULTILINE))
    names = {re.split(r"[<>=\[ ]", line)[0].lower().replace(".", "-") for line in asked}
    assert names - pinned == set()

"""The documents that the pages offer, and links to one outage, from a real MailWatch with an outage behind it."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import PASSWORD, basic
from tests.servers import free_port
from tests.servers.authority import Authority

KNOWN = basic(PASSWORD)


@pytest.fixture(scope="module")
def web(recorded_outage: tuple[MailWatchProcess, Authority, str]) -> Iterator[tuple[MailWatchProcess, str]]:
    """A MailWatch whose pages ask for a password, and the outage's id."""
    process, _, identity = recorded_outage
    secret = process.data_dir.parent / "secret-pages"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    before = dict(process.settings["web"])
    process.settings["web"] |= {"password_file": str(secret)}
    process.write_config()
    try:
        with process.running():
            yield process, identity
    finally:
        process.settings["web"] = before
        process.write_config()


def test_a_document_of_an_open_outage_holds_what_the_page_shows(tmp_path: Path) -> None:
    """Checkpoints are signed at its opening and every ten minutes; a document ends at one."""
    target = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    process = MailWatchProcess(
        tmp_path, [{**target, "interval": "1s", "timeout": "1s"}], detection={"recheck": ["200ms"]}
    )
    with process.running():
        process.wait_until(lambda: process.count("lab", "down") >= 8, "failed observations after the opening")
        (shown,) = process.api("outages")
        status, _, content = get(process, f"/api/v1/outages/{shown['id']}/evidence.zip?lang=en")
        assert status == 200
        stated = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("outage.json"))
        assert stated["outage"]["observations"]["down"] >= shown["observations"]["down"] >= 8
        assert stated["outage"]["last_bad"] >= shown["last_bad"]


def get(process: MailWatchProcess, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{process.port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_the_page_offers_report_letter_and_the_report_of_a_month(
    web: tuple[MailWatchProcess, str], tmp_path: Path
) -> None:
    process, identity = web
    status, headers, content = get(process, f"/outages/{identity}/report.pdf?lang=it", KNOWN)
    assert (status, content[:5]) == (200, b"%PDF-")
    assert headers["content-disposition"] == f'attachment; filename="rapporto-{identity}.pdf"'
    status, _, content = get(process, f"/outages/{identity}/letter.docx?lang=it&formal=true", KNOWN)
    assert status == 200
    assert "word/document.xml" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    month = re.search(r'name="month"[^>]* value="(20[0-9-]+)"', get(process, "/outages", KNOWN)[2].decode())
    assert month
    status, _, content = get(process, f"/reports?month={month[1]}&lang=en", KNOWN)
    assert status == 200
    (tmp_path / "month.zip").write_bytes(content)
    verified = process.command("verify", str(tmp_path / "month.zip"))
    assert verified.returncode == 0, verified.stdout
    process.wait_until(lambda: list((process.data_dir / "making").iterdir()) == [], "nothing left behind")


def test_the_page_of_the_letter_lists_what_is_still_blank(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    italian = KNOWN | {"Accept-Language": "it"}
    status, _, content = get(process, f"/outages/{identity}/letter", italian)
    page = content.decode()
    assert status == 200
    assert "<mark>codice fiscale</mark>" in page
    assert f"/outages/{identity}/letter.docx?lang=it" in page
    assert "formal=true&" not in page
    formal = get(process, f"/outages/{identity}/letter?formal=true", italian)[2].decode()
    assert "letter.docx?lang=it&amp;formal=true" in formal or "letter.docx?lang=it&formal=true" in formal


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/outages/000000000000/report.pdf", 409),
        ("/outages/--help/report.pdf", 404),
        ("/outages/0123/letter", 404),
        ("/outages/{id}/letter.exe", 422),
        ("/reports", 400),
        ("/reports?month=2026-13", 400),
        ("/reports?month=--to", 400),
        ("/reports?year=1999", 400),
    ],
)
def test_a_bad_address_of_a_document_is_refused(web: tuple[MailWatchProcess, str], path: str, status: int) -> None:
    process, identity = web
    assert get(process, path.format(id=identity), KNOWN)[0] == status


def test_a_month_without_observations_says_so(web: tuple[MailWatchProcess, str]) -> None:
    """In the language of the page, and with no advice that would not help."""
    italian = KNOWN | {"Accept": "text/html", "Accept-Language": "it"}
    status, _, content = get(web[0], "/reports?month=2021-01", italian)
    page = content.decode()
    assert status == 409
    assert "Il motivo:" in page
    assert "Riprova fra un minuto" not in page
    assert "nulla di registrato e firmato su lab-imap" in page


def test_other_sites_have_no_document_made(web: tuple[MailWatchProcess, str]) -> None:
    process, identity = web
    foreign = KNOWN | {"Sec-Fetch-Site": "cross-site"}
    for path in (f"/outages/{identity}/report.pdf", f"/outages/{identity}/letter", "/reports?month=2026-01"):
        assert get(process, path, foreign)[0] == 403, path


def test_a_link_shows_its_outage_without_a_password_and_nothing_else(
    web: tuple[MailWatchProcess, str], tmp_path: Path
) -> None:
    process, identity = web
    page = get(process, f"/outages/{identity}", KNOWN)[2].decode()
    link = re.search(r'id="share" href="(?:\.\./)*([^"]+)"', page)
    assert link
    status, _, content = get(process, f"/{link[1]}")
    shared = content.decode()
    assert status == 200
    assert "lab-<wbr>imap" in shared
    # It leads nowhere else: not to the other pages, the letter, nor to a further link.
    assert not re.search(r'href="[^"]*(outages|incidents|observations|ledger|letter)', shared)
    assert 'id="share"' not in shared
    status, _, content = get(process, f"/{link[1]}/evidence.zip")
    assert status == 200
    (tmp_path / "shared.zip").write_bytes(content)
    assert process.command("verify", str(tmp_path / "shared.zip")).returncode == 0
    assert get(process, f"/{link[1]}/report.pdf")[2][:5] == b"%PDF-"
    for path in (f"/outages/{identity}", f"/{link[1]}x", f"/{link[1]}/letter", "/share/x", "/outages", "/metrics"):
        assert get(process, path)[0] in (401, 404), path
    for path in ("/share/x", "/share/a/b", f"/{link[1]}x", f"/{link[1]}/letter"):
        status, _, content = get(process, path, {"Accept": "text/html"})
        assert status == 404
        # A guessed link reveals nothing of this installation.
        assert process.settings["vantage_point"]["name"] not in content.decode(), path
        assert b"/outages" not in content, path
    assert (process.data_dir / "share-key").stat().st_mode & 0o777 == 0o600

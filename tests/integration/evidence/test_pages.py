"""The claim `pages`: report.pdf made again from the bundle alone, and compared."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

from mailwatch import __version__
from mailwatch.evidence.code_version import code_version
from mailwatch.evidence.pages.compare import verify_with_pages
from mailwatch.evidence.pages.rebuild import Rebuild
from mailwatch.evidence.pages.signed import shows_the_same
from mailwatch.evidence.pdf_signature import load_signer, sign
from mailwatch.evidence.report.typesetting import compile_pdf
from mailwatch.evidence.verify import Claim, Trust, examine
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.paths import ROOT
from tests.helpers.report_cases import Installation, make_installation
from tests.helpers.resigned import signed_again, with_json

PAINT = b"q 1 1 1 rg 0 0 600 800 re f Q"
"""White over all of a page."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return make_installation("four-minutes", tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def honest(installation: Installation) -> Path:
    path = installation.folder / "honest.zip"
    made = installation.command("report", installation.outage, "-o", str(path), "--lang", "it")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="module")
def files(honest: Path) -> Files:
    return files_of(honest)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key for signatures of PDFs, and its certificate."""
    folder = tmp_path_factory.mktemp("key")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=Anna Rossi", "-days", "3650"]
    subprocess.run([*make, *words], cwd=folder, check=True, capture_output=True)
    return folder


def pages_of(path: Path) -> Claim:
    (*others, pages) = verify_with_pages(path, Trust())
    assert [claim for claim in others if not claim.valid] == []
    assert pages.claim == "pages"
    return pages


def painted(pdf: bytes) -> bytes:
    """Paint over the first page by an incremental update."""
    writer = IncrementalPdfFileWriter(io.BytesIO(pdf))
    stream = writer.add_object(generic.StreamObject(stream_data=PAINT))
    writer.add_stream_to_page(0, stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def signed(pdf: bytes, key: Path) -> bytes:
    return sign(pdf, load_signer(key / "key.pem", key / "cert.pem", None), None)


def attached_to(other: bytes, statement: bytes) -> bytes:
    """Another page with the statement attached as the report attaches it."""
    template = b'#set document(title: "x")\n' + other
    template += b'\n#pdf.attach("outage.json", bytes(sys.inputs.statement), relationship: "source", '
    template += b'mime-type: "application/json", description: "x")'
    return compile_pdf(template, "/", {}, statement=statement.decode()) + b"\n"


def test_what_the_operator_put_in_place_of_the_pages_is_refused(
    installation: Installation, files: Files, key: Path, tmp_path: Path
) -> None:
    """A12: other pages with the true statement, or the true pages painted over, with and without a signature."""
    report = files["report.pdf"]
    forged = {
        "other pages": attached_to(b"The service was down for 31 days.", files["outage.json"]),
        "painted over": painted(report),
        "painted over, then signed": signed(painted(report), key),
        "signed, then painted over": painted(signed(report, key)),
        "a byte more": report + b"\n",
    }
    for name, pdf in forged.items():
        path = signed_again(tmp_path / "forged.zip", files | {"report.pdf": pdf}, installation.folder / "data")
        failed = {claim.claim: claim.detail for claim in verify_with_pages(path, Trust()) if not claim.valid}
        assert failed.keys() <= {"report", "pages"}, (name, failed)
        assert "pages" in failed, name
    result = installation.command("verify", str(path))
    assert result.returncode == 1
    assert "is not the one that MailWatch" in " ".join(result.stdout.split())


def test_a_signature_that_is_seen_is_more_than_a_signature(files: Files, key: Path) -> None:
    report = files["report.pdf"]
    good = signed(report, key)
    assert shows_the_same(good, report)
    writer = IncrementalPdfFileWriter(io.BytesIO(good))
    field = writer.root["/AcroForm"]["/Fields"][0]
    field["/Rect"] = generic.ArrayObject([generic.NumberObject(at) for at in (0, 0, 600, 800)])
    writer.update_container(field)
    out = io.BytesIO()
    writer.write(out)
    assert not shows_the_same(out.getvalue(), report)


def test_a_signed_report_is_the_same_up_to_its_signature(
    installation: Installation, files: Files, key: Path, tmp_path: Path
) -> None:
    twice = signed(files["report.pdf"], key)
    path = signed_again(tmp_path / "signed.zip", files | {"report.pdf": twice}, installation.folder / "data")
    pages = pages_of(path)
    assert (pages.valid, pages.note) == (True, False)
    assert "up to its signature" in pages.detail


def test_a_bundle_of_before_is_not_compared_and_as_valid_as_before(
    installation: Installation, files: Files, tmp_path: Path
) -> None:
    stated = json.loads(files["outage.json"])
    del stated["report"]
    old = json.dumps(stated).encode()
    report = attached_to(b"Some pages.", old)
    changed = files | {"outage.json": old, "report.pdf": report}
    path = signed_again(tmp_path / "old.zip", changed, installation.folder / "data")
    pages = pages_of(path)
    assert (pages.valid, pages.note) == (True, True)
    assert pages.detail.startswith("not compared: the bundle does not state how")
    result = installation.command("verify", str(path))
    assert result.returncode == 0, result.stdout
    assert "note" in result.stdout


def test_without_a_report_there_is_nothing_to_compare(
    installation: Installation, files: Files, tmp_path: Path
) -> None:
    left = {name: content for name, content in files.items() if name != "report.pdf"}
    pages = pages_of(signed_again(tmp_path / "none.zip", left, installation.folder / "data"))
    assert (pages.note, pages.detail) == (True, "not compared: the bundle has no report.pdf")


@pytest.mark.parametrize(
    "change",
    [
        {"timezone": "Nowhere/At/All"},
        {"timezone": "../../../etc/passwd"},
        {"timezone": 5},
        {"language": "xx"},
        {"place": ["a"]},
        {"program": {"version": 1}, "language": None},
        {"doubted": 5, "place": None},
    ],
    ids=str,
)
def test_a_hostile_key_becomes_a_claim(
    installation: Installation, files: Files, tmp_path: Path, change: dict[str, object]
) -> None:
    how = json.loads(files["outage.json"])["report"] | change
    lied = with_json(files, "outage.json", {"report": how})
    lied["report.pdf"] = attached_to(b"Some pages.", lied["outage.json"])
    pages = pages_of(signed_again(tmp_path / "lie.zip", lied, installation.folder / "data"))
    assert not pages.valid
    assert "cannot be" in pages.detail


def test_another_place_than_stated_is_refused(installation: Installation, files: Files, tmp_path: Path) -> None:
    """The statement is attached to the PDF, so other words in it are other bytes."""
    how = json.loads(files["outage.json"])["report"] | {"place": "Roma"}
    lied = with_json(files, "outage.json", {"report": how})
    path = signed_again(tmp_path / "lie.zip", lied, installation.folder / "data")
    assert [c.claim for c in verify_with_pages(path, Trust()) if not c.valid] == ["report", "pages"]


@pytest.mark.parametrize("environment", [
    {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1", "LC_ALL": "C"},
    {"TZ": "America/St_Johns", "PYTHONHASHSEED": "2", "LC_ALL": "it_IT.UTF-8", "LANG": "it"},
], ids=["east", "west"])  # fmt: skip
def test_who_makes_the_pages_again_does_not_matter(
    honest: Path, files: Files, environment: dict[str, str], tmp_path: Path
) -> None:
    """Another zone, locale, hash seed, working directory and home: the same bytes."""
    code = (
        "import sys; from pathlib import Path; from mailwatch.evidence.verify import Trust, examine; "
        "from mailwatch.evidence.pages.rebuild import Rebuild; import json, zipfile; path = Path(sys.argv[1]); "
        "stated = json.loads(zipfile.ZipFile(path).read('outage.json'))['report']; again = Rebuild(path, stated); "
        "sys.stdout.buffer.write(again.report(examine(path, Trust(), again.listener)))"
    )
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(honest)], cwd=tmp_path, env=clean, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    assert ended.stdout == files["report.pdf"]


@pytest.mark.parametrize("other", [{"typst": "0.14.9"}, {"machine": "riscv64"}], ids=["Typst", "processor"])
def test_pages_set_by_another_typst_are_compared_by_their_text(
    installation: Installation, files: Files, tmp_path: Path, other: dict[str, str]
) -> None:
    """Other bytes of the same text, and another text."""
    data = installation.folder / "data"
    how = json.loads(files["outage.json"])["report"] | other
    stated = with_json(files, "outage.json", {"report": how})
    stated["report.pdf"] = attached_to(b"Some pages.", stated["outage.json"])
    path = signed_again(tmp_path / "other.zip", stated, data)
    again = Rebuild(path, how)
    report = again.report(examine(path, Trust(), again.listener))
    found = [pages_of(path)]
    stated["report.pdf"] = report.replace(b"Typst 0.15", b"Typst 0.14")
    assert stated["report.pdf"] != report
    found.append(pages_of(signed_again(tmp_path / "same.zip", stated, data)))
    assert [one.valid for one in found] == [False, True]
    assert found[0].detail.startswith(("it has 1 pages", "the text of page 1"))
    assert "has the same text; made with MailWatch" in found[1].detail


@pytest.mark.parametrize("made_with", ["9.9.9", __version__, f"{__version__}+00000000"])
def test_the_pages_of_another_mailwatch_that_differ_are_not_compared(
    installation: Installation, files: Files, tmp_path: Path, made_with: str
) -> None:
    """Another version may word them otherwise, also between two releases. The note names both, so that the reader
    can take that version.
    """
    how = json.loads(files["outage.json"])["report"]
    assert how["mailwatch"] == code_version()
    how["mailwatch"] = made_with
    stated = with_json(files, "outage.json", {"report": how})
    stated["report.pdf"] = attached_to(b"Some pages.", stated["outage.json"])
    pages = pages_of(signed_again(tmp_path / "other.zip", stated, installation.folder / "data"))
    assert (pages.valid, pages.note) == (True, True)
    assert pages.detail.startswith("not compared: ")
    assert f"made with MailWatch {made_with}" in pages.detail

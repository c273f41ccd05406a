"""The status page that an owner gave a face, and its badges, from a real MailWatch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import PASSWORD, ask, basic, watching_with

LOGO = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
APPEARANCE = {
    "title": "Mail of Rossi & C.",
    "text": "Questions?\n\nCall <12>.",
    "announcement": "We move on Sunday.",
    "noindex": False,
    "embed": ["https://home.example.org"],
    "badges": True,
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    folder = tmp_path_factory.mktemp("status")
    (folder / "logo.svg").write_text(LOGO)
    made = watching_with(folder, public=True, password_file="secret-web", logo="logo.svg", **APPEARANCE)
    with made.running():
        yield made


def test_visitors_see_title_text_logo_and_announcement(process: MailWatchProcess) -> None:
    status, headers, page = ask(process, "/")
    assert status == 200
    for text in (
        "· Mail of Rossi &amp; C.</title>",
        "<p>Call &lt;12&gt;.</p>",
        "We move on Sunday.",
        '"./logo"',
    ):
        assert text in page, text
    assert "noindex" not in page
    assert "x-robots-tag" not in headers
    assert "frame-ancestors https://home.example.org" in headers["content-security-policy"]
    status, headers, logo = ask(process, "/logo")
    assert (status, headers["content-type"], logo) == (200, "image/svg+xml", LOGO)
    # A script in the picture does not run: nothing may, by this header.
    assert "default-src 'none'" in headers["content-security-policy"]
    assert '"name": "Mail of Rossi & C."' in ask(process, "/manifest.webmanifest")[2]
    assert "Disallow: /\n" not in ask(process, "/robots.txt")[2]


def test_no_other_site_may_frame_what_needs_the_password(process: MailWatchProcess) -> None:
    for path in ("/login", "/ledger", "/manage", "/setup", "/api/v1/targets"):
        assert "frame-ancestors 'none'" in ask(process, path)[1]["content-security-policy"], path


def test_badges_say_no_more_than_the_public_view(process: MailWatchProcess) -> None:
    process.wait_until(lambda: [one["state"] for one in process.api("targets")] == ["down"], "an outage")
    (name,) = (one["target"] for one in process.api("targets"))
    address = f"/badges/{name.replace(' ', '%20')}"
    status, headers, state = ask(process, f"{address}/state.svg?lang=it&label=Posta")
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert "Posta: non funziona" in state
    assert "response time: not public" in ask(process, f"{address}/response.svg")[2]
    assert ask(process, "/badges/nobody/state.svg")[0] == 404, "the name on record is not public"
    assert ask(process, f"{address}/other.svg")[0] == 422
    assert ask(process, f"{address.swapcase().replace('/BADGES', '/badges')}/state.svg")[0] == 200
    status, _, state = ask(process, f"{address}/state.svg", basic(PASSWORD))
    assert (status, name in state) == (200, True), "the owner sees the badge that his site shows"
    assert ask(process, "/badges/nobody/state.svg", basic(PASSWORD))[0] == 200


def test_without_the_choice_there_is_no_badge_and_no_index(tmp_path: Path) -> None:
    process = watching_with(tmp_path, public=True, password_file="secret-web")
    with process.running():
        assert ask(process, "/badges/x/state.svg")[0] == 401
        # Nor may a page of another site show the owner's own.
        _, headers, _ = ask(process, "/badges/nobody/state.svg", basic(PASSWORD))
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert ask(process, "/logo")[0] in (401, 404)
        _, headers, page = ask(process, "/")
        assert '<meta name="robots" content="noindex">' in page
        assert headers["x-robots-tag"] == "noindex"
        assert "Disallow: /\n" in ask(process, "/robots.txt")[2]

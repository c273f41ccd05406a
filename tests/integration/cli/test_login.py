"""`mailwatch login` as a process of its own; the test plays the browser."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need
from tests.servers import ALICE, DOVECOT, AuthorizationServer, Certificates, Dovecot, server_folder
from tests.servers.oauth import CLIENT_SECRET


@pytest.fixture
def authority() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(ALICE).running() as server:
        yield server


@pytest.fixture
def config(authority: AuthorizationServer, certificates: Certificates, tmp_path: Path) -> Iterator[Path]:
    """A config for one account on a real Dovecot."""
    need(DOVECOT)
    with (
        server_folder() as folder,
        Dovecot(folder, certificates, introspection_url=f"{authority.url}/introspect").running() as dovecot,
    ):
        target = {
            "name": "lab",
            "kind": "imap",
            "host": "localhost",
            "port": dovecot.imaps_port,
            "ca_file": str(certificates.ca_file),
            "login": {"username": ALICE, "oauth2": authority.section},
        }
        # A second target whose password is not there must not be in the way.
        other = {**target, "name": "other", "login": {"username": "b", "password_file": "nowhere"}}
        path = tmp_path / "config.yaml"
        path.write_text(
            json.dumps({"vantage_point": {"name": "test"}, "guard": "off", "targets": [target, other]})
        )
        yield path


def start(config: Path, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start the login, without a desktop that could open a real browser."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.Popen(
        [sys.executable, "-m", "mailwatch", "--config", str(config), "login", *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "MAILWATCH_TEST_CLIENT": CLIENT_SECRET},
    )


def printed_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def browse(url: str, language: str = "en") -> tuple[int, str]:
    """Open a page as a browser does, redirects and all."""
    request = urllib.request.Request(url, headers={"Accept-Language": language})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def grants(config: Path) -> list[Path]:
    return sorted((config.parent / "data" / "oauth").glob("*.json"))


def test_the_browser_grants_access_and_the_login_is_tried(config: Path, authority: AuthorizationServer) -> None:
    process = start(config, ALICE)
    url = printed_url(process)
    assert browse(url, "it-IT")[1].count("Puoi chiudere questa finestra") == 1
    status, out, err = ended(process)
    assert (status, "the login works: lab is up" in out) == (0, True), out + err
    (grant,) = grants(config)
    assert grant.stat().st_mode & 0o777 == 0o600
    assert json.loads(grant.read_text())["refresh_token"] in authority.refresh
    assert [secret for secret in authority.issued if secret in out + err] == []
    query = parse_qs(urlsplit(url).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["login_hint"] == [ALICE]
    assert urlsplit(query["redirect_uri"][0]).hostname == "127.0.0.1"
    assert len(query["state"][0]) >= 43


def test_an_answer_to_another_login_is_ignored(config: Path) -> None:
    """A page that the owner happens to have open cannot slip its own code in (RFC 6749, section 10.12)."""
    process = start(config, ALICE)
    url = printed_url(process)
    back = parse_qs(urlsplit(url).query)["redirect_uri"][0]
    for query in ("", "?code=x", "?code=x&state=wrong", "?error=access_denied&state=wrong", "favicon.ico"):
        assert browse(f"{back}/{query}")[0] == 404, query
    assert browse(url)[0] == 200
    assert ended(process)[0] == 0


def test_an_owners_refusal_is_respected(config: Path, authority: AuthorizationServer) -> None:
    authority.deny = True
    process = start(config, ALICE)
    assert "Access not granted" in browse(printed_url(process))[1]
    status, _, err = ended(process)
    assert (status, grants(config)) == (1, [])
    assert "access was not granted: access_denied: the owner said no" in err


def test_a_code_that_is_worth_nothing_is_reported_in_the_browser_too(
    config: Path, authority: AuthorizationServer
) -> None:
    authority.fault = "error invalid_grant"
    process = start(config, ALICE)
    assert "Access not granted" in browse(printed_url(process))[1]
    status, _, err = ended(process)
    assert (status, grants(config)) == (1, [])
    assert "invalid_grant" in err


def test_nothing_waits_for_ever(config: Path) -> None:
    process = start(config, ALICE, "--timeout", "0.2")
    status, _, err = ended(process)
    assert (status, "access was not granted in time" in err) == (1, True)


def test_a_login_that_does_not_work_is_reported(config: Path, authority: AuthorizationServer) -> None:
    authority.user = "somebody@else.example"
    process = start(config, ALICE)
    browse(printed_url(process))
    status, out, _ = ended(process)
    assert status == 1
    assert "the login does not work yet: lab is unknown: credentials" in out


def test_a_code_typed_in_elsewhere_grants_access(config: Path, authority: AuthorizationServer) -> None:
    authority.pending = 2
    status, out, err = ended(start(config, ALICE, "--device"))
    assert status == 0, out + err
    assert f"Open {authority.url}/type-here and enter ABCD-EFGH" in out
    assert authority.asked == ["urn:ietf:params:oauth:grant-type:device_code"] * 3 + ["refresh_token"]
    assert len(grants(config)) == 1
    assert [secret for secret in authority.issued if secret in out + err] == []


def test_an_owners_refusal_of_the_code_is_respected(config: Path, authority: AuthorizationServer) -> None:
    authority.deny = True
    status, _, err = ended(start(config, ALICE, "--device"))
    assert (status, "access was not granted: access_denied" in err) == (1, True)


def test_the_address_of_a_browser_elsewhere_is_pasted(config: Path) -> None:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    master, slave = pty.openpty()
    process = start(config, ALICE, stdin=slave)
    with pytest.raises(urllib.error.HTTPError) as away:
        urllib.request.build_opener(Stay).open(printed_url(process), timeout=PATIENCE)
    with away.value:
        os.write(master, b"nonsense\n" + away.value.headers["Location"].encode() + b"\n")
    status, out, err = ended(process)
    os.close(master)
    os.close(slave)
    assert (status, "the login works" in out) == (0, True), out + err


def test_an_address_without_oauth2_is_wrong_use(config: Path) -> None:
    status, _, err = ended(start(config, "b"))
    assert (status, "no account or target in the config logs in as b by OAuth 2" in err) == (2, True)

"""The forms of set-up and management: what they accept, what they refuse, and what bounds them."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import apprise
import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from mailwatch.config import load
from mailwatch.config.channels import INVALID_ADDRESS
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.monitor.first_config import has_own_mailbox, setup_target
from mailwatch.setup.servers import MailboxServers, ServerCandidate, Source
from mailwatch.web.manage import mailbox_setup, sessions
from mailwatch.web.manage.channels import SERVICES, read_channel
from mailwatch.web.manage.forms import MAX_BYTES, Form, FormError, read_form
from mailwatch.web.manage.mailbox_setup import MailboxSetup, RejectedLogins, Step
from mailwatch.web.manage.manage_pages import _beside_fields
from mailwatch.web.manage.sessions import FormSessions
from mailwatch.web.manage.texts import texts
from mailwatch.web.management import ManagementError
from tests.helpers.paths import ROOT

FORM = {"content-type": "application/x-www-form-urlencoded", "host": "nas:8080"}


def request(headers: dict[str, str], *parts: bytes, cookies: str = "") -> Request:
    """A request of a form, whose body comes in these parts."""
    given = {**headers, **({"cookie": cookies} if cookies else {})}
    left = list(parts) or [b""]

    async def receive() -> Any:
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    scope = {
        "type": "http", "method": "POST", "path": "/setup", "scheme": "http", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    return Request(scope, receive)


def entered(service: str, **change: str) -> Form:
    """The good form of a service with a name, changed."""
    return Form({key: [value] for key, value in {**GOOD[service], "name": "Casa", **change}.items()})


def step(setup: MailboxSetup) -> Step:
    """Where a set-up is."""
    return setup.step


def shape(value: Any) -> Any:
    """The keys of texts, and the places in braces."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return sorted(re.findall(r"{\w*}", str(value)))


def test_both_languages_have_the_same_words_and_places() -> None:
    assert shape(texts("en").loaded) == shape(texts("it").loaded)


# Channels

GOOD = {
    "ntfy": {"topic": "casa-rossi", "server": "", "token": "tk_abcdefghij0123456789abcdefghi"},
    "telegram": {"bot": "123456789:AAExample-token_0123456789abcdefghi", "chat": "-100123456789"},
    "mail": {
        "to": "anna@example.net",
        "smtp": "smtp.example.net",
        "user": "m@example.net",
        "password": "p@ss/w:ö?&#",
    },
    "webhook": {"url": "https://user:pw@example.org:8443/hook?x=1"},
    "other": {"url": "gotifys://example.org/AbCdEf0123456"},
}


@pytest.mark.parametrize("service", GOOD)
def test_what_a_form_makes_is_an_address_that_apprise_takes(service: str) -> None:
    answers = read_channel(
        service, Form({key: [value] for key, value in {**GOOD[service], "name": "Casa"}.items()})
    )
    assert (answers.errors, answers.name) == ({}, "Casa")
    made: Any = apprise.Apprise.instantiate(answers.url.get_secret_value())
    assert made is not None
    if service == "mail":
        assert (made.user, made.password) == ("m@example.net", GOOD["mail"]["password"])
        assert (made.host, made.port, made.secure_mode) == ("smtp.example.net", 465, "ssl")


def test_a_mail_server_at_port_587_encrypts_after_its_greeting() -> None:
    answers = read_channel("mail", entered("mail", smtp="smtp.example.net:587"))
    made: Any = apprise.Apprise.instantiate(answers.url.get_secret_value())
    assert made.secure_mode == "starttls"


@pytest.mark.parametrize(
    ("service", "change", "wrong"),
    [
        ("ntfy", {"topic": ""}, {"topic": "empty"}),
        ("ntfy", {"topic": "two words"}, {"topic": "not_topic"}),
        ("ntfy", {"topic": "a/../b"}, {"topic": "not_topic"}),
        ("ntfy", {"server": "ftp://ntfy.sh"}, {"server": "not_server"}),
        ("ntfy", {"server": "https://ntfy.sh/path"}, {"server": "not_server"}),
        ("ntfy", {"server": "https://a b"}, {"server": "not_server"}),
        ("ntfy", {"token": "secret@elsewhere"}, {"token": "not_token"}),
        ("telegram", {"bot": "123/456"}, {"bot": "not_bot"}),
        ("telegram", {"chat": "me"}, {"chat": "not_chat"}),
        ("mail", {"smtp": "smtp.example.net:x"}, {"smtp": "not_host"}),
        ("mail", {"smtp": "a b"}, {"smtp": "not_host"}),
        ("mail", {"to": "anna", "user": "m"}, {"to": "not_address", "user": "not_address"}),
        ("webhook", {"url": "javascript://example.org"}, {"url": "not_url"}),
        ("webhook", {"url": "https://"}, {"url": "not_url"}),
        # What cannot be split at all: the error of the library repeats it.
        ("webhook", {"url": "https://user:canary@ho\u2100st/x"}, {"url": "not_url"}),
        ("webhook", {"url": "https://[x"}, {"url": "not_url"}),
        ("ntfy", {"server": "https://[x"}, {"server": "not_server"}),
        ("other", {"url": "gotify"}, {"url": "not_apprise"}),
        ("other", {"url": "a://b\nc"}, {"url": "not_apprise"}),
        ("ntfy", {"name": ""}, {"name": "empty"}),
        ("ntfy", {"name": "a\nb"}, {"name": "not_name"}),
    ],
)
def test_a_wrong_field_is_named_and_its_text_not_repeated(
    service: str, change: dict[str, str], wrong: Any
) -> None:
    answers = read_channel(service, entered(service, **change))
    assert answers.errors == wrong
    assert set(answers.errors.values()) <= set(texts("it").section("channel").section("wrong").keys())


def test_every_field_of_every_service_has_its_words() -> None:
    for language in ("en", "it"):
        words = texts(language).section("service")
        for name, service in SERVICES.items():
            assert {field.name for field in service.fields} == set(words.section(name).section("fields").keys())


# Forms


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin", "origin": "null"},
        {"sec-fetch-site": "none"},
        {"origin": "http://nas:8080"},
        {"origin": "https://mailwatch.example.org"},
    ],
)
async def test_our_own_forms_are_read(headers: dict[str, str]) -> None:
    sent = request(FORM | headers, b"name=a+b&se", b"cret=+x+")
    sent.state.hosts = {"mailwatch.example.org"}
    form = await read_form(sent)
    assert (form.text("name"), form.secret("secret").get_secret_value(), form.text("none")) == ("a b", " x ", "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "http://nas:8081"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://nas:8080"}, 403),
        ({"content-type": "application/json"}, 415),
        ({"content-type": "text/plain"}, 415),
    ],
)
async def test_forms_of_other_sites_are_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(FormError) as refused:
        await read_form(request(FORM | headers, b"name=x"))
    assert refused.value.status == status


@pytest.mark.parametrize(("body", "status"), [(b"a" * (MAX_BYTES + 1), 413), (b"&".join([b"a=1"] * 200), 400)])
async def test_a_form_has_an_end(body: bytes, status: int) -> None:
    with pytest.raises(FormError) as refused:
        await read_form(request(FORM, body[:1000], body[1000:]))
    assert refused.value.status == status
    assert refused.value.__cause__ is None


def test_a_long_field_is_cut() -> None:
    assert len(Form({"a": ["x" * 100_000]}).text("a")) == 2000


# Sessions


async def test_sessions_are_bounded_and_each_has_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FormSessions("cookie")
    made = [kept.create() for _ in range(sessions.MAX_SESSIONS + 1)]
    assert kept.of(request(FORM, cookies=f"cookie={made[0][1]}")) is None
    last = made[-1]
    assert kept.of(request(FORM, cookies=f"cookie={last[1]}")) is last[0]
    assert kept.of(request(FORM, cookies="cookie=")) is None
    assert last[0].accepts(last[0].token)
    assert not last[0].accepts(made[-2][0].token)
    last[0].mailbox = MailboxSetup(RejectedLogins())
    ended: list[str] = []
    monkeypatch.setattr(last[0].mailbox, "discard", lambda: ended.append("discarded"))
    monkeypatch.setattr(sessions, "IDLE_SECONDS", -1.0)
    assert kept.of(request(FORM, cookies=f"cookie={last[1]}")) is None
    assert ended == ["discarded"]


async def test_pages_that_others_open_end_no_set_up_that_has_begun() -> None:
    """Any request for the page makes a session, also one that another site's page sends."""
    kept = FormSessions("cookie")
    begun, word = kept.create()
    begun.mailbox = MailboxSetup(RejectedLogins())
    for _ in range(3 * sessions.MAX_SESSIONS):
        kept.create()
    assert kept.of(request(FORM, cookies=f"cookie={word}")) is begun


async def test_the_cookie_is_for_us_alone() -> None:
    kept, answer = FormSessions("cookie"), Response()
    kept.give(request(FORM), answer, kept.create()[1])
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path" not in cookie
    assert "secure" not in cookie
    kept.give(request(FORM | {"x-forwarded-proto": "https"}), answer, "x")
    assert "Secure" in answer.headers.getlist("set-cookie")[-1]


# Mailboxes


def test_three_rejected_passwords_an_hour_from_all_visitors_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = RejectedLogins()
    for left in (2, 1, 0):
        assert rejected.wait_seconds("a@example.org") == 0
        rejected.note("A@example.org")
        assert rejected.left("a@example.org") == left
    assert 3500 < rejected.wait_seconds("a@example.org") <= 3600
    assert rejected.left("b@example.org") == 3
    monkeypatch.setattr(mailbox_setup, "WINDOW_SECONDS", -1.0)
    assert rejected.left("a@example.org") == 3


def test_mailboxes_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_setup, "MAX_MAILBOXES", 2)
    rejected = RejectedLogins()
    for name in "abc":
        rejected.note(f"{name}@example.org")
    assert [rejected.left(f"{name}@example.org") for name in "abc"] == [3, 2, 2]


async def test_servers_by_hand_and_their_mistakes() -> None:
    setup = MailboxSetup(RejectedLogins())
    assert not setup.begin("nobody")
    assert step(setup) is Step.ADDRESS
    assert setup.begin("a@localhost")
    while step(setup) is Step.SEARCHING:
        await setup.wait_change(setup.change, 5)
    assert step(setup) is Step.SERVERS
    assert setup.enter_servers({}) == {"imap": "none"}
    assert set(setup.enter_servers(dict.fromkeys(MAILBOX_KINDS, "a b"))) == {"imap", "pop3", "smtp"}
    assert setup.enter_servers({Kind.IMAP: "localhost:1"}) == {}
    assert (step(setup), setup.asks_username) == (Step.PASSWORD, True)
    assert setup.log_in("a@localhost", SecretStr("")) == {"password": "empty"}
    assert "username" in setup.log_in("a\nb", SecretStr("x"))
    assert setup.answers() is None
    setup.back()
    assert (step(setup), setup.address) == (Step.ADDRESS, "a@localhost")


async def at_servers() -> MailboxSetup:
    """A set-up that asks for the servers, since no name server knows the domain."""
    setup = MailboxSetup(RejectedLogins())
    setup.begin("a@localhost")
    while step(setup) is Step.SEARCHING:
        await setup.wait_change(setup.change, 5)
    return setup


@pytest.mark.parametrize(
    ("typed", "chosen", "port", "tls"),
    [
        ("mail.example.org", "", 993, "implicit"),
        ("mail.example.org", "starttls", 143, "starttls"),
        ("mail.example.org:143", "", 143, "starttls"),
        ("mail.example.org:993", "", 993, "implicit"),
        ("mail.example.org:1143", "", 1143, "implicit"),
        ("mail.example.org:1143", "starttls", 1143, "starttls"),
        ("mail.example.org:1143/starttls", "", 1143, "starttls"),
        ("[::1]:1143/starttls", "", 1143, "starttls"),
    ],
)
async def test_the_owner_chooses_how_to_encrypt(typed: str, chosen: str, port: int, tls: str) -> None:
    setup = await at_servers()
    assert setup.enter_servers({"imap": typed, "imap_tls": chosen}) == {}
    assert setup.servers is not None
    (server,) = setup.servers.candidates
    assert (server.port, server.tls.value) == (port, tls)


async def test_a_choice_that_contradicts_the_port_is_a_mistake_of_the_choice() -> None:
    setup = await at_servers()
    typed = {"imap": "mail.example.org:993", "imap_tls": "starttls", "smtp": "mail.example.org:25/plain"}
    assert setup.enter_servers(typed) == {"imap": "wrong_tls", "smtp": "wrong_tls"}


async def test_servers_that_were_found_leave_the_encryption_to_the_port_that_the_owner_writes() -> None:
    setup = await at_servers()
    found = ServerCandidate(
        kind=Kind.IMAP, host="mail.example.org", port=993, tls=TlsMode.IMPLICIT, source=Source.SRV
    )
    setup.servers = MailboxServers((found,))
    assert step(setup) is Step.PASSWORD
    setup.change_servers()
    assert setup.entered == {"imap": "mail.example.org:993"}
    assert setup.enter_servers({"imap": "mail.example.org:143", "imap_tls": ""}) == {}


async def test_after_a_login_that_did_not_work_the_servers_can_be_corrected() -> None:
    rejected = RejectedLogins()
    setup = MailboxSetup(rejected)
    setup.begin("a@localhost")
    while step(setup) is Step.SEARCHING:
        await setup.wait_change(setup.change, 5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    typed = {"imap": f"localhost:{port}", "imap_tls": "starttls"}
    assert setup.enter_servers(typed) == {}
    assert (setup.may_change_servers, setup.by_hand) == (True, True)
    setup.log_in("a@localhost", SecretStr("x"))
    while step(setup) is Step.TESTING:
        setup.change_servers()
        await setup.wait_change(setup.change, 5)
    assert (step(setup), setup.is_untested) == (Step.TESTED, True)
    setup.change_servers()
    assert (step(setup), setup.entered, setup.answers()) == (Step.SERVERS, typed, None)
    assert setup.enter_servers({"imap": "localhost:1"}) == {}
    assert step(setup) is Step.PASSWORD


async def test_a_test_that_is_broken_off_counts_as_a_try_and_its_servers_stay() -> None:
    """What was tested is what is written, and going back does not give more tries than the provider allows."""
    rejected, silent = RejectedLogins(), socket.create_server(("127.0.0.1", 0))
    with silent:
        setup = MailboxSetup(rejected)
        setup.begin("a@localhost")
        while step(setup) is Step.SEARCHING:
            await setup.wait_change(setup.change, 5)
        assert setup.enter_servers({Kind.IMAP: f"localhost:{silent.getsockname()[1]}"}) == {}
        tested = setup.servers
        for left in (2, 1, 0):
            assert setup.log_in("a@localhost", SecretStr("x")) == {}
            assert (step(setup), rejected.left("a@localhost")) == (Step.TESTING, left)
            # Another tab of the browser:
            assert setup.enter_servers({Kind.IMAP: "never-tested.example.org"}) == {}
            assert setup.servers is tested
            setup.cancel()
            await setup.wait_change(setup.change, 5)
        assert setup.log_in("a@localhost", SecretStr("x")) == {"password": "wait"}
        rejected.undo("a@localhost")
        assert rejected.left("a@localhost") == 1


# The first config


def test_the_set_up_writes_beside_the_example_and_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = Path("/etc/mailwatch/config.yaml")
    assert setup_target(packaged, named=False) == tmp_path / "config.yaml"
    assert setup_target(packaged, named=True) is None
    assert setup_target(tmp_path / "config.yaml", named=False) is None
    assert (
        setup_target(tmp_path / "other" / "config.example.yaml", named=True) == tmp_path / "other" / "config.yaml"
    )
    assert setup_target(tmp_path / "mine.yaml", named=True) is None


def test_the_example_has_no_mailbox_of_its_own() -> None:
    assert not has_own_mailbox(load(ROOT / "config.example.yaml"))


def test_below_the_field_of_an_address_stands_a_sentence() -> None:
    error = ManagementError("x", {"url_file": f"▲ {INVALID_ADDRESS}"})
    assert _beside_fields("other", error) == {"url": "not_apprise"}
    assert _beside_fields("other", ManagementError("x", {"name": "is taken"})) == {"name": "is taken"}

"""The set-up of one mailbox, step by step: its address, its servers, its password, the login test. Without HTTP.

A search and a login test run in the background, so that a page can show how far they are, and may be closed
meanwhile. The password is kept in memory only, from a login that worked until it is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from mailwatch.config.errors import FieldError
from mailwatch.config.schema_targets import TLS_BY_PORT
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.model import Kind, Phase
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import OAuth2, Target
from mailwatch.setup.checks import ADDRESS, USERNAME
from mailwatch.setup.login_test import (
    MAX_TRIES,
    LoginReport,
    PhaseEvent,
    Progress,
    ServerResult,
    Verdict,
    login_targets,
    report,
    try_logins,
)
from mailwatch.setup.servers import ENCRYPTION, ORDER, MailboxServers, oauth_authority, parse_server
from mailwatch.setup.texts import printable_text
from mailwatch.web.manage.access_grant import AccessGrant
from mailwatch.web.management import MailboxAnswers

if TYPE_CHECKING:
    from mailwatch.setup.search import Finding, Question, ServerSearch

logger = logging.getLogger(__name__)
WINDOW_SECONDS = 3600.0
"""Seconds in which a mailbox is tried with at most MAX_TRIES rejected passwords: providers lock accounts."""
MAX_MAILBOXES = 1000
_PHASES = (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH)
"""The phases that a page lists before they begin; more come as they pass."""


class RejectedLogins:
    """Counts rejected passwords by mailbox, over all sessions. Bounded."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def left(self, address: str) -> int:
        """Return how many more passwords may be tried for an address."""
        since = time.monotonic() - WINDOW_SECONDS
        return MAX_TRIES - sum(at > since for at in self._times.get(address.casefold(), ()))

    def wait_seconds(self, address: str) -> float:
        """Return the seconds until the next try, 0 if one is left."""
        times = self._times.get(address.casefold())
        if times is None or self.left(address) > 0:
            return 0.0
        return max(0.0, times[0] + WINDOW_SECONDS - time.monotonic())

    def undo(self, address: str) -> None:
        """Take back the last note: the password was not rejected."""
        if times := self._times.get(address.casefold()):
            times.pop()

    def note(self, address: str) -> None:
        """Note a password that is tried."""
        key = address.casefold()
        self._times.setdefault(key, deque(maxlen=MAX_TRIES)).append(time.monotonic())
        self._times.move_to_end(key)
        while len(self._times) > MAX_MAILBOXES:
            self._times.popitem(last=False)


class Step(StrEnum):
    """What the page shows."""

    ADDRESS = "address"
    SEARCHING = "searching"
    QUESTION = "question"
    SERVERS = "servers"
    """The servers are to be entered by hand."""
    OAUTH = "oauth"
    """The provider accepts only OAuth 2: it needs a client ID."""
    GRANTING = "granting"
    """The owner grants access in the browser, with a code."""
    PASSWORD = "password"  # noqa: S105  The name of a step.
    TESTING = "testing"
    TESTED = "tested"


class Passing(StrEnum):
    """How far a phase of a login test is."""

    AHEAD = "ahead"
    NOW = "now"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(slots=True)
class ServerRow:
    """One server of a login test: its phases so far, and its result once there is one."""

    kind: Kind
    endpoint: str
    phases: dict[Phase, Passing] = field(default_factory=dict)
    milliseconds: dict[Phase, float] = field(default_factory=dict)
    result: ServerResult | None = None

    def note(self, event: PhaseEvent | ServerResult) -> None:
        """Note an event."""
        if isinstance(event, PhaseEvent):
            ended = event.progress is Progress.END
            self.phases[event.phase] = Passing.PASSED if ended else Passing.NOW
            if ended:
                self.milliseconds[event.phase] = event.milliseconds
            return
        self.result = event
        failed = None if event.works else event.observation.failed_phase
        for phase, passing in self.phases.items():
            if phase is failed or passing is Passing.NOW:
                self.phases[phase] = Passing.PASSED if event.works else Passing.FAILED
        if failed is not None:
            self.phases[failed] = Passing.FAILED

    def listed(self) -> list[tuple[str, str, float | None]]:
        """Return all phases to show: name, how far, milliseconds."""
        ahead = () if self.result else (phase for phase in _PHASES if phase not in self.phases)
        return [
            (phase.value, self.phases.get(phase, Passing.AHEAD).value, self.milliseconds.get(phase))
            for phase in (*self.phases, *ahead)
        ]


class MailboxSetup:
    """One mailbox being set up. `change` counts up whenever a page would show something new."""

    def __init__(self, rejected: RejectedLogins) -> None:
        self.change = 0
        self._rejected = rejected
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._reset("")

    def _reset(self, address: str) -> None:
        self.address = self.username = address
        self.search: ServerSearch | None = None
        self.findings: list[Finding] = []
        self.servers: MailboxServers | None = None
        self.rows: list[ServerRow] = []
        self.report: LoginReport | None = None
        self.entered: dict[str, str] = {}
        """The servers by kind as they stand in the form, and how to encrypt by KIND_tls."""
        self._password: SecretStr | None = None
        self.grant = AccessGrant(self._note_change)

    @property
    def step(self) -> Step:
        """What comes next."""
        busy = self._running is not None and not self._running.done()
        if self.search is None:
            return Step.ADDRESS
        if self.servers is None:
            if busy:
                return Step.SEARCHING
            return Step.QUESTION if self.question else Step.SERVERS
        if busy:
            return Step.GRANTING if self.grant.is_open else Step.TESTING
        if self.is_tested:
            return Step.TESTED
        return Step.OAUTH if self.authority else Step.PASSWORD

    @property
    def authority(self) -> str:
        """The OAuth authority of servers that accept only OAuth 2, "" for those that accept a password."""
        return oauth_authority(self.servers) if self.servers else ""

    @property
    def question(self) -> Question | None:
        """The question of the search that waits for an answer."""
        return self.search.question if self.search else None

    @property
    def is_tested(self) -> bool:
        """Whether a login test ended otherwise than by a rejection: what it found may be written."""
        return self.report is not None and self.report.verdict is not Verdict.REJECTED

    @property
    def is_rejected(self) -> bool:
        """Whether the last password was rejected."""
        return self.report is not None and self.report.verdict is Verdict.REJECTED

    @property
    def is_untested(self) -> bool:
        """Whether no login has worked yet."""
        return self.report is None or not self.report.works

    @property
    def tries_left(self) -> int:
        """How many more passwords may be tried now."""
        return self._rejected.left(self.address)

    @property
    def wait_seconds(self) -> float:
        """Seconds until the next password may be tried, 0 if one may be tried now."""
        return self._rejected.wait_seconds(self.address)

    def begin(self, address: str) -> bool:
        """Begin the search for an address; return False if it is none."""
        if ADDRESS(address):
            return False
        self.discard()
        self._reset(address)
        # Imported on first use: what searches takes a tenth of a second of each start.
        from mailwatch.setup.search import ServerSearch

        self.search = ServerSearch(address)
        self._run(self._advance(self.search))
        return True

    def answer(self, yes: bool) -> None:
        """Answer the open question, if there is one."""
        if self.search is not None and self.search.question is not None:
            self.search.answer(yes)
            self._run(self._advance(self.search))

    def enter_servers(self, given: Mapping[str, str]) -> dict[str, str]:
        """Take the servers that the owner entered by kind, and how to encrypt by KIND_tls: "" as the port says.

        Return what is wrong, by field, as the key of its text. Only while they are asked for: a test that is over
        holds for no others.
        """
        if self.step is not Step.SERVERS:
            return {}
        errors, candidates = {}, []
        for kind in ORDER:
            if text := given.get(kind.value, ""):
                try:
                    tls = ENCRYPTION.get(given.get(f"{kind}_tls", ""))
                    candidates.append(parse_server(kind, text, tls))
                except FieldError as error:
                    errors[kind.value] = "wrong_tls" if error.field == "tls" else "not_server"
        if errors or not candidates:
            return errors or {Kind.IMAP.value: "none"}
        self.servers, self.entered = MailboxServers(tuple(candidates)), dict(given)
        self._note_change()
        return {}

    @property
    def may_change_servers(self) -> bool:
        """Whether the servers are no provider's of the catalogue, so that they may be wrong."""
        return self.servers is not None and self.servers.provider is None

    @property
    def by_hand(self) -> bool:
        """Whether the owner entered the servers."""
        return self.servers is not None and self.servers.by_hand

    def change_servers(self) -> None:
        """Go back to the servers, after a login that did not work there: they may be mistyped."""
        if self.servers is None or not self.may_change_servers or self.step not in (Step.PASSWORD, Step.TESTED):
            return
        if not self.by_hand:
            self.entered = {one.kind.value: one.endpoint for one in self.servers.candidates}
            # What the port decides stays open: who changes the port has chosen no encryption.
            chosen = (one for one in self.servers.candidates if TLS_BY_PORT.get(one.port) is not one.tls)
            self.entered |= {f"{one.kind}_tls": one.tls.value for one in chosen}
        self.servers, self.report, self._password, self.rows = None, None, None, []
        self._note_change()

    @property
    def takes_app_password(self) -> bool:
        """Whether the provider wants an app password of those who log in to it in two steps."""
        provider = self.servers.provider if self.servers else None
        return provider is not None and any("oauth2" in server.auth for server in provider.servers)

    @property
    def asks_username(self) -> bool:
        """Whether the user name may be another than the address: the catalogue does not know these servers."""
        return self.servers is not None and self.servers.provider is None

    def log_in(self, username: str, password: SecretStr) -> dict[str, str]:
        """Begin the login test; return what is wrong, by field, as the key of its text."""
        if self.servers is None or self.step is Step.TESTING:
            return {}
        if self.wait_seconds:
            return {"password": "wait"}
        if not password.get_secret_value():
            return {"password": "empty"}
        if self.asks_username and username:
            if USERNAME(username):
                return {"username": "not_username"}
            self.username = username
        self.report, self._password = None, password
        # Counted before the answer: a test that is broken off may have been a rejection.
        self._rejected.note(self.address)
        targets = login_targets(self.address, self.servers, self.username, password)
        self.rows = [ServerRow(each.kind, f"{each.host}:{each.port}") for each in targets]
        self._run(self._test(targets))
        return {}

    def grant_access(self, client: OAuth2) -> None:
        """Have the owner grant access to a client, then test the login with it."""
        if self.servers is not None and self.step is Step.OAUTH:
            self.report, self._password = None, SecretStr("")
            targets = login_targets(self.address, self.servers, self.username, SecretStr(""), client=client)
            self._run(self._grant_and_test(client, targets))

    async def _grant_and_test(self, client: OAuth2, targets: list[Target]) -> None:
        if await self.grant.obtain(client):
            self.rows = [ServerRow(each.kind, f"{each.host}:{each.port}") for each in targets]
            await self._test(targets, AccessTokens())

    def answers(self) -> MailboxAnswers | None:
        """Return the mailbox as it may be written; None before a login test has ended without a rejection."""
        if self.servers is None or self._password is None or self.report is None or not self.is_tested:
            return None
        works = self.report.works
        return MailboxAnswers(
            address=self.address,
            username=self.username,
            password=self._password,
            servers=self.servers,
            kinds=works or tuple(candidate.kind for candidate in self.servers.candidates),
            skipped={kind: printable_text(why) for kind, why in self.report.skipped.items()} if works else {},
            untested=self.is_untested,
            authority=self.authority,
            client_id=self.grant.client_id,
        )

    def back(self) -> None:
        """Go one step back: to the password after a test, else to the address."""
        if self.step is Step.TESTED:
            self.report, self._password, self.rows = None, None, []
            self._note_change()
            return
        self.discard()
        self._reset(self.address)
        self._note_change()

    def cancel(self) -> None:
        """End what runs in the background, and forget the password."""
        self._password = None
        if self._running is not None:
            self._running.cancel()

    def discard(self) -> None:
        """End what runs, and remove a grant that no config uses."""
        self.cancel()
        self.grant.discard()

    async def wait_change(self, since: int, seconds: float) -> None:
        """Wait until `change` is another than `since`, at most some seconds."""
        if self.change != since:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._running = asyncio.create_task(work)
        self._running.add_done_callback(self._ended)
        self._note_change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not with its traceback: a frame may hold the password.
            logger.error("the set-up of a mailbox failed: internal error: %s", type(error).__name__)
        self._note_change()

    def _note_change(self) -> None:
        self.change += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _advance(self, search: ServerSearch) -> None:
        async for finding in search.advance():
            self.findings.append(finding)
            self._note_change()
        # A confirmed typing error changes the address.
        self.address = search.address
        self.username = search.servers.username or search.address if search.servers else search.address
        if search.ended and search.servers is not None:
            self.servers = search.servers

    async def _test(self, targets: list[Target], tokens: AccessTokens | None = None) -> None:
        rows = {row.kind: row for row in self.rows}
        results: list[ServerResult] = []
        async for event in try_logins(targets, tokens=tokens):
            rows[event.target.kind].note(event)
            if isinstance(event, ServerResult):
                results.append(event)
            self._note_change()
        self.report = report(results)
        if self.is_rejected:
            self._password = None
        elif tokens is None:
            self._rejected.undo(self.address)


def missing_kinds(servers: MailboxServers) -> list[Kind]:
    """Return the kinds for which no server was found."""
    found = {candidate.kind for candidate in servers.candidates}
    return [kind for kind in MAILBOX_KINDS if kind not in found]

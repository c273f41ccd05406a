"""Asks for the password and tests it as `mailwatch run` will use it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from mailwatch.cli.init.prompts import OptionError, Prompts, WizardStoppedError
from mailwatch.cli.live_table import LiveProbe, reason_of, run_live
from mailwatch.config.errors import FieldError
from mailwatch.config.secrets import read_secret, readable_by_others
from mailwatch.model import Cause, Kind
from mailwatch.settings import Target
from mailwatch.setup.checks import USERNAME, ca_file_problem
from mailwatch.setup.login_test import (
    MAX_TRIES,
    LoginReport,
    PhaseEvent,
    ServerResult,
    Verdict,
    login_targets,
    report,
    try_logins,
)
from mailwatch.setup.servers import APP_PASSWORD_PAGES, MailboxServers


@dataclass(frozen=True, slots=True)
class TestedLogin:
    """The result: the kinds that work, and those left out with the reason. `untested`: no test was conclusive."""

    password: SecretStr
    username: str
    kinds: tuple[Kind, ...]
    skipped: dict[Kind, str]
    ca_file: Path | None = None
    untested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """What the command line gives for the login."""

    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


class LoginPrompts:
    """Asks for what a login needs, and tests it: at most MAX_TRIES passwords."""

    def __init__(self, prompts: Prompts, address: str, servers: MailboxServers, options: LoginOptions) -> None:
        self._prompts, self._address, self._servers, self._options = prompts, address, servers, options
        self._username = options.username or servers.username or address
        # The catalogue knows the form of its providers' user names.
        self._may_change = servers.provider is None and options.username is None
        self._ca_file = options.ca_file

    def ask(self) -> TestedLogin:
        """Ask and test until a login works, or the user gives up. Raises WizardStoppedError, OptionError,
        MissingAnswerError, PasswordVisibleError, EOFError.
        """
        prompts = self._prompts
        provider = self._servers.provider
        if provider is not None and any("oauth2" in server.auth for server in provider.servers):
            prompts.show("app_password", provider=provider.name)
            if page := APP_PASSWORD_PAGES.get(provider.key):
                prompts.show("app_password_page", page=page)
        for tried in range(1, MAX_TRIES + 1):
            password = self._password()
            tested = self._test(password)
            if tested.verdict is Verdict.WORKS:
                return self._result_of(password, tested)
            if tested.verdict is not Verdict.REJECTED:
                return self._untested_result(password, tested)
            prompts.show("rejected")
            if self._options.password_file is not None or tried == MAX_TRIES:
                break
            prompts.show("rejected_why")
            prompts.show("again", tried=tried, most=MAX_TRIES)
        prompts.show("rejected_why" if self._options.password_file else "rejected_last")
        prompts.show("nothing")
        raise WizardStoppedError

    def _ask_username(self) -> None:
        self._username = self._prompts.ask(
            "ask_username", "--username NAME", default=self._username, check=USERNAME
        )

    def _password(self) -> SecretStr:
        """Return the password from the file, else from the user, who may first change the user name."""
        prompts = self._prompts
        if self._options.password_file is not None:
            return _file_password(prompts, self._options.password_file)
        if self._may_change:
            prompts.show("user_is", username=self._username)
            if (password := prompts.password_or_skip("ask_password_or_user")) is not None:
                return password
            # The user name is asked for only here: a password that is typed is never taken for one.
            self._ask_username()
        return prompts.password()

    def _test(self, password: SecretStr) -> LoginReport:
        """Test the login; a certificate that is not trusted may be followed by its authority's file."""
        prompts, ask_for_file = self._prompts, self._servers.provider is None
        while True:
            targets = login_targets(self._address, self._servers, self._username, password, self._ca_file)
            prompts.show("trying")
            tested = asyncio.run(_show_tests(targets))
            if tested.verdict is not Verdict.UNTRUSTED:
                return tested
            prompts.show("untrusted")
            if not ask_for_file or not prompts.interactive or self._options.ca_file or prompts.yes:
                return tested
            file = prompts.ask_or_skip("ask_ca_file", "--ca-file FILE", check=ca_file_problem)
            if not file:
                return tested
            self._ca_file = Path(file).expanduser()

    def _result_of(self, password: SecretStr, tested: LoginReport) -> TestedLogin:
        self._prompts.show("works")
        skipped = {one.target.kind: reason_of(one.observation) for one in tested.results if not one.works}
        for kind, why in skipped.items():
            self._prompts.show("left", kind=self._prompts.texts.section("kinds")[kind], why=why)
        return TestedLogin(password, self._username, tested.works, skipped, self._ca_file)

    def _untested_result(self, password: SecretStr, tested: LoginReport) -> TestedLogin:
        deciding = tested.deciding.observation if tested.deciding else None
        if tested.verdict is Verdict.OFFLINE:
            self._prompts.show("offline_login")
        elif deciding is not None and deciding.cause is Cause.TLS:
            if tested.verdict is not Verdict.UNTRUSTED:
                self._prompts.show("no_tls")
        elif deciding is not None and deciding.cause is Cause.CREDENTIALS:
            self._prompts.show("password_unanswered")
        elif self._servers.by_hand:
            self._prompts.show("none_works_by_hand")
        else:
            online = deciding is not None and deciding.guard is not None and deciding.guard.online
            self._prompts.show("none_works_online" if online else "none_works")
        if not self._prompts.agree("ask_anyway", default=False):
            self._prompts.show("nothing")
            raise WizardStoppedError
        kinds = tuple(candidate.kind for candidate in self._servers.candidates)
        return TestedLogin(password, self._username, kinds, {}, self._ca_file, untested=True)


async def _show_tests(targets: Sequence[Target]) -> LoginReport:
    """Test the logins in a live table."""
    rows: dict[Kind, LiveProbe] = {}
    shown: list[LiveProbe] = []

    async def follow() -> LoginReport:
        results = []
        async for event in try_logins(targets):
            kind = event.target.kind
            if kind not in rows:
                shown.append(rows.setdefault(kind, LiveProbe(event.target)))
            match event:
                case PhaseEvent():
                    rows[kind].phase_event(event.phase, event.progress, round(event.milliseconds * 1000))
                case ServerResult():
                    rows[kind].observation = event.observation
                    results.append(event)
        return report(results)

    return await run_live(follow(), shown, Console(stderr=True))


def _file_password(prompts: Prompts, file: Path) -> SecretStr:
    try:
        password = read_secret(file, None)
    except FieldError as fault:
        raise OptionError(prompts.text("bad_file", file="--password-file", what=fault)) from None
    if readable_by_others(file):
        prompts.show("open_file", file=file)
    return password

"""Asks for the password and tests it as `mailwatch run` will use it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from mailwatch.cli.init.prompts import USERNAME, OptionError, Prompts, WizardStoppedError
from mailwatch.cli.init.servers import MailboxServers
from mailwatch.cli.live_table import LiveProbe, run_live
from mailwatch.config.catalogue import server as catalogue_server
from mailwatch.config.errors import FieldError
from mailwatch.config.schema_guard import ClockSection, GuardSection
from mailwatch.config.secrets import read_secret, readable_by_others
from mailwatch.config.types import split_endpoint
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.expiry import ExpiryAttribution
from mailwatch.guard.login_backoff import LoginBackoff, unanswered
from mailwatch.model import Cause, Kind, Observation, Outcome
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation
from mailwatch.settings import Login, Target

TEST_SECONDS = 20.0


async def try_logins(targets: Sequence[Target], console: Console) -> dict[Kind, Observation]:
    """Probe the targets, and return the observations of those probed.

    One after the other until a server accepts the password, then the rest at once. A rejected password goes to no
    other server, so that one typing error is one rejection. Nor does a password without an answer: that may be a
    slow rejection, as for `mailwatch run`.
    """
    contexts = TlsContexts()
    # With the defaults of a config without these sections.
    expiry = ExpiryAttribution(
        Guard.from_config(GuardSection()), [split_endpoint(server) for server in ClockSection().servers]
    )
    begun: list[LiveProbe] = []

    async def one(target: Target) -> Observation:
        begun.append(pulse := LiveProbe(target))
        start, observation = ProbeStart(), None
        try:
            request = ProbeRequest(
                replace(target, timeout=TEST_SECONDS),
                scheduled_at=start.at,
                contexts=contexts,
                listener=pulse.phase_event,
            )
            observation = await observe(request)
            # There is no ledger yet: no password is known to have been accepted.
            pulse.observation = await expiry.attribute(
                LoginBackoff().judge_silence(target, observation, lambda _: "")
            )
        except Exception as error:
            # An error at one server must not lose the results of the others.
            pulse.observation = internal_error_observation(target, start.at, start, error, observation)
        return pulse.observation

    async def each() -> None:
        for number, target in enumerate(targets):
            observation = await one(target)
            if observation.cause is Cause.CREDENTIALS:
                return
            if observation.cause is None:
                await asyncio.gather(*(one(other) for other in targets[number + 1 :]))
                return

    await run_live(each(), begun, console)
    return {pulse.target.kind: pulse.observation for pulse in begun if pulse.observation}


MAX_TRIES = 3
"""Most passwords to try: providers lock accounts after a few more."""


@dataclass(frozen=True, slots=True)
class LoginTest:
    """The result: the kinds that work, and those left out with the reason. `untested`: no test was conclusive."""

    password: SecretStr
    username: str
    kinds: tuple[Kind, ...]
    skipped: dict[Kind, str]
    untested: bool = False


def test_login(
    prompts: Prompts, address: str, servers: MailboxServers, *, username: str | None, password_file: Path | None
) -> LoginTest:
    """Test the login at each server, with at most MAX_TRIES passwords. Raises WizardStoppedError, OptionError,
    MissingAnswerError, PasswordVisibleError, EOFError.

    Asks for the user name if it is not given and the catalogue does not have the server.
    """
    if servers.provider and any("oauth2" in server.auth for server in servers.provider.servers):
        prompts.show("app_password", provider=servers.provider.name)
    name = username or address
    for tried in range(1, MAX_TRIES + 1):
        if servers.provider is None and username is None:
            name = prompts.ask("ask_username", "--username NAME", default=name, check=USERNAME)
        password = _password(prompts, password_file)
        targets = _targets(address, servers, name, password)
        prompts.show("trying")
        observations = asyncio.run(try_logins(targets, Console(stderr=True)))
        up = tuple(kind for kind in observations if observations[kind].outcome is Outcome.UP)
        if up:
            prompts.show("works")
            return _result_of(prompts, name, password, up, observations)
        rejected = next((one for one in observations.values() if one.cause is Cause.CREDENTIALS), None)
        if rejected is None or unanswered(rejected):
            return _untested_result(prompts, name, password, tuple(target.kind for target in targets))
        prompts.show("rejected", detail=rejected.detail)
        if password_file is not None or tried == MAX_TRIES:
            break
        prompts.show("rejected_why")
        prompts.show("again", tried=tried, most=MAX_TRIES)
    prompts.show("rejected_why" if password_file else "rejected_last")
    prompts.show("nothing")
    raise WizardStoppedError


def _result_of(
    asker: Prompts, username: str, password: SecretStr, up: tuple[Kind, ...], observations: dict[Kind, Observation]
) -> LoginTest:
    left = {kind: f"{one.cause}: {one.detail}" for kind, one in observations.items() if kind not in up}
    for kind, why in left.items():
        asker.show("left", kind=asker.texts.section("kinds")[kind], why=why)
    return LoginTest(password, username, up, left)


def _untested_result(asker: Prompts, username: str, password: SecretStr, kinds: tuple[Kind, ...]) -> LoginTest:
    asker.show("none_works")
    if not asker.agree("ask_anyway", default=False):
        asker.show("nothing")
        raise WizardStoppedError
    return LoginTest(password, username, kinds, {}, untested=True)


def _password(asker: Prompts, file: Path | None) -> SecretStr:
    if file is None:
        return asker.password()
    try:
        password = read_secret(file, None)
    except FieldError as fault:
        raise OptionError(asker.text("bad_file", file="--password-file", what=fault)) from None
    if readable_by_others(file):
        asker.show("open_file", file=file)
    return password


def _targets(address: str, servers: MailboxServers, username: str, password: SecretStr) -> list[Target]:
    made = []
    for candidate in servers.candidates:
        known = catalogue_server(servers.provider.key, candidate.kind) if servers.provider else None
        login = Login(username=known.username_for(address) if known else username, password=password)
        made.append(
            Target(
                name=f"{address}/{candidate.kind}",
                kind=candidate.kind,
                host=candidate.host,
                port=candidate.port,
                tls=candidate.tls,
                login=login,
            )
        )
    return made

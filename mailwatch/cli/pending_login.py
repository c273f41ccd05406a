"""Judges unanswered passwords for probes outside `mailwatch run`, as `mailwatch run` does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from mailwatch.config import Config
from mailwatch.guard.login_backoff import LoginBackoff, unanswered_endpoint
from mailwatch.model import Observation
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Target
from mailwatch.times import now


class PendingLogins:
    """Reads from the ledger of `config`, if readable, which passwords their servers have accepted.

    `targets`: all targets of the config. An accepted password of an account at a server counts for all its
    targets.
    """

    def __init__(self, config: Config, targets: Sequence[Target], tokens: AccessTokens) -> None:
        self._config, self._tokens = config, tokens
        self._ends = [end for target in targets for end in (target, *target.endpoints) if end.login]

    async def judge_silence(self, target: Target, observation: Observation) -> Observation:
        """Judge an observation whose password got no answer; return any other observation unchanged."""
        end = unanswered_endpoint(target, observation)
        return observation if end is None else await asyncio.to_thread(self._judge, target, end, observation)

    def _judge(self, target: Target, end: Target, observation: Observation) -> Observation:
        # Imported on first use: most probes get an answer, and commands should start fast.
        from mailwatch.monitor.restore import login_observations
        from mailwatch.monitor.runner import secret_used
        from mailwatch.store import UNREADABLE, Reader
        from mailwatch.store.keys import read_secret
        from mailwatch.store.place import configured_place

        gate, secret = LoginBackoff(), b""
        at_server = {other.name: other for other in self._ends if _same_account(other, end)}
        try:
            secret = read_secret(self._config.data_dir)
            with contextlib.closing(Reader.open(configured_place(self._config))) as reader:
                gate.restore(login_observations(reader, at_server.values()), now())
        except UNREADABLE:
            # Without a readable ledger, no password is known to have been accepted.
            gate = LoginBackoff()
        return gate.judge_silence(target, observation, lambda login: secret_used(secret, login, self._tokens))


def _same_account(one: Target, other: Target) -> bool:
    """Return whether both log in to the same account at the same server."""
    return (
        (one.host, one.port, one.provider) == (other.host, other.port, other.provider)
        and one.login is not None
        and other.login is not None
        and one.login.username == other.login.username
    )


def password_notice(targets: Sequence[Target]) -> str:
    """Return a notice of the hosts that passwords will be sent to, "" if none."""
    ends = [end for target in targets for end in target.endpoints if end.login and not end.login.oauth2]
    hosts = list(dict.fromkeys(end.host for end in ends))
    return f"logs in: the password is sent to {', '.join(hosts)}" if hosts else ""

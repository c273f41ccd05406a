"""mailwatch login: the owner grants access to a mailbox, then a probe tests it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from mailwatch.cli.common import add_options, open_config
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr, translated, word
from mailwatch.cli.pending_login import PendingLogins
from mailwatch.config import Config, build_targets
from mailwatch.model import Kind, Outcome
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.oauth.flows import GRANT_SECONDS, BrowserFlow, authorization, device_code, device_grant
from mailwatch.probes.oauth.grant import Grant, GrantBusyError, lock_grant, write_grant
from mailwatch.probes.oauth.http import REQUEST_TIMEOUT_SECONDS, OAuthError, OAuthUnavailableError
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import OAuth2, Target
from mailwatch.times import now


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    verb.add_argument("address", metavar="ADDRESS", help="the address of an account, or the user name of a target")
    verb.add_argument("--device", action="store_true", help="show a code that you enter on any device")
    verb.add_argument("--timeout", type=float, default=GRANT_SECONDS, metavar="SECONDS", help=argparse.SUPPRESS)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    return log_in(open_config(args), args.address, device=args.device, timeout=args.timeout)


def log_in(config: Config, address: str, *, device: bool, timeout: float = GRANT_SECONDS) -> int:
    """Let the owner grant access to a mailbox, and test it; return the exit status.

    `device`: by a code that is entered on any device, else in a browser that reaches this machine's loopback.
    """
    targets = build_targets(config, oauth_user=address)
    if not targets:
        print_error(
            f"mailwatch: no account or target in the config logs in as {address} by OAuth 2; "
            "add oauth2: to its account (docs/how-to/oauth2.md)"
        )
        return 2
    # To most people, "it works" means that they can read mail.
    target = next((t for t in targets if t.kind is Kind.IMAP), targets[0])
    os.umask(0o077)
    try:
        tokens = AccessTokens(wait_seconds=2 * REQUEST_TIMEOUT_SECONDS)
        hearing = PendingLogins(config, targets, tokens)
        return asyncio.run(_log_in(target, tokens, hearing, device=device, timeout=timeout))
    except TimeoutError:
        print_error("mailwatch: access was not granted in time; run the command again")
    except OAuthError as error:
        print_error(f"mailwatch: access was not granted: {error}")
    except (OAuthUnavailableError, GrantBusyError) as error:
        print_error(f"mailwatch: {error}")
    return 1


async def _log_in(
    target: Target, tokens: AccessTokens, hearing: PendingLogins, *, device: bool, timeout: float
) -> int:
    client = target.login.oauth2 if target.login else None
    if target.login is None or client is None:
        raise ValueError(f"{target.name} has no login by OAuth 2")
    username = target.login.username
    grant = await (_grant_by_device(client) if device else _grant_by_browser(client, username, timeout))
    async with lock_grant(client.grant_file, REQUEST_TIMEOUT_SECONDS):
        await asyncio.to_thread(write_grant, client.grant_file, grant)
    print(tr("access granted; stored in {file}", file=client.grant_file))
    observation = await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), tokens=tokens))
    observation = await hearing.judge_silence(target, observation)
    if observation.outcome is Outcome.UP:
        print(tr("the login works: {target} is up", target=target.name))
        return 0
    cause = word("cause", observation.cause or "")
    reason = f"{word('outcome', observation.outcome)}: {cause}: {translated(observation.detail)}"
    print(tr("the login does not work yet: {target} is {reason}", target=target.name, reason=reason))
    return 1


async def _grant_by_browser(client: OAuth2, username: str, timeout: float) -> Grant:
    async with authorization(client, username) as flow:
        print_error("Grant access in your browser:\n")
        print(flow.url, flush=True)
        print_error("")
        _open_browser(flow.url)
        if sys.stdin.isatty():
            print_error("If the browser runs on another machine, paste the address it ends at here.")
            _read_pasted_urls(flow)
        with _countdown(tr("waiting for the browser"), timeout):
            return await flow.grant(timeout)


async def _grant_by_device(client: OAuth2) -> Grant:
    code = await device_code(client)
    print(tr("Open {url} and enter {code}", url=code.url, code=code.user_code), flush=True)
    with _countdown(tr("waiting until you enter the code"), code.seconds):
        return await device_grant(client, code)


def _open_browser(url: str) -> None:
    """Open a graphical browser only: a text browser would take over this terminal."""
    windows = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if windows:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _read_pasted_urls(flow: BrowserFlow) -> None:
    """Read pasted lines in a daemon thread: reading from a terminal cannot be interrupted."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(flow.handle_redirect, line)

    threading.Thread(target=read, daemon=True).start()


@contextlib.contextmanager
def _countdown(what: str, seconds: float) -> Iterator[None]:
    """Show the time left, if stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task, began = progress.add_task(what, total=seconds), time.monotonic()
        ticker = asyncio.ensure_future(_tick(progress, task, began))
        try:
            yield
        finally:
            ticker.cancel()


async def _tick(progress: Progress, task: TaskID, began: float) -> None:
    while True:
        progress.update(task, completed=time.monotonic() - began)
        await asyncio.sleep(0.5)

"""Checks whether port 25 is open from here: many lines of homes and clouds block it, not the exchangers.

Only a greeting counts: a middlebox may accept a connection that leads nowhere.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase
from mailwatch.net import is_address, plain_host
from mailwatch.settings import Target

logger = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
OPEN_VALID_SECONDS = 600.0
CLOSED_VALID_SECONDS = 60.0
"""Seconds for which a result is valid. A blocked line stays blocked, but silent controls may come back."""

OK = "ok"
MONITOR = "monitor"
"""The reason of a control that could not be asked by our own fault."""
_LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_LOCAL_LOOKUP_ERRORS = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})
_PHASES_BEFORE_GREETING = frozenset({Phase.RESOLVE, Phase.CONNECT, Phase.GREETING})


@dataclass(frozen=True, slots=True)
class _CheckResult:
    """The answers of some controls, and when they were asked on the monotonic clock."""

    answers: dict[str, str]
    at: float

    @property
    def is_open(self) -> bool | None:
        if OK in self.answers.values():
            return True
        return None if MONITOR in self.answers.values() or not self.answers else False

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.at < (OPEN_VALID_SECONDS if self.is_open else CLOSED_VALID_SECONDS)


class Port25:
    """Asks other operators' exchangers (`controls`, host names) for a greeting when a domain's own are silent."""

    def __init__(self, controls: Sequence[str], *, port: int = 25, seconds: float = GREETING_SECONDS) -> None:
        self._controls = tuple(controls)
        self._port = port
        self._seconds = seconds
        self._rounds: dict[tuple[str, ...], asyncio.Task[_CheckResult]] = {}
        self._warned = False

    async def attribute(self, target: Target, observation: Observation) -> Observation:
        """Return a failure with the controls' answers, as unknown if no exchanger at all greets us."""
        if not self._controls or target.port != self._port or not _is_silent(target, observation):
            return observation
        result = await self._check(_independent_controls(self._controls, target, observation))
        if observation.guard is not None:
            controls = observation.guard.controls | {
                f"{host}:{self._port}": reason for host, reason in result.answers.items()
            }
            observation = replace(observation, guard=replace(observation.guard, controls=controls))
        was = f"(was: {observation.cause}: {observation.detail})"
        if result.is_open:
            return observation
        if result.is_open is None:
            why = f"whether port {self._port} is open from here is unknown {was}"
            return replace(observation, outcome=Outcome.UNKNOWN, cause=Cause.MONITOR, detail=why)
        if not self._warned:
            self._warned = True
            logger.warning(
                "port %d is blocked on this line: no MX host of any operator greets us, so MailWatch cannot check "
                "mx targets from here; ask the provider of the line to open it, or remove them",
                self._port,
            )
        why = f"not possible from here: port {self._port} is blocked on this line {was}"
        return replace(observation, outcome=Outcome.UNKNOWN, cause=Cause.OFFLINE, detail=why)

    async def _check(self, hosts: tuple[str, ...]) -> _CheckResult:
        """Ask the controls, or return their recent answers; concurrent callers share one round."""
        latest = self._rounds.get(hosts)
        if latest is None or _is_spent(latest):
            latest = self._rounds[hosts] = asyncio.ensure_future(self._round(hosts))
        # Shielded: a cancelled caller must not take the answer from the others.
        return await asyncio.shield(latest)

    async def _round(self, hosts: tuple[str, ...]) -> _CheckResult:
        began = time.monotonic()
        tasks = {host: asyncio.ensure_future(self._greeting_reason(host)) for host in hosts}
        pending = set(tasks.values())
        try:
            while pending and not any(task.result() == OK for task in tasks.values() if task.done()):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        answers = {host: "not awaited" if task.cancelled() else task.result() for host, task in tasks.items()}
        return _CheckResult(answers, began)

    async def _greeting_reason(self, host: str) -> str:
        """Return "ok" after a 220 greeting, else the reason."""
        greeting = ""
        try:
            async with asyncio.timeout(self._seconds):
                for address in await _addresses(host, self._port):
                    greeting = await _greeting(address, self._port)
                    if greeting == OK:
                        break
        except TimeoutError:
            return greeting or "timeout"
        except socket.gaierror as error:
            return MONITOR if error.errno in _LOCAL_LOOKUP_ERRORS else "unresolved"
        except Exception:
            logger.exception("the request to control %s failed: internal error", host)
            return MONITOR
        return greeting


def _is_spent(round_: asyncio.Task[_CheckResult]) -> bool:
    """Return whether a round must be repeated: it is old, or a fault of our own ended it."""
    return round_.done() and (round_.cancelled() or round_.exception() is not None or not round_.result().is_fresh)


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv4 first: with a broken IPv6 setup, its addresses are silent.
    return sorted({str(entry[4][0]) for entry in found}, key=lambda address: ":" in address)


async def _greeting(address: str, port: int) -> str:
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port, limit=4096)
        line = await reader.readline()
        if not line.startswith(b"220"):
            return "greets otherwise" if line else "disconnected"
        writer.write(b"QUIT\r\n")
        return OK
    except ConnectionRefusedError:
        return "refused"
    except ValueError:
        return "greets otherwise"  # with a line longer than any greeting
    except OSError as error:
        if isinstance(error, TimeoutError):
            return "timeout"
        return MONITOR if error.errno in _LOCAL_ERRNOS else "unreachable"
    finally:
        if writer is not None:
            writer.close()


def _is_silent(target: Target, observation: Observation) -> bool:
    """Return whether connections were tried and no exchanger greeted us."""
    if target.kind is not Kind.MX or observation.outcome is not Outcome.DOWN:
        return False
    attempts = observation.attempts
    return any(made.peer for made in attempts) and not any(
        made.replies or made.failed_phase not in _PHASES_BEFORE_GREETING for made in attempts
    )


def _independent_controls(controls: Sequence[str], target: Target, observation: Observation) -> tuple[str, ...]:
    """Return the controls that are not the provider's own, whose silence would prove nothing about the line."""
    names = [target.host, *(str((made.facts or {}).get("exchanger", "")) for made in observation.attempts)]
    own = {_owner(name) for name in names if name}
    return tuple(control for control in controls if _owner(control) not in own)


def _owner(host: str) -> str:
    """Return the last two labels of a name, which identify most operators; an address unchanged."""
    return plain_host(host) if is_address(host) else ".".join(host.lower().rstrip(".").split(".")[-2:])

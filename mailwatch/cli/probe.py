"""mailwatch probe: one look now at each target, phase by phase, like a doctor reading a pulse."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from rich.live import Live
from rich.table import Table
from rich.text import Text

from mailwatch.cli.opening import open_config, options, stdout
from mailwatch.config import Config, build_targets
from mailwatch.guard import Guard, judge, names_matter
from mailwatch.models import Kind, Observation, Outcome, Phase, Target, now
from mailwatch.oauth.access import AccessTokens
from mailwatch.oauth.request import TIMEOUT
from mailwatch.port25 import Port25
from mailwatch.probes import TlsContexts, observe
from mailwatch.records import observation_json

_COLOURS = {Outcome.UP: "green", Outcome.DOWN: "red", Outcome.UNKNOWN: "yellow"}
_MARKS = {Outcome.UP: "● up", Outcome.DOWN: "▼ down", Outcome.UNKNOWN: "? unknown"}
_COMMON = (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING)
_WITH_LOGIN = {
    Kind.IMAP: (Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.POP3: (Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.SMTP: (Phase.AUTH, Phase.SUBMIT),
    Kind.ROUNDTRIP: (Phase.AUTH, Phase.MAILBOX, Phase.SUBMIT, Phase.DELIVER),
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    verb = subparsers.add_parser("probe", help="look once now; exit 0 all up, 1 some down, 3 some unknown")
    options(verb)
    verb.add_argument("targets", nargs="*", metavar="TARGET", help="names from the config; without, all")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    targets = build_targets(config)
    unknown = set(args.targets) - {target.name for target in targets}
    if unknown:
        names = ", ".join(target.name for target in targets)
        print(f"mailwatch: no target {', '.join(sorted(unknown))}; there are {names}", file=sys.stderr)
        return 2
    wanted = [target for target in targets if not args.targets or target.name in args.targets]
    seen = asyncio.run(_look(config, wanted, show=not args.json))
    if args.json:
        told = [observation_json(o, t.provider, t.kind) for t, o in zip(wanted, seen, strict=True)]
        print(json.dumps(told, indent=2, ensure_ascii=False))
    outcomes = {observation.outcome for observation in seen}
    return 1 if Outcome.DOWN in outcomes else 3 if Outcome.UNKNOWN in outcomes else 0


async def _look(config: Config, targets: list[Target], *, show: bool) -> list[Observation]:
    console = stdout()
    pulses = [Pulse(target) for target in targets]
    contexts, guard, tokens = TlsContexts(), Guard.of(config.guard), AccessTokens(patience=2 * TIMEOUT)
    port25 = Port25(config.guard.port25_controls if config.guard else ())
    # At most a screenful at once, so that one look does not disturb the timing of another.
    at_once = asyncio.Semaphore(8)

    async def one(pulse: Pulse) -> Observation:
        async with at_once:
            seen = await observe(
                pulse.target, scheduled_at=now(), contexts=contexts, watch=pulse.watch, tokens=tokens
            )
            if guard and seen.outcome is Outcome.DOWN:
                target = pulse.target
                names = names_matter(seen, target.host)
                answer = await guard.ask(target.provider or target.host, dns=names, since=seen.started_at)
                seen = await port25.judge(target, judge(seen, answer))
            pulse.seen = seen
            return seen

    looks = asyncio.gather(*(one(pulse) for pulse in pulses))
    if show and console.is_terminal:
        with Live(console=console, refresh_per_second=12, get_renderable=lambda: _table(pulses)):
            seen = await looks
    else:
        seen = await looks
        if show:
            console.print(_table(pulses))
    return list(seen)


class Pulse:
    """One look as it happens: which phase is under way and what the earlier ones took."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.phases: dict[Phase, int | None] = {}
        self.seen: Observation | None = None

    def watch(self, phase: Phase, event: str, microseconds: int) -> None:
        """Take in what the probe tells of its phases."""
        self.phases[phase] = microseconds if event == "end" else None

    def cell(self, phase: Phase) -> Text:
        """Draw one phase: its milliseconds, a mark while it runs, a dot before."""
        if self.seen is not None and self.seen.failed_phase is phase:
            return Text("✗", style="bold red" if self.seen.outcome is Outcome.DOWN else "bold yellow")
        if phase not in self.phases:
            return Text("·", style="dim")
        spent = self.phases[phase]
        return Text("…", style="bold cyan") if spent is None else Text(f"{spent / 1000:.0f} ms")

    def verdict(self) -> Text:
        """Draw the outcome."""
        if self.seen is None:
            return Text("looking", style="cyan")
        return Text(_MARKS[self.seen.outcome], style=f"bold {_COLOURS[self.seen.outcome]}")

    def words(self) -> str:
        """Say why it is not up, else where it was seen."""
        if self.seen is None:
            return ""
        if self.seen.outcome is Outcome.UP:
            return _where(self.seen)
        return f"{self.seen.cause}: {self.seen.detail}"


def _table(pulses: list[Pulse]) -> Table:
    walked = {phase for pulse in pulses for phase in _ladder(pulse.target)}
    phases = [phase for phase in Phase if phase in walked]
    table = Table("target", *(phase.value for phase in phases), "outcome", "", box=None, header_style="bold")
    for pulse in pulses:
        cells = (pulse.cell(phase) for phase in phases)
        # As Text: a server's words in brackets are no markup.
        table.add_row(Text(pulse.target.name), *cells, pulse.verdict(), Text(pulse.words()))
    return table


def _ladder(target: Target) -> tuple[Phase, ...]:
    if target.kind is Kind.WEBMAIL:
        return (*_COMMON, Phase.FETCH)
    if target.kind is Kind.MX:
        return (*_COMMON, Phase.SUBMIT)
    return (*_COMMON, *(_WITH_LOGIN.get(target.kind, ()) if target.ends[0].login else ()))


def _where(seen: Observation) -> str:
    """Write the exchanger and the address that served, and where redirects led from it."""
    served = seen.deciding
    if served is None:
        return ""
    facts = served.facts or {}
    words = filter(None, (str(facts.get("exchanger", "")), served.peer, served.detail))
    return " → ".join([" ".join(words), *(str(hop["url"]) for hop in facts.get("hops", [])[1:])])

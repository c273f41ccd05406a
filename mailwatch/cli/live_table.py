"""A live table of probes: the running phase, and the durations of the earlier phases."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mailwatch.kinds import KINDS
from mailwatch.model import Observation, Outcome, Phase
from mailwatch.settings import Target

T = TypeVar("T")
_COLOURS = {Outcome.UP: "green", Outcome.DOWN: "red", Outcome.UNKNOWN: "yellow"}
_MARKS = {Outcome.UP: "● up", Outcome.DOWN: "▼ down", Outcome.UNKNOWN: "? unknown"}
_COMMON = (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING)


class LiveProbe:
    """One running probe: its running phase, and the durations of its earlier phases."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.phases: dict[Phase, int | None] = {}
        self.observation: Observation | None = None

    def phase_event(self, phase: Phase, event: str, microseconds: int) -> None:
        """Record the begin or end of a phase, as the probe reports it."""
        self.phases[phase] = microseconds if event == "end" else None

    def cell(self, phase: Phase) -> Text:
        """Return the cell of one phase: its milliseconds, a mark while it runs, a dot before."""
        if self.observation is not None and self.observation.failed_phase is phase:
            return Text("✗", style="bold red" if self.observation.outcome is Outcome.DOWN else "bold yellow")
        if phase not in self.phases:
            return Text("·", style="dim")
        spent = self.phases[phase]
        return Text("…", style="bold cyan") if spent is None else Text(f"{spent / 1000:.0f} ms")

    def outcome_cell(self) -> Text:
        """Return the cell of the outcome."""
        if self.observation is None:
            return Text("checking", style="cyan")
        return Text(_MARKS[self.observation.outcome], style=f"bold {_COLOURS[self.observation.outcome]}")

    def detail(self) -> str:
        """Return why the target is not up, else the server that answered."""
        if self.observation is None:
            return ""
        if self.observation.outcome is Outcome.UP:
            return _served_by(self.observation)
        return f"{self.observation.cause}: {self.observation.detail}"


async def run_live(probes: Awaitable[T], rows: Sequence[LiveProbe], console: Console) -> T:
    """Wait for the probes; show them live at a terminal, elsewhere once they have ended."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=12, get_renderable=lambda: live_table(rows)):
            return await probes
    result = await probes
    console.print(live_table(rows))
    return result


def live_table(rows: Sequence[LiveProbe]) -> Table:
    """Return the table of all probes, one per row."""
    phases_run = {phase for pulse in rows for phase in _phases_of(pulse.target)}
    phases = [phase for phase in Phase if phase in phases_run]
    drawn = Table("target", *(phase.value for phase in phases), "outcome", "", box=None, header_style="bold")
    for pulse in rows:
        cells = (pulse.cell(phase) for phase in phases)
        # As Text, so that brackets in a server's reply are not markup.
        drawn.add_row(Text(pulse.target.name), *cells, pulse.outcome_cell(), Text(pulse.detail()))
    return drawn


def _phases_of(target: Target) -> tuple[Phase, ...]:
    facts = KINDS[target.kind]
    return (*_COMMON, *facts.phases, *(facts.login_phases if target.endpoints[0].login else ()))


def _served_by(observation: Observation) -> str:
    """Return the exchanger and the address that answered, and the redirects from it."""
    served = observation.deciding_attempt
    if served is None:
        return ""
    facts = served.facts or {}
    words = filter(None, (str(facts.get("exchanger", "")), served.peer, served.detail))
    return " → ".join([" ".join(words), *(str(hop["url"]) for hop in facts.get("hops", [])[1:])])

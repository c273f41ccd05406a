"""A live table of probes: the running phase, and the durations of the earlier phases."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mailwatch.cli.language import tr, translated, word
from mailwatch.cli.text_table import Column, TextTable, print_lines, table_width
from mailwatch.kinds import KINDS
from mailwatch.model import Observation, Outcome, Phase
from mailwatch.settings import Target

T = TypeVar("T")
_COLOURS = {Outcome.UP: "green", Outcome.DOWN: "red", Outcome.UNKNOWN: "yellow"}
_MARKS = {Outcome.UP: "●", Outcome.DOWN: "▼", Outcome.UNKNOWN: "?"}
_NOT_YET = "·"
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
            return Text(_NOT_YET, style="dim")
        spent = self.phases[phase]
        return Text("…", style="bold cyan") if spent is None else Text(f"{spent / 1000:.0f} ms")

    def outcome_cell(self) -> Text:
        """Return the cell of the outcome."""
        if self.observation is None:
            return Text(tr("checking"), style="cyan")
        outcome = f"{_MARKS[self.observation.outcome]} {word('outcome', self.observation.outcome)}"
        return Text(outcome, style=f"bold {_COLOURS[self.observation.outcome]}")

    def detail(self) -> str:
        """Return why the target is not up, else the server that answered."""
        if self.observation is None:
            return ""
        if self.observation.outcome is Outcome.UP:
            return _served_by(self.observation)
        return reason_of(self.observation)


def reason_of(observation: Observation) -> str:
    """Return why an observation is not up, in the language of the terminal."""
    cause, detail = word("cause", observation.cause or ""), translated(observation.detail)
    # Some details only repeat the cause.
    return cause if detail == cause else f"{cause}: {detail}"


async def run_live(probes: Awaitable[T], rows: Sequence[LiveProbe], console: Console) -> T:
    """Wait for the probes; show them live at a terminal, elsewhere once they have ended."""
    if console.is_terminal:
        width = table_width(console)
        with Live(
            console=console,
            refresh_per_second=12,
            get_renderable=lambda: Group(*live_table(rows, width).lines(width)),
        ):
            return await probes
    result = await probes
    print_lines(console, live_table(rows, table_width(console)))
    return result


def live_table(rows: Sequence[LiveProbe], width: int | None) -> TextTable:
    """Return the table of all probes, one per row.

    On a terminal, a row is headed by its channel, below a line with the address. In a pipe it is complete.
    """
    phases_run = {phase for pulse in rows for phase in _phases_of(pulse.target)}
    phases = [phase for phase in Phase if phase in phases_run]
    parts = [_address_and_channel(pulse.target) for pulse in rows]
    grouped = width is not None and any("/" in pulse.target.name for pulse in rows)
    drawn = TextTable(
        (
            Column(header="channel" if grouped else "target", shrinks=True),
            *(Column(header=word("phase", phase), below=True, right=True, empty=_NOT_YET) for phase in phases),
            Column(header="outcome"),
            Column(header="detail", label="", below=True),
        )
    )
    before = ""
    for pulse, (address, channel) in zip(rows, parts, strict=True):
        if grouped and address != before:
            drawn.add_heading(address)
        before = address
        cells = (pulse.cell(phase) for phase in phases)
        drawn.add_row(channel if grouped else pulse.target.name, *cells, pulse.outcome_cell(), pulse.detail())
    return drawn


def _address_and_channel(target: Target) -> tuple[str, str]:
    """Return the address and the channel of an account's target; of another its name and its kind."""
    address, slash, channel = target.name.rpartition("/")
    return (address, channel) if slash and "@" in address else (target.name, target.kind)


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

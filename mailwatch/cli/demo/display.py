"""The display of the demo: the provider's true state, and below it what MailWatch reports over its HTTP API."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mailwatch.cli.demo.line_connection import Behaviour
from mailwatch.cli.language import language, word
from mailwatch.cli.terminal_format import TerminalFormat
from mailwatch.cli.text_table import FactList
from mailwatch.i18n import Texts, decimal_point
from mailwatch.time_zone import local_zone
from mailwatch.times import Millis

SHOWN_OBSERVATIONS = 40
"""Number of latest outcomes displayed for each target."""
_TIMEOUT_SECONDS = 5.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSnapshot:
    """The API's answers at one moment. `outcomes`: by target, oldest first."""

    targets: list[Json]
    outages: list[Json]
    outcomes: dict[str, list[str]]

    @property
    def over(self) -> bool:
        """Whether every target has had an outage, and every outage has closed."""
        had = {outage["target"] for outage in self.outages}
        return had >= {target["target"] for target in self.targets} and all(
            outage["state"] == "closed" for outage in self.outages
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageComparison:
    """An outage on record and the true duration (seconds)."""

    outage: Json
    truth: float

    @property
    def bounds(self) -> tuple[float, float | None]:
        """The recorded bounds of the outage's duration (seconds)."""
        duration = self.outage["duration"]
        return duration["min"], duration["max"]

    @property
    def holds(self) -> bool:
        """Whether the outage has closed and the true duration lies within its bounds."""
        least, most = self.bounds
        return self.outage["state"] == "closed" and most is not None and least <= self.truth <= most


class ApiClient:
    """Reads the API on 127.0.0.1. Every call blocks; raises OSError without an answer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # A proxy from the environment would get the request for 127.0.0.1, and connect to itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_ready(self) -> bool:
        """Return whether MailWatch is probing and writing."""
        try:
            with self._opener.open(f"{self.url}/readyz", timeout=_TIMEOUT_SECONDS):
                return True
        except OSError:
            return False

    def snapshot(self) -> ApiSnapshot:
        """Fetch the state of all targets, their latest outcomes and all outages."""
        targets = self._get("targets")
        observations = {}
        for target in targets:
            name = target["target"]
            latest = self._get(f"observations?target={name}&limit={SHOWN_OBSERVATIONS}")
            observations[name] = [str(observation["outcome"]) for observation in reversed(latest)]
        return ApiSnapshot(targets=targets, outcomes=observations, outages=self._get("outages"))

    def _get(self, what: str) -> list[Json]:
        with self._opener.open(f"{self.url}/api/v1/{what}", timeout=_TIMEOUT_SECONDS) as answer:
            found: list[Json] = json.load(answer)
        return found


def compare_outages(
    snapshot: ApiSnapshot, down_time: tuple[Millis, Millis | None] | None
) -> list[OutageComparison]:
    """Compare each outage with the true downtime; empty until the provider has been down and up again."""
    if down_time is None or down_time[1] is None:
        return []
    truth = (down_time[1] - down_time[0]) / 1000
    return [OutageComparison(outage=outage, truth=truth) for outage in snapshot.outages]


def all_hold(found: Sequence[OutageComparison], targets: Sequence[str]) -> bool:
    """Return whether each target had exactly one outage, with the true duration within its bounds."""
    return sorted(v.outage["target"] for v in found) == sorted(targets) and all(v.holds for v in found)


_COLOURS = {"up": "green", "down": "red", "unknown": "yellow", "suspect": "yellow", "recovering": "yellow"}


def live_view(words: Texts, behaviour: Behaviour, snapshot: ApiSnapshot, url: str) -> RenderableType:
    """Return the view of one snapshot for a terminal."""
    truth = Text.assemble(
        (f"{words['provider']}: ", "bold"), (words[behaviour], "bold green" if behaviour.serves else "bold red")
    )
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Text(words[name], "dim") for name in ("target", "state", "checks")))
    for target in snapshot.targets:
        name, state = target["target"], target["state"]
        dots = Text.assemble(*(("●", _COLOURS[outcome]) for outcome in snapshot.outcomes[name]))
        dots.pad_right(SHOWN_OBSERVATIONS - len(dots), "·")
        table.add_row(name, Text(words[state], _COLOURS[state]), dots)
        table.add_row("", "", Text(outage_text(words, _outage_of(snapshot, name)), "dim"))
    return Panel(Group(truth, "", table), title=words["title"], subtitle=words["page"].format(url=url))


def outage_text(words: Texts, outage: Json | None) -> str:
    """Return an outage in one line, with the bounds known so far."""
    if outage is None:
        return f"{words['outage']}: {words['none']}"
    duration, began = outage["duration"], _local_time(outage["first_bad"])
    line = words[outage["state"]].format(
        first_bad=began[-8:], min=_seconds(duration["min"]), max=_seconds(duration["max"])
    )
    return f"{words['outage']} {outage['id']}: {line}"


class PlainNarrator:
    """Reports only changes, one line each: for logs and pipes, which cannot show a live display."""

    def __init__(self, words: Texts) -> None:
        self._words = words
        self._shown: dict[str, str] = {}

    def new_lines(self, behaviour: Behaviour, snapshot: ApiSnapshot, url: str) -> list[str]:
        """Return the lines that have changed since the last call."""
        words = self._words
        lines = {"url": words["page"].format(url=url), "": f"{words['provider']}: {words[behaviour]}"}
        for target in snapshot.targets:
            name = target["target"]
            lines[name] = f"{name}: {words['state']}: {words[target['state']]}"
        changed = [line for key, line in lines.items() if self._shown.get(key) != line]
        for outage in snapshot.outages:
            # Compare the state, not the line: the bounds of an open outage grow with every observation.
            key, line = outage["id"], f"{outage['target']}: {outage_text(words, outage)}"
            if self._shown.get(key) != outage["state"]:
                changed.append(line)
                lines[key] = outage["state"]
        self._shown |= lines
        return changed


def outage_facts(words: Texts, comparison: OutageComparison) -> FactList:
    """Return an outage in full, in local time."""
    outage = comparison.outage
    title = f"{words['record'].format(id=outage['id'])} ({outage['target']})"
    facts = FactList(Text(title, "bold"))
    for name in ("last_good", "first_bad", "last_bad", "first_good"):
        facts.add(words[name], _local_time(outage[name]) if outage[name] else "-")
    least, most = comparison.bounds
    facts.add(words["duration"], words["between"].format(min=_seconds(least), max=_seconds(most)))
    duration = outage["duration"]
    if duration["estimate"] is not None:
        estimate = f"{_seconds(duration['estimate'])} s ± {_seconds(duration['uncertainty'])} s"
        facts.add(words["estimate"], estimate)
    counts = {name: outage["observations"].get(name, 0) for name in ("down", "up", "unknown")}
    facts.add(words["observations"], words["counts"].format(**counts))
    facts.add(words["causes"], _counts("cause", outage["causes"]))
    facts.add(words["phases"], _counts("phase", outage["phases"]))
    facts.add(words["largest_gap"], f"{_seconds(outage['largest_gap'])} s")
    facts.add(words["ledger"], f"{outage['ledger']['first']}–{outage['ledger']['last']}")
    return facts


def comparison_text(words: Texts, comparison: OutageComparison) -> str:
    """Return a sentence on whether the true duration is within the bounds."""
    least, most = comparison.bounds
    key = "within" if comparison.holds else "outside"
    return words[key].format(truth=_seconds(comparison.truth), min=_seconds(least), max=_seconds(most))


def _outage_of(snapshot: ApiSnapshot, target: str) -> Json | None:
    return next((outage for outage in snapshot.outages if outage["target"] == target), None)


def _counts(kind: str, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word(kind, name)} ({count})" for name, count in counts.items() if count)


def _local_time(text: str) -> str:
    """Return an RFC 3339 time as local time; the demo runs in UTC if TZ is not a time zone."""
    return TerminalFormat(local_zone(), language()).second_of(text)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".replace(".", decimal_point(language()))

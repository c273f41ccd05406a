"""What the demo shows: the truth above, what MailWatch says of it below."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mailwatch.demo.dialogue import Mood
from mailwatch.demo.witness import LOOKS, Json, Seen, Verdict

Words = Mapping[str, str]

_COLOURS = {"up": "green", "down": "red", "unknown": "yellow", "suspect": "yellow", "recovering": "yellow"}


def live(words: Words, mood: Mood, seen: Seen, url: str) -> RenderableType:
    """Lay out one moment for a terminal."""
    truth = Text.assemble(
        (f"{words['provider']}: ", "bold"), (words[mood], "bold green" if mood.serves else "bold red")
    )
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Text(words[name], "dim") for name in ("target", "state", "looks")))
    for target in seen.targets:
        name, state = target["target"], target["state"]
        dots = Text.assemble(*(("●", _COLOURS[outcome]) for outcome in seen.looks[name]))
        dots.pad_right(LOOKS - len(dots), "·")
        table.add_row(name, Text(words[state], _COLOURS[state]), dots)
        table.add_row("", "", Text(outage_line(words, _outage_of(seen, name)), "dim"))
    return Panel(Group(truth, "", table), title=words["title"], subtitle=words["page"].format(url=url))


def outage_line(words: Words, outage: Json | None) -> str:
    """Tell an outage in one line, with its bounds as far as they are known."""
    if outage is None:
        return f"{words['outage']}: {words['none']}"
    duration = outage["duration"]
    told = words[outage["state"]].format(
        first_bad=outage["first_bad"][11:19] + "Z", min=_seconds(duration["min"]), max=_seconds(duration["max"])
    )
    return f"{words['outage']} {outage['id']}: {told}"


class Narrator:
    """Tells only what is new, a line each: for logs and pipes, where a live display is none."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._told: dict[str, str] = {}

    def news(self, mood: Mood, seen: Seen, url: str) -> list[str]:
        """Return the lines that have changed since the last call."""
        words = self._words
        lines = {"url": words["page"].format(url=url), "": f"{words['provider']}: {words[mood]}"}
        for target in seen.targets:
            name = target["target"]
            lines[name] = f"{name}: {words['state']}: {words[target['state']]}"
        changed = [line for key, line in lines.items() if self._told.get(key) != line]
        for outage in seen.outages:
            # The state and not the line: the bounds of an open outage grow with every look.
            key, line = outage["id"], f"{outage['target']}: {outage_line(words, outage)}"
            if self._told.get(key) != outage["state"]:
                changed.append(line)
                lines[key] = outage["state"]
        self._told |= lines
        return changed


def record(words: Words, verdict: Verdict) -> RenderableType:
    """Lay out an outage in full, and the truth beside it."""
    outage = verdict.outage
    table = Table.grid(padding=(0, 2))
    for name in ("last_good", "first_bad", "last_bad", "first_good"):
        table.add_row(words[name], outage[name] or "-")
    table.add_row(words["duration"], " .. ".join(f"{_seconds(bound)} s" for bound in verdict.bounds))
    duration = outage["duration"]
    if duration["estimate"] is not None:
        estimate = f"{_seconds(duration['estimate'])} s ± {_seconds(duration['uncertainty'])} s"
        table.add_row(words["estimate"], estimate)
    for name in ("observations", "causes", "phases"):
        table.add_row(words[name], _counts(outage[name]))
    table.add_row(words["largest_gap"], f"{_seconds(outage['largest_gap'])} s")
    table.add_row(words["ledger"], f"{outage['ledger']['first']}..{outage['ledger']['last']}")
    truth = Text(truth_line(words, verdict), "bold green" if verdict.holds else "bold red")
    title = f"{words['record'].format(id=outage['id'])} ({outage['target']})"
    return Group(Text(title, "bold"), table, truth)


def truth_line(words: Words, verdict: Verdict) -> str:
    """Say whether the truth lies inside the bounds."""
    least, most = verdict.bounds
    key = "within" if verdict.holds else "outside"
    return words[key].format(truth=_seconds(verdict.truth), min=_seconds(least), max=_seconds(most))


def _outage_of(seen: Seen, target: str) -> Json | None:
    return next((outage for outage in seen.outages if outage["target"] == target), None)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

"""The overview: whether mail works now, and a card for each target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailwatch.analysis.rolling_availability import AvailabilityRatio
from mailwatch.times import Millis
from mailwatch.web.charts import DayBar, day_bars
from mailwatch.web.read_model import PublicTargetJson, ReadModel, TargetCard

MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline of the overview. It comes first on the page, so it must be true and plain.

    `text`: key of its words (`headline` and `headline_text` in en.yaml). `state`: its colour and symbol.
    """

    text: str
    state: str
    count: int
    of: int
    names: tuple[str, ...]
    """Some of the targets that are not up: those that are down, else those of unknown state."""
    more: int
    """Number of those targets that are not in `names`."""


def headline(targets: Sequence[PublicTargetJson], *, stale: bool) -> Headline:
    """Summarise the states of all targets. `stale`: the data may be old, so no state of mail is given.

    One target that is down outweighs all others. An unknown target does not count as up, and does not make the
    others unknown.
    """
    up = [target["target"] for target in targets if target["state"] == "up"]
    down = [target["target"] for target in targets if target["state"] == "down"]
    doubtful = [target["target"] for target in targets if target["state"] not in ("up", "down")]
    of = len(targets)
    if stale or not targets:
        return Headline("stale" if stale else "no_targets", "unknown", 0, of, (), 0)
    if down:
        return _named("all_down" if len(down) == of else "some_down", "down", len(down), of, down)
    if doubtful:
        return _named("none_down" if up else "all_unknown", "unknown", len(up), of, doubtful)
    return Headline("all_up", "up", len(up), of, (), 0)


def _named(text: str, state: str, count: int, of: int, names: Sequence[str]) -> Headline:
    return Headline(text, state, count, of, tuple(names[:MAX_NAMES]), len(names[MAX_NAMES:]))


@dataclass(frozen=True, slots=True)
class PhaseBar:
    """The bar of one phase of a probe; `x` and `width` in per cent of all phases."""

    name: str
    seconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTarget:
    """A target with its card, ready to draw. `number`: its place on the page."""

    target: PublicTargetJson
    number: int
    duration: float
    phases: Sequence[PhaseBar]
    bars: Sequence[DayBar]
    listed: Sequence[DayBar]
    """The days also listed as text, newest first: today, and the days with anything but up."""
    ratio: AvailabilityRatio
    is_filling: bool


def draw_targets(
    read_model: ReadModel, targets: Iterable[PublicTargetJson], at: Millis
) -> list[tuple[str, list[DrawnTarget]]]:
    """Lay out the cards of targets, grouped by provider."""
    groups: dict[str, list[DrawnTarget]] = defaultdict(list)
    for number, target in enumerate(targets):
        card = read_model.target_card(target["target"], at)
        groups[target["provider"]].append(_draw(target, number, card))
    return list(groups.items())


def _draw(target: PublicTargetJson, number: int, card: TargetCard) -> DrawnTarget:
    bars = day_bars(card.days)
    listed = [bar for bar in bars if bar.state not in ("up", "nodata") or bar is bars[-1]]
    return DrawnTarget(
        target=target,
        number=number,
        duration=card.duration,
        phases=_phase_bars(card),
        bars=bars,
        listed=listed[::-1],
        ratio=card.ratio,
        is_filling=card.is_filling,
    )


def _phase_bars(card: TargetCard) -> list[PhaseBar]:
    total = sum(card.phases.values()) or 1.0
    x, bars = 0.0, []
    for phase, seconds in card.phases.items():
        width = seconds / total * 100
        bars.append(PhaseBar(phase, seconds, round(x, 2), round(width, 2)))
        x += width
    return bars

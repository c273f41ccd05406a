"""The rows of the overview's list, each rendered once until something about its target changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from zoneinfo import ZoneInfo

from markupsafe import Markup

from mailwatch.analysis.rolling_availability import AvailabilityRatio
from mailwatch.times import Millis
from mailwatch.web.charts import BarPath, bar_paths, spark_path
from mailwatch.web.public_shapes import PublicTargetJson
from mailwatch.web.read_model import ReadModel, TargetCard
from mailwatch.web.templating import template_environment

MAX_ROWS = 2000
"""Rendered rows that are kept, of about 3 KB each."""
RENEWED_MS: Millis = 300_000
"""The bars of a row are rendered anew at least this often: its availability changes with time alone."""
FULL_COVERAGE = 0.95
"""Below this share of the 90 days, the row says how much was observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCheck:
    """What the latest checks of a target gave, ready to draw."""

    target: PublicTargetJson
    since: Millis | None
    """The first failed check of its open outage."""
    response: float | None
    """Seconds of the latest check; None if it failed or is not public."""
    spark: str
    """The path of the response times of the last day; "" if none is known."""
    fastest: float | None
    slowest: float | None
    """The least and the greatest median of the last day, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The ninety days of a target, ready to draw."""

    paths: Sequence[BarPath]
    runs: str
    """The days as text, as `bar_paths` returns them."""
    bad_days: int
    ratio: AvailabilityRatio
    is_filling: bool
    is_partial: bool
    """Whether much of the 90 days was not observed."""


def latest_check(
    target: PublicTargetJson, since: Millis | None, card: TargetCard, series: Sequence[Millis | None]
) -> LatestCheck:
    """Lay out the first cells of a row."""
    known = [value / 1000 for value in series if value is not None]
    return LatestCheck(
        target=target,
        since=since,
        response=sum(card.phases.values()) if card.phases and target["outcome"] == "up" else None,
        spark=spark_path(series),
        fastest=min(known, default=None),
        slowest=max(known, default=None),
    )


def history(card: TargetCard) -> History:
    """Lay out the last cells of a row."""
    paths, runs = bar_paths(card.days)
    return History(
        paths=paths,
        runs=runs,
        bad_days=sum(day.down > 0 for day in card.days),
        ratio=card.ratio,
        is_filling=card.is_filling,
        is_partial=(card.ratio.coverage or 0.0) < FULL_COVERAGE,
    )


@dataclass(slots=True)
class _Kept:
    """A rendered row, and what it was rendered from."""

    facts: object
    row: Markup
    history_facts: object
    history: Markup


class RowCache:
    """Renders rows, and keeps the latest ones. Rows are rendered in threads.

    The bars change far less often than the latest check, so they are kept apart. `linked` returns whether each
    target has a page of its own.
    """

    def __init__(self, read_model: ReadModel, *, linked: Callable[[], bool]) -> None:
        self._read_model, self._linked = read_model, linked
        self._rows: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, target: PublicTargetJson, since: Millis | None, at: Millis, language: str) -> Markup:
        """Return the row of a target in a language."""
        name, zone = target["target"], self._read_model.zone
        key = (name, language)
        # Not all at once: the rows are renewed at times of their own.
        renewal = (at + hash(name) % RENEWED_MS) // RENEWED_MS
        history_facts = (target["state"], target["outage"], renewal)
        facts = (tuple(target.values()), since, renewal, zone.key)
        with self._lock:
            kept = self._rows.get(key)
            if kept is not None:
                self._rows.move_to_end(key)
        if kept is not None and kept.facts == facts:
            return kept.row
        macros = _macros(language, zone)
        card = self._read_model.target_card(name, at)
        if kept is not None and kept.history_facts == history_facts:
            bars = kept.history
        else:
            bars = macros.history(history(card))
        series = self._read_model.response_series(name, at)
        row = macros.row(latest_check(target, since, card, series), bars, at, self._linked())
        if not card.is_filling:
            self._keep(key, _Kept(facts, row, history_facts, bars))
        return row

    def _keep(self, key: tuple[str, str], kept: _Kept) -> None:
        with self._lock:
            self._rows[key] = kept
            while len(self._rows) > MAX_ROWS:
                self._rows.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Macros:
    """The macros of rows.html with the texts and formats of a language; they escape what they are given."""

    row: Callable[[LatestCheck, Markup, Millis, bool], Markup]
    history: Callable[[History], Markup]


@cache
def _macros(language: str, zone: ZoneInfo) -> _Macros:
    module = vars(template_environment(language, zone).get_template("rows.html").module)
    return _Macros(row=module["row"], history=module["history"])

"""News in words: one text for all that is told together, in the language and time zone of the channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from mailwatch.i18n import span
from mailwatch.model import News
from mailwatch.settings import Channel
from mailwatch.times import Millis, now

LATE: Millis = 120_000
"""News that are older than this when they are sent say so."""
_OTHERWISE = {
    "unwatched": "unwatched",
    "proven_afterwards": "proven",
    "unanswered": "unanswered",
    "over": "monitor_over",
    "moved": "moved",
}
LINES = 20
"""More are counted only: some channels take no long text."""


@cache
def words(lang: str) -> dict[str, Any]:
    """Read the texts of a language."""
    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{lang}.yaml").read_text("utf-8"))
    return read


def text_of(news: Sequence[News], channel: Channel, at: Millis) -> tuple[str, str]:
    """Write title and body of news sent at that time. What begins with a name is sorted by it."""
    texts = words(channel.lang)
    kinds: dict[str, list[News]] = {}
    for each in news:
        kinds.setdefault(_kind(each), []).append(each)
    title = ", ".join(_title(texts["title"][kind], alike) for kind, alike in kinds.items())
    lines = [_line(each, channel, at) for each in news[:LINES]]
    if len(news) > LINES:
        lines.append(texts["more"].format(count=len(news) - LINES))
    return f"MailWatch: {title}", "\n".join(lines)


def trial_text(channel: Channel, vantage_point: str) -> tuple[str, str]:
    """Write a message that only shows that the channel works."""
    texts = words(channel.lang)["trial"]
    at = _time(now(), channel)
    return f"MailWatch: {texts['title']}", texts["body"].format(vantage_point=vantage_point, time=at)


def _kind(news: News) -> str:
    """Its topic, but for what its topic's words would not be true of.

    An outage that was proven afterwards was never reported as open, one whose target is watched no more has no
    end, and a login that got no answer was not rejected.
    """
    return next((kind for fact, kind in _OTHERWISE.items() if news.facts.get(fact)), news.topic.value)


def _title(forms: Sequence[str], alike: Sequence[News]) -> str:
    one, many = forms
    form = one if len(alike) == 1 else many
    return form.format(count=len(alike), target=alike[0].facts.get("target", ""))


def _line(news: News, channel: Channel, at: Millis) -> str:
    texts = words(channel.lang)
    facts = {key: _shown(key, value, channel) for key, value in news.facts.items()}
    for key, millis in news.facts.get("duration_ms", {}).items():
        facts[key] = texts["unknown"] if millis is None else span(millis / 1000, up=key == "max")
    form = texts[_kind(news)]
    # What MailWatch finds wrong with itself has words for each sign.
    line: str = (form[news.facts["sign"]] if isinstance(form, dict) else form).format_map(facts)
    if news.facts.get("maintenance"):
        line += texts["maintenance"]
    if at - news.time > LATE + channel.group * 1000:
        line += texts["late"].format(time=_time(news.time, channel))
    return line


def _shown(key: str, value: Any, channel: Channel) -> str:
    if key == "targets":
        return ", ".join(map(str, value))
    if key == "sign":
        return str(words(channel.lang)["sign"][value])
    if key == "causes":
        causes = words(channel.lang)["cause"]
        return ", ".join(causes.get(cause, cause) for cause in value)
    if key.startswith(("first_", "last_", "not_after")):
        return words(channel.lang)["unknown"] if value is None else _time(value, channel)
    return str(value)


def _time(at: Millis, channel: Channel) -> str:
    local = datetime.fromtimestamp(at // 1000, ZoneInfo(channel.timezone))
    return local.strftime(words(channel.lang)["time"])

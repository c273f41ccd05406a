"""News in words: one text for all that are told together, in the language and time zone of the channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from mailwatch.lasting import span
from mailwatch.models import Channel, Millis, News

LATE: Millis = 120_000
"""News that are older than this when they are sent say so."""
LINES = 20
"""More are counted only: some channels take no long text."""


@cache
def words(lang: str) -> dict[str, Any]:
    """Read the texts of a language."""
    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{lang}.yaml").read_text("utf-8"))
    return read


def text_of(news: Sequence[News], channel: Channel, at: Millis) -> tuple[str, str]:
    """Write title and body of news of one topic, sent at that time. What begins with a name is sorted by it."""
    texts, topic = words(channel.lang), news[0].topic.value
    one, many = texts["title"][topic]
    title = (one if len(news) == 1 else many).format(count=len(news), target=news[0].facts.get("target", ""))
    lines = [_line(each, channel, at) for each in news[:LINES]]
    if len(news) > LINES:
        lines.append(texts["more"].format(count=len(news) - LINES))
    return title, "\n".join(lines)


def _line(news: News, channel: Channel, at: Millis) -> str:
    texts = words(channel.lang)
    facts = {key: _shown(key, value, channel) for key, value in news.facts.items()}
    for key, millis in news.facts.get("duration_ms", {}).items():
        facts[key] = texts["unknown"] if millis is None else span(millis / 1000, up=key == "max")
    line: str = texts[news.topic.value].format_map(facts)
    if at - news.time > LATE + channel.group * 1000:
        line += texts["late"].format(time=_time(news.time, channel.timezone))
    return line


def _shown(key: str, value: Any, channel: Channel) -> str:
    if key == "causes":
        return ", ".join(value)
    if key.startswith(("first_", "not_after")):
        return words(channel.lang)["unknown"] if value is None else _time(value, channel.timezone)
    return str(value)


def _time(at: Millis, zone: str) -> str:
    return f"{datetime.fromtimestamp(at // 1000, ZoneInfo(zone)):%Y-%m-%d %H:%M:%S %Z}"

"""Writes one text for the notifications of a message, in the language and time zone of the channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from mailwatch.i18n import Texts, format_duration, load_texts
from mailwatch.model import EventType, Notification
from mailwatch.notify.incident_text import incident_lines, incidents_title
from mailwatch.settings import Channel
from mailwatch.times import Millis, now

LATE_MS: Millis = 120_000
"""Milliseconds; a notification older than this when it is sent includes its time."""
_SPECIAL_KINDS = {
    "unwatched": "unwatched",
    "proven_afterwards": "proven",
    "unanswered": "unanswered",
    "over": "monitor_over",
    "moved": "moved",
    "witness": "witness",
    "full": "disk_full",
    "confirmed_over": "confirmed_over",
}
MAX_LINES = 20
"""The number of lines; further ones are only counted, since some channels take no long text."""


def texts(language: str) -> Texts:
    """Return the texts of a language."""
    return load_texts("mailwatch.notify", f"{language}.yaml")


def message_text(notifications: Sequence[Notification], channel: Channel, at: Millis) -> tuple[str, str]:
    """Return title and body of notifications sent at `at`. The title begins with our name, for sorting."""
    written = texts(channel.lang)
    kinds: dict[str, list[Notification]] = {}
    for each in notifications:
        kinds.setdefault(_kind(each), []).append(each)
    title = ", ".join(_title(written, kind, alike) for kind, alike in kinds.items())
    lines = [_line(each, channel, at) for each in notifications[:MAX_LINES]]
    if len(notifications) > MAX_LINES:
        lines.append(written["more"].format(count=len(notifications) - MAX_LINES))
    # Texts of several lines need a space between them.
    return f"MailWatch: {title}", ("\n\n" if any("\n" in line for line in lines) else "\n").join(lines)


def trial_message(channel: Channel, vantage_point: str) -> tuple[str, str]:
    """Return title and body of a test message."""
    written = texts(channel.lang).section("trial")
    at = _time(now(), channel)
    return f"MailWatch: {written['title']}", written["body"].format(vantage_point=vantage_point, time=at)


def _kind(notification: Notification) -> str:
    """Return the key of the text: the event type, unless its text would not be true.

    An outage proven afterwards was never reported as open; one whose target is no longer watched has no end; and a
    login without an answer was not rejected.
    """
    return next(
        (kind for fact, kind in _SPECIAL_KINDS.items() if notification.facts.get(fact)),
        notification.event_type.value,
    )


def _title(written: Texts, kind: str, alike: Sequence[Notification]) -> str:
    if kind == EventType.INCIDENT:
        return incidents_title(written, [each.facts for each in alike])
    one, many = written.section("title").lines(kind)
    form = one if len(alike) == 1 else many
    return form.format(count=len(alike), target=alike[0].facts.get("target", ""))


def _line(notification: Notification, channel: Channel, at: Millis) -> str:
    """Return the text of a notification, mostly one line."""
    written = texts(channel.lang)
    if notification.event_type is EventType.INCIDENT:
        # It has its own times: it needs no remark that it is late.
        return "\n".join(incident_lines(written, notification.facts, channel, at))
    facts = {key: _format_fact(key, value, channel) for key, value in notification.facts.items()}
    durations = notification.facts.get("duration_ms")
    for key, millis in durations.items() if isinstance(durations, dict) else ():
        known = millis is not None
        facts[key] = format_duration(millis / 1000, key == "max", channel.lang) if known else written["unknown"]
    kind = _kind(notification)
    # Problems of MailWatch itself have a text for each sign.
    form = written.section(kind)[str(notification.facts["sign"])] if written.is_section(kind) else written[kind]
    line = form.format_map(facts)
    if kind == EventType.DISK and "daily" in facts:
        line += written["disk_days"].format_map(facts)
    if isinstance(unobserved := notification.facts.get("unobserved_ms"), int):
        line += written["unobserved"].format(time=format_duration(unobserved / 1000, True, channel.lang))
    if notification.facts.get("maintenance"):
        line += written["maintenance"]
    if at - notification.time > LATE_MS + channel.group * 1000:
        line += written["late"].format(time=_time(notification.time, channel))
    return line


def _format_fact(key: str, value: object, channel: Channel) -> str:
    written = texts(channel.lang)
    if key == "sign":
        return written.section("sign")[str(value)]
    if key in ("targets", "causes") and isinstance(value, Iterable):
        causes = written.section("cause")
        return ", ".join(causes.get(each, each) if key == "causes" else str(each) for each in value)
    if key.startswith(("first_", "last_", "not_after")):
        return _time(value, channel) if isinstance(value, int) else written["unknown"]
    return str(value)


def _time(at: Millis, channel: Channel) -> str:
    local = datetime.fromtimestamp(at // 1000, ZoneInfo(channel.timezone))
    return local.strftime(texts(channel.lang)["time"])

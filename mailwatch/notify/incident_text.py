"""Writes an incident for its reader: how many of how many, since when, why, and where to read on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from mailwatch.config import catalogue
from mailwatch.i18n import Texts, format_duration
from mailwatch.notify.incident_events import IncidentStep
from mailwatch.settings import Channel
from mailwatch.times import Millis

Facts = Mapping[str, Any]
MAX_TITLES = 3
"""The number of incidents that a title names."""


def incidents_title(written: Texts, incidents: Sequence[Facts]) -> str:
    """Return the title of a message about these incidents."""
    titles = [_headline(written.section("incident"), facts) for facts in incidents[:MAX_TITLES]]
    if len(incidents) > MAX_TITLES:
        titles.append(written["more_incidents"].format(count=len(incidents) - MAX_TITLES))
    return "; ".join(titles)


def incident_lines(written: Texts, facts: Facts, channel: Channel, at: Millis) -> list[str]:
    """Return the lines about an incident in a message sent at `at`."""
    texts, zone = written.section("incident"), ZoneInfo(channel.timezone)
    over = facts["step"] == IncidentStep.OVER
    turned = facts["first_good"] if over else facts["first_bad"]
    since = "" if turned is None else texts["since"].format(time=_clock(texts, turned, at, zone))
    lines = [_headline(texts, facts, since) + (written["maintenance"] if facts.get("maintenance") else "")]
    if over:
        lines.append(_lasted(texts, facts, channel, at))
    causes = written.section("cause")
    named = ", ".join(causes.get(cause, cause) for cause in facts["causes"]) or written["unknown"]
    lines.append(texts["cause"].format(causes=named, vantage_point=facts["vantage_point"]))
    if len(names := facts["targets"]) > 1:
        more = facts["targets_down"] - len(names)
        lines.append(", ".join(names) + (texts["more_names"].format(count=more) if more else ""))
    lines.append(_where(texts, facts, channel))
    return lines


def _headline(texts: Texts, facts: Facts, since: str = "") -> str:
    """Return what is down, or works again, and how much is paused meanwhile."""
    paused = facts.get("paused", 0)
    return _what(texts, facts, since) + (texts["paused"].format(count=paused) if paused else "")


def _what(texts: Texts, facts: Facts, since: str) -> str:
    unit = "mailboxes" if "mailboxes_all" in facts else "targets"
    down, of_all = facts[f"{unit}_down"], facts[f"{unit}_all"]
    step = f"{facts['step']}_all" if facts["step"] == IncidentStep.OVER and down == of_all else facts["step"]
    if of_all == 1:
        return texts.section("single")[step].format(target=_single_name(facts), since=since)
    # One, many; or one, both, many.
    one, *between, many = texts.section(unit).lines(step)
    text = one if down == 1 else between[0] if down == 2 and between else many
    kinds = ", ".join(kind.upper() for kind in facts.get("kinds", ()))
    return text.format(
        provider=_provider_name(facts["provider"]),
        down=down,
        all=of_all,
        kinds=texts["kinds"].format(kinds=kinds) if kinds else "",
        since=since,
    )


def _single_name(facts: Facts) -> str:
    """Return the name of the only target or mailbox: what the names of its targets have in common."""
    names = facts["targets"]
    mailboxes = {name.rpartition("/")[0] for name in names}
    (common,) = mailboxes if len(mailboxes) == 1 else {""}
    return names[0] if len(names) == 1 else common or ", ".join(names)


def _provider_name(key: str) -> str:
    provider = catalogue.by_key(key)
    return provider.name if provider else key


def _clock(texts: Texts, moment: Millis, at: Millis, zone: ZoneInfo) -> str:
    """Return a local time, with its date if it is of another day than the message."""
    local, today = (datetime.fromtimestamp(each // 1000, zone) for each in (moment, at))
    if local.date() == today.date():
        return local.strftime(texts["clock"])
    return local.strftime(texts["date_clock" if local.year == today.year else "year_clock"])


def _lasted(texts: Texts, facts: Facts, channel: Channel, at: Millis) -> str:
    """Return from when until when it was down, and for how long; time without observations is named apart."""
    zone, durations = ZoneInfo(channel.timezone), facts["duration_ms"]
    begin, end = (_clock(texts, facts[key], at, zone) for key in ("first_bad", "first_good"))
    least = format_duration(durations["min"] / 1000, False, channel.lang)
    if unobserved := facts.get("unobserved_ms"):
        time = format_duration(unobserved / 1000, True, channel.lang)
        return texts["lasted_unobserved"].format(begin=begin, end=end, min=least, unobserved=time)
    line = texts["lasted"].format(begin=begin, end=end, min=least)
    if (estimate := durations["estimate"]) is not None:
        line += texts["estimate"].format(estimate=format_duration(estimate / 1000, False, channel.lang))
    return line


def _where(texts: Texts, facts: Facts, channel: Channel) -> str:
    """Return the address of its page, or its id if the pages have no address."""
    outage = facts.get("outage")
    kind, identity = ("outages", outage) if outage else ("incidents", facts["id"])
    if channel.web_url:
        return f"{channel.web_url}/{kind}/{quote(str(identity), safe='')}"
    return texts[kind].format(id=identity)

"""Turns a case into what the report prints: finished texts, and the drawing's places between 0 and 1."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.config.durations import parse
from mailwatch.evidence.case import Case
from mailwatch.evidence.report.ours import in_doubt, ours, spread, widened
from mailwatch.evidence.report.sightings import Run, Sightings
from mailwatch.evidence.report.terms import claimant, terms
from mailwatch.evidence.report.timeline import timeline
from mailwatch.evidence.report.words import words
from mailwatch.evidence.report.writing import Writing, pairs, provider_name
from mailwatch.models import GapReason, Millis

MAX_ROWS = 60


def layout(
    case: Case, seen: Sightings, statement: bytes, place: str, language: str, zone: ZoneInfo
) -> dict[str, Any]:
    """Return the data of report.typ. `place` is where the observations were made from."""
    return _Page(case, seen, place, language, zone).data(hashlib.sha256(statement).hexdigest())


class _Page:
    def __init__(self, case: Case, seen: Sightings, place: str, language: str, zone: ZoneInfo) -> None:
        self._case, self._seen, self._place = case, seen, place
        self._lang, self._zone = language, zone
        self._w = words(language)
        self._p = case.payload
        self._in = Writing.of(case.payload, language, zone)

    def data(self, digest: str) -> dict[str, Any]:
        w, p = self._w, self._p
        at = datetime.fromtimestamp(self._case.found.end.time_ms / 1000, UTC)
        closed, lasted = p["first_good"] is not None, p["duration_ms"]
        least, _ = widened(self._seen, lasted)
        drawn = timeline(p, self._seen.runs, self._in)
        headline = w["headline_closed"] if closed else w["headline_open"]
        return {
            "lang": self._lang,
            "words": {key: value for key, value in w.items() if isinstance(value, str)},
            "title": w["title"],
            "subtitle": w["subtitle"],
            "author": self._case.statement["made_by"],
            "id": p["id"],
            "date": {"year": at.year, "month": at.month, "day": at.day},
            "headline": headline if least else w["headline_none"],
            "least": self._in.span(least) if least else self._in.clock(p["first_bad"]),
            "least_ms": least,
            "sentence": self._sentence(),
            "facts": self._facts(),
            "sure": self._sure(),
            "outside": self._outside(),
            "timeline": drawn,
            "timeline_note": w["timeline_note" if drawn["looks"] else "timeline_bands"],
            "local_note": w["local_note"].format(zone=str(self._zone)),
            "runs": self._runs(),
            "runs_cut": self._cut(),
            "causes": [[w["causes"][cause], str(n)] for cause, n in p["causes"].items()],
            "phases": [[w["phases"][phase], str(n)] for phase, n in p["phases"].items()],
            "first_failure": p["first_detail"] or "–",
            "replies": p["replies"],
            "ours": ours(self._seen, self._in),
            "service": self._service(),
            "coverage": self._coverage(),
            "gaps": [self._gap(gap.reason, gap.start, gap.end) for gap in self._seen.gaps[:MAX_ROWS]],
            "method": self._method(),
            "terms": terms(self._case.statement, self._in),
            "claimant": claimant(self._case.statement, self._in),
            "integrity": self._integrity(digest),
            "tokens": [[t.authority, self._in.both(t.time), str(t.checkpoint)] for t in self._case.found.tokens],
        }

    def _sentence(self) -> str:
        p = self._p
        given = {"b": self._in.both(p["first_bad"], up=True), "c": self._in.both(p["last_bad"])}
        if p["last_good"] is not None:
            given["a"] = self._in.both(p["last_good"])
        if p["first_good"] is not None:
            given["d"] = self._in.both(p["first_good"], up=True)
        else:
            given["now"] = self._in.stamp(self._case.statement["as_of"])
        key = {
            (True, True): "between",
            (True, False): "between_open",
            (False, True): "between_began_unknown",
            (False, False): "between_unknown_open",
        }["a" in given, "d" in given]
        return str(self._w[key].format(**given))

    def _facts(self) -> list[list[str]]:
        p, w, lasted = self._p, self._w, self._p["duration_ms"]
        least, longest = widened(self._seen, lasted)
        estimate = w["no_estimate"]
        if lasted["estimate"] is not None:
            half = self._in.span(spread(self._seen, lasted["uncertainty"]), up=True, exact=True)
            estimate = f"{self._in.span(lasted['estimate'], exact=True)} ± {half}"
        most = w["unknown_yet"] if p["first_good"] is None else w["no_estimate"]
        return [
            [w["account"], p["target"]],
            [w["channel"], p["kind"].upper()],
            [w["provider"], provider_name(p["provider"])],
            [w["from_where"], self._place],
            [w["at_least"], self._in.span(least, exact=True)],
            [w["at_most"], most if longest is None else self._in.span(longest, up=True, exact=True)],
            [w["estimate"], estimate],
        ]

    def _sure(self) -> list[str]:
        p, w = self._p, self._w
        lines = [w["sure_looks"].format(**p["observations"])]
        if p.get("proven_afterwards"):
            lines.append(w["sure_proven"])
        gap, unobserved = (self._in.span(p[key], up=True) for key in ("largest_gap_ms", "unobserved_ms"))
        lines += [w["sure_gap"].format(gap=gap), w["sure_unobserved"].format(time=unobserved)]
        return lines + in_doubt(self._seen, p["duration_ms"], self._in)

    def _outside(self) -> str:
        times, w = self._case.statement["outside_times"], self._w
        a, b = times["not_before"], times["not_after"]
        kind = {(True, True): "both", (True, False): "before", (False, True): "after", (False, False): "none"}
        text: str = w[f"outside_{kind[bool(a), bool(b)]}"]
        return text.format(a=a and self._in.stamp(a), b=b and self._in.stamp(b, up=True))

    def _runs(self) -> list[dict[str, str]]:
        names = {"up": "worked", "down": "failed", "unknown": "undecided", "gap": "nobody"}
        rows = []
        for run in self._shown():
            text = str(self._w[names[run.what]])
            if run.detail:
                known = self._w["reasons" if run.what == "gap" else "causes"]
                text += f": {known[run.detail]}"
            count = "–" if run.what == "gap" else str(run.count)
            rows.append(
                {
                    "a": self._in.both(run.start),
                    "b": self._in.both(run.end),
                    "what": run.what,
                    "text": text,
                    "n": count,
                }
            )
        return rows

    def _shown(self) -> list[Run]:
        """The changes around the outage: from the last good run before it to the first good one after."""
        p = self._p
        start = p["last_good"] if p["last_good"] is not None else p["first_bad"]
        end = p["first_good"] or p["last_bad"]
        return [run for run in self._seen.runs if run.end >= start and run.start <= end][:MAX_ROWS]

    def _cut(self) -> str:
        p = self._p
        start = p["last_good"] if p["last_good"] is not None else p["first_bad"]
        end = p["first_good"] or p["last_bad"]
        left = sum(run.end >= start and run.start <= end for run in self._seen.runs) - MAX_ROWS
        return str(self._w["transitions_cut"].format(n=left + self._seen.more)) if left > 0 else ""

    def _service(self) -> list[list[str]]:
        w, service = self._w, self._case.statement["service"]
        rows: list[list[str]] = []
        if service is None:
            rows.append([w["server"], w["not_configured"]])
        else:
            if service.get("port") is not None:
                rows.append([w["port"], str(service["port"])])
            if service.get("tls") is not None:
                rows.append([w["tls"], w["tls_modes"][service["tls"]]])
            rows += [
                [w[key], self._in.span(round(parse(service[key]) * 1000))]
                for key in ("interval", "timeout")
                if service.get(key) is not None
            ]
            rows.insert(0, [w["server"], str(service.get("host") or service.get("url") or "–")])
            rows.append([w["login"], w["yes"] if service["with_login"] else w["no"]])
        peers = sorted(self._seen.addresses, key=lambda peer: -self._seen.addresses[peer])[:8]
        rows.append([w["addresses"], ", ".join(f"{peer} ({self._seen.addresses[peer]})" for peer in peers) or "–"])
        prints = sorted(set(self._seen.fingerprints.values()))[:4]
        rows.append([w["certificate"], " ".join(pairs(one) for one in prints) or "–"])
        return rows

    def _coverage(self) -> str:
        seen = self._seen
        if seen.first is None or seen.last is None:
            return ""
        given = {"a": self._in.both(seen.first), "b": self._in.both(seen.last)}
        return str(self._w["coverage_text"].format(n=seen.looks, gaps=len(seen.gaps), **given))

    def _gap(self, reason: GapReason, start: Millis, end: Millis) -> str:
        given = {"a": self._in.both(start), "b": self._in.both(end)}
        return str(self._w["gap_row"].format(reason=self._w["reasons"][reason.value], **given))

    def _method(self) -> list[str]:
        rules = self._case.statement["rules"]
        return [
            line.format(open=rules["open_after"], close=rules["close_after"]) for line in self._w["method_text"]
        ]

    def _integrity(self, digest: str) -> list[list[str]]:
        w, found = self._w, self._case.found
        return [
            [w["ledger"], self._case.statement["ledger"]],
            [w["range"], f"{found.start.size} – {found.end.size - 1}"],
            [w["checkpoints"], str(len(found.checkpoints))],
            [w["last_root"], found.end.note.split("\n")[2]],
            [w["statement_digest"], pairs(digest)],
        ]

"""What was observed and with what, and what the report says of itself: document, ledger, key and tokens."""

from __future__ import annotations

import hashlib
from typing import Any

from mailwatch.evidence.outage_case import Case
from mailwatch.evidence.report.facts import Sightings
from mailwatch.evidence.report.formatting import Writing, pairs, words
from mailwatch.times import parse_duration


def service(case: Case, seen: Sightings, writing: Writing) -> list[list[str]]:
    """Return the rows of what was looked at: as the config says, and as it answered."""
    w, told = words(writing.language), case.statement["service"]
    rows: list[list[str]] = []
    if told is None:
        rows.append([w["server"], w["not_configured"]])
    else:
        if told.get("port") is not None:
            rows.append([w["port"], str(told["port"])])
        if told.get("tls") is not None:
            rows.append([w["tls"], w["tls_modes"][told["tls"]]])
        rows += [
            [w[key], writing.span(round(parse_duration(told[key]) * 1000))]
            for key in ("interval", "timeout")
            if told.get(key) is not None
        ]
        rows.insert(0, [w["server"], str(told.get("host") or told.get("url") or "–")])
        rows.append([w["login"], w["yes"] if told["with_login"] else w["no"]])
    peers = sorted(seen.addresses, key=lambda peer: -seen.addresses[peer])[:8]
    rows.append([w["addresses"], ", ".join(f"{peer} ({seen.addresses[peer]})" for peer in peers) or "–"])
    prints = sorted(set(seen.fingerprints.values()))[:4]
    rows.append([w["tls_seen"], "; ".join(sorted(seen.ciphers)[:4]) or "–"])
    rows.append([w["certificate"], " ".join(pairs(one) for one in prints) or "–"])
    return rows


def observer(seen: Sightings, writing: Writing) -> list[list[str]]:
    """Return the rows of what observed, and of what became of it meanwhile."""
    w = words(writing.language)
    nodes = seen.nodes
    known = w["custody_none"]
    if nodes:
        events = {
            event: sum(node.get("event") == event for node in nodes) for event in ("start", "reload", "stop")
        }
        configs = len({node.get("config") for node in nodes})
        known = w["custody_text"].format(**events, configs=configs)
    latest = (nodes or [seen.node_before or {}])[-1]
    program = [f"MailWatch {latest['version']}"] if "version" in latest else []
    program += [f"Python {latest['python']}"] if "python" in latest else []
    program += [str(latest["system"])] if "system" in latest else []
    return [
        [w["program"], ", ".join(program) or w["not_known"]],
        [w["config"], pairs(str(latest["config"])) if latest.get("config") else w["not_known"]],
        [w["custody"], known],
        [w["not_recorded"], w["not_recorded_text"]],
    ]


def integrity(case: Case, digest: str, writing: Writing) -> list[list[str]]:
    """Return the rows of the document and of the ledger."""
    w, found, stated = words(writing.language), case.found, case.statement
    inside = case.payload["ledger"]
    return [
        [w["document"], f"{case.payload['id']}, {stated['format']}, {stated['made_by']}"],
        [w["as_of"], writing.stamp(stated["as_of"])],
        [w["statement_digest"], pairs(digest)],
        [w["ledger"], stated["ledger"]],
        [w["key"], pairs(hashlib.sha256(f"{case.key}\n".encode()).hexdigest())],
        [w["range"], f"{found.start.size} – {found.end.size - 1}"],
        [w["entries"], f"{inside['first']} – {inside['last']}"],
        [w["checkpoints"], str(len(found.checkpoints))],
        [w["last_root"], found.end.note.split("\n")[2]],
    ]


def tokens(case: Case, seen: Sightings, writing: Writing) -> list[list[str]]:
    """Return a row for each timestamp token: whose, when, which, and over which entries."""
    w, rows = words(writing.language), []
    for token in case.found.tokens:
        told: dict[str, Any] = seen.tokens.get(token.entry, {})
        whose = [token.authority, *(str(told[key]) for key in ("signer", "policy") if told.get(key))]
        time = writing.both(token.time)
        if "accuracy_ms" in told:
            time += f" ± {told['accuracy_ms']} ms"
        if told.get("distrust"):
            whose.append(w["token_distrusted"])
        rows.append(["; ".join(whose), time, str(told.get("serial", "–")), f"0 – {token.checkpoint - 1}"])
    return rows


def outside(case: Case, seen: Sightings, writing: Writing) -> str:
    """Say between which times of others the record was written, and how far these are to be trusted."""
    times, w = case.statement["outside_times"], words(writing.language)
    a, b = times["not_before"], times["not_after"]
    kind = {(True, True): "both", (True, False): "before", (False, True): "after", (False, False): "none"}
    text = str(w[f"outside_{kind[bool(a), bool(b)]}"])
    names = ", ".join(dict.fromkeys(token.authority for token in case.found.tokens))
    told = text.format(a=a and writing.stamp(a), b=b and writing.stamp(b, up=True), names=names)
    doubted = {token.authority for token in case.found.tokens if seen.tokens.get(token.entry, {}).get("distrust")}
    return told + (" " + w["outside_distrusted"].format(names=", ".join(sorted(doubted))) if doubted else "")
